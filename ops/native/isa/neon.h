// Plain NEON multiplies bytes of equal signedness: unsigned codes above 127 go the wide way.
#pragma once
#include "isa/arm.h"

#define ONNXPTQ_NARROW 1

namespace onnxptq {
namespace {

constexpr int kRows = 4, kColumns = 8;
constexpr int kMostNarrow = 127;
inline V add16(V a, V b) {
  return vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}
inline V bytes_to_pairs(V a, V b) {
  const int8x16_t x = vreinterpretq_s8_s32(a), y = vreinterpretq_s8_s32(b);
  return vreinterpretq_s32_s16(vpaddq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)), vmull_high_s8(x, y)));
}
inline V ones16() { return vreinterpretq_s32_s16(vdupq_n_s16(1)); }

}  // namespace
}  // namespace onnxptq
