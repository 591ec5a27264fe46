// What NEON with and without dot products share: 128-bit vectors of aarch64.
#pragma once
#include <arm_neon.h>

#include "kernel.h"

namespace onnxptq {
namespace {

constexpr int kLanes = 4;
using F = float32x4_t;
using I = int32x4_t;
using M = uint32x4_t;

inline F set(float x) { return vdupq_n_f32(x); }
inline I set(int32_t x) { return vdupq_n_s32(x); }
inline F load(const float* p) { return vld1q_f32(p); }
inline I load(const int32_t* p) { return vld1q_s32(p); }
inline I load(const uint8_t* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word)))));
}
inline I load(const int8_t* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(word))));
}
template <typename V, typename T>
inline V load_part(const T* p, int n) {
  T b[4] = {};
  memcpy(b, p, static_cast<size_t>(n) * sizeof(T));
  return load(b);
}
inline F load(const float* p, int n) { return load_part<F>(p, n); }
inline I load(const int32_t* p, int n) { return load_part<I>(p, n); }
inline I load(const uint8_t* p, int n) { return load_part<I>(p, n); }
inline I load(const int8_t* p, int n) { return load_part<I>(p, n); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline void store(float* p, F x, int n) { memcpy(p, &x, static_cast<size_t>(n) * 4); }
inline void store(int32_t* p, I x) { vst1q_s32(p, x); }
inline uint32_t bytes(I x) {
  const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(x));
  return vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);
}
inline void store(uint8_t* p, I x) {
  const uint32_t word = bytes(x);
  memcpy(p, &word, 4);
}
inline void store(uint8_t* p, I x, int n) {
  const uint32_t word = bytes(x);
  memcpy(p, &word, static_cast<size_t>(n));
}
inline I select(M m, I a, I b) { return vbslq_s32(m, a, b); }
inline F select(M m, F a, F b) { return vbslq_f32(m, a, b); }
inline I bits(F a) { return vreinterpretq_s32_f32(a); }
inline F floats(I a) { return vreinterpretq_f32_s32(a); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
inline M less(F a, F b) { return vcltq_f32(a, b); }
inline M less_equal(F a, F b) { return vcleq_f32(a, b); }
inline M is_nan(F a) { return vmvnq_u32(vceqq_f32(a, a)); }
inline M any_of(M a, M b) { return vorrq_u32(a, b); }
inline M both(M a, M b) { return vandq_u32(a, b); }
inline bool any(M m) { return vmaxvq_u32(m) != 0; }
inline int count(M m) { return static_cast<int>(vaddvq_u32(vshrq_n_u32(m, 31))); }
inline F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }  // b where a is NaN
inline F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // b where a is NaN
inline I min(I a, I b) { return vminq_s32(a, b); }
inline I max(I a, I b) { return vmaxq_s32(a, b); }
inline F abs(F a) { return vabsq_f32(a); }
inline F rint(F a) { return vrndnq_f32(a); }
inline I to_int(F a) { return vcvtnq_s32_f32(a); }
inline I floor_int(F a) { return vcvtmq_s32_f32(a); }
inline F to_float(I a) { return vcvtq_f32_s32(a); }
inline F gather(const float* table, I i) { return F{table[i[0]], table[i[1]], table[i[2]], table[i[3]]}; }

using V = int32x4_t;
inline V zero_v() { return vdupq_n_s32(0); }
inline V load_v(const void* p) { return vld1q_s32(static_cast<const int32_t*>(p)); }
inline void store_v(void* p, V v) { vst1q_s32(static_cast<int32_t*>(p), v); }
inline V word_v(const void* p) { return vld1q_dup_s32(static_cast<const int32_t*>(p)); }
inline V add32(V a, V b) { return vaddq_s32(a, b); }
inline V pairs_to_words(V a, V b) {
  const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
  return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}

}  // namespace
}  // namespace onnxptq
