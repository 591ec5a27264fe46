// NEON with dot products of bytes of equal signedness: unsigned codes are moved to -128..127 and what that takes away
// is summed apart.
#pragma once
#include "isa/arm.h"

#define ONNXPTQ_DOT 1
#define ONNXPTQ_TILE 1  // a tile of its own

namespace onnxptq {
namespace {

constexpr int kRows = 8, kColumns = 8;

// One tile of all rows: those that are missing are zero, and are not stored.
template <bool signed_a>
void tile_dot(const char* a, const char* b, int64_t steps, int rows, int32_t* c, bool add) {
  const int8x16_t flip = vdupq_n_s8(-128), ones = vdupq_n_s8(1);
  int32x4_t acc[kRows][2], gone[2] = {zero_v(), zero_v()};
#define ONNXPTQ_ROWS(X) X(0, 0, 0) X(1, 0, 1) X(2, 0, 2) X(3, 0, 3) X(4, 1, 0) X(5, 1, 1) X(6, 1, 2) X(7, 1, 3)
#define ONNXPTQ_START(row, half, lane) acc[row][0] = acc[row][1] = zero_v();
  ONNXPTQ_ROWS(ONNXPTQ_START)
  for (; steps > 0; --steps, a += 4 * kRows, b += 4 * kColumns) {
    int8x16_t left[2] = {vreinterpretq_s8_s32(load_v(a)), vreinterpretq_s8_s32(load_v(a + 16))};
    int8x16_t right[2] = {vreinterpretq_s8_s32(load_v(b)), vreinterpretq_s8_s32(load_v(b + 16))};
    int8x16_t* coded = signed_a ? right : left;
    gone[0] = vdotq_s32(gone[0], ones, signed_a ? left[0] : right[0]);
    gone[1] = vdotq_s32(gone[1], ones, signed_a ? left[1] : right[1]);
    coded[0] = veorq_s8(coded[0], flip);
    coded[1] = veorq_s8(coded[1], flip);
#define ONNXPTQ_STEP(row, half, lane)                                     \
  acc[row][0] = vdotq_laneq_s32(acc[row][0], right[0], left[half], lane); \
  acc[row][1] = vdotq_laneq_s32(acc[row][1], right[1], left[half], lane);
    ONNXPTQ_ROWS(ONNXPTQ_STEP)
  }
  gone[0] = vshlq_n_s32(gone[0], 7), gone[1] = vshlq_n_s32(gone[1], 7);
#define ONNXPTQ_END(row, half, lane)                                                     \
  if (row < rows) {                                                                      \
    int32_t* to = c + row * kColumns;                                                    \
    const V first = signed_a ? vdupq_laneq_s32(gone[half], lane) : gone[0];              \
    const V second = signed_a ? first : gone[1];                                         \
    store_v(to, acc[row][0] + first + (add ? load_v(to) : zero_v()));                    \
    store_v(to + kLanes, acc[row][1] + second + (add ? load_v(to + kLanes) : zero_v())); \
  }
  ONNXPTQ_ROWS(ONNXPTQ_END)
#undef ONNXPTQ_ROWS
#undef ONNXPTQ_START
#undef ONNXPTQ_STEP
#undef ONNXPTQ_END
}

}  // namespace
}  // namespace onnxptq
