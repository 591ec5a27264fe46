// The few vector types and operations that kernels are written in, once per instruction set. `F` holds kLanes floats,
// `I` as many int32, `M` a truth value for each; arithmetic operators work on F and I as they are (GCC and Clang
// vectors).
#pragma once
#include "kernel.h"

// isa/NAME.h holds them, the operations of gemm.h, and macros that say what there is besides.
#include ONNXPTQ_HEADER

namespace onnxptq {
namespace {

// Doubles, as many as F has floats.
using Half = __attribute__((vector_size(kLanes / 2 * 8))) double;
struct D {
  Half low, high;
};
#if defined(ONNXPTQ_AVX512)
inline D widen(F a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))};
}
#elif defined(ONNXPTQ_AVX2)
inline D widen(F a) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))};
}
#else
inline D widen(F a) { return {Half{a[0], a[1]}, Half{a[2], a[3]}}; }
#endif
inline double sum(D a) {
  double s = 0;
  for (int i = 0; i < kLanes / 2; ++i) s += a.low[i];
  for (int i = 0; i < kLanes / 2; ++i) s += a.high[i];
  return s;
}
inline void store(double* p, D a) { memcpy(p, &a, sizeof(a)); }

#if !defined(ONNXPTQ_AVX512)
inline float sum(F a) {
  float s = a[0];
  for (int i = 1; i < kLanes; ++i) s += a[i];
  return s;
}
inline int32_t sum(I a) {
  int32_t s = a[0];
  for (int i = 1; i < kLanes; ++i) s += a[i];
  return s;
}
inline float lowest(F a) {
  float s = a[0];
  for (int i = 1; i < kLanes; ++i) s = a[i] < s ? a[i] : s;
  return s;
}
inline float highest(F a) {
  float s = a[0];
  for (int i = 1; i < kLanes; ++i) s = a[i] > s ? a[i] : s;
  return s;
}
// a * 2^n for whole n; zero below the normal range, infinity above.
inline F scale_by_power(F a, F n) {
  I e = to_int(max(min(n, set(254.0f)), set(-252.0f)));
  I half = e >> 1;
  return a * floats((half + 127) << 23) * floats((e - half + 127) << 23);
}
#endif

// A table of up to 256 floats, looked up by code.
struct Lookup {
#if defined(ONNXPTQ_AVX512)
  F part[4];
#endif
  alignas(64) float all[256];
  int bits;
};
inline void fill(Lookup* table, const float* values, int count, int bits, float rest) {
  table->bits = bits;
  for (int i = 0; i < 256; ++i) table->all[i] = i < count ? values[i] : rest;
#if defined(ONNXPTQ_AVX512)
  for (int i = 0; i < 4; ++i) table->part[i] = load(table->all + 16 * i);
#endif
}
inline F find(const Lookup& table, I index) {
#if defined(ONNXPTQ_AVX512)
  if (table.bits <= 4) return _mm512_permutexvar_ps(raw(index), table.part[0]);
  if (table.bits <= 6) {
    F low = _mm512_permutex2var_ps(table.part[0], raw(index), table.part[1]);
    if (table.bits == 5) return low;
    F high = _mm512_permutex2var_ps(table.part[2], raw(index), table.part[3]);
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(raw(index), _mm512_set1_epi32(32)), low, high);
  }
#endif
  return gather(table.all, index);
}

// Walks n elements: body(i, count) with count == kLanes but for the last step.
template <typename Full, typename Part>
inline void walk(int64_t n, Full full, Part part) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) full(i);
  if (i < n) part(i, static_cast<int>(n - i));
}

template <typename Body>
inline bool parallel(Call& call, int64_t count, size_t scratch, Body body) {
  return call.parallel(
      count, scratch, [](void* user, int64_t i, void* memory) { (*static_cast<Body*>(user))(i, memory); }, &body);
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace
}  // namespace onnxptq
