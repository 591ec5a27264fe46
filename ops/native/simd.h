// The few vector types and operations that kernels are written in, once per instruction set. `F` holds kLanes floats,
// `I` as many int32, `M` a truth value for each; arithmetic operators work on F and I as they are (GCC and Clang
// vectors).
#pragma once
#include "kernel.h"

#if defined(ONNXPTQ_avx2) || defined(ONNXPTQ_avx512bw) || defined(ONNXPTQ_avx512vnni)
#include <immintrin.h>
#elif defined(ONNXPTQ_neon) || defined(ONNXPTQ_dotprod)
#include "simd_neon.h"
#endif

namespace onnxptq {
namespace {

#if defined(ONNXPTQ_avx512bw) || defined(ONNXPTQ_avx512vnni)

constexpr int kLanes = 16;
using F = __m512;
using I = __attribute__((vector_size(64))) int32_t;
using M = __mmask16;

inline __m512i raw(I a) { return reinterpret_cast<__m512i>(a); }
inline I ints(__m512i a) { return reinterpret_cast<I>(a); }
inline M first(int n) { return static_cast<M>((1u << n) - 1); }
inline F set(float x) { return _mm512_set1_ps(x); }
inline I set(int32_t x) { return ints(_mm512_set1_epi32(x)); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline I load(const int32_t* p) { return ints(_mm512_loadu_si512(p)); }
inline I load(const int32_t* p, int n) { return ints(_mm512_maskz_loadu_epi32(first(n), p)); }
inline I load(const uint8_t* p) {
  return ints(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline I load(const uint8_t* p, int n) { return ints(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p))); }
inline I load(const int8_t* p) {
  return ints(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline I load(const int8_t* p, int n) { return ints(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(n), p))); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline void store(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
inline void store(int32_t* p, I x) { _mm512_storeu_si512(p, raw(x)); }
inline void store(uint8_t* p, I x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(raw(x))); }
inline void store(uint8_t* p, I x, int n) { _mm512_mask_cvtepi32_storeu_epi8(p, first(n), raw(x)); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }  // b where a is NaN
inline F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where a is NaN
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F rint(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I to_int(F a) { return ints(_mm512_cvtps_epi32(a)); }
inline I floor_int(F a) { return ints(_mm512_cvt_roundps_epi32(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(raw(a)); }
inline M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline M less_equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline M is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline M any_of(M a, M b) { return a | b; }
inline M both(M a, M b) { return a & b; }
inline bool any(M m) { return m != 0; }
inline int count(M m) { return __builtin_popcount(m); }
inline F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
inline I select(M m, I a, I b) { return ints(_mm512_mask_blend_epi32(m, raw(b), raw(a))); }
inline I min(I a, I b) { return ints(_mm512_min_epi32(raw(a), raw(b))); }
inline I max(I a, I b) { return ints(_mm512_max_epi32(raw(a), raw(b))); }
inline I bits(F a) { return ints(_mm512_castps_si512(a)); }
inline F floats(I a) { return _mm512_castsi512_ps(raw(a)); }
inline F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }
inline F gather(const float* table, I index) { return _mm512_i32gather_ps(raw(index), table, 4); }
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float lowest(F a) { return _mm512_reduce_min_ps(a); }
inline float highest(F a) { return _mm512_reduce_max_ps(a); }
inline int32_t sum(I a) { return _mm512_reduce_add_epi32(raw(a)); }

#elif defined(ONNXPTQ_avx2)

constexpr int kLanes = 8;
using F = __m256;
using I = __attribute__((vector_size(32))) int32_t;
using M = __m256;

inline __m256i raw(I a) { return reinterpret_cast<__m256i>(a); }
inline I ints(__m256i a) { return reinterpret_cast<I>(a); }
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F set(float x) { return _mm256_set1_ps(x); }
inline I set(int32_t x) { return ints(_mm256_set1_epi32(x)); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
inline I load(const int32_t* p) { return ints(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline I load(const int32_t* p, int n) { return ints(_mm256_maskload_epi32(p, first(n))); }
inline I load(const uint8_t* p) {
  return ints(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline I load(const int8_t* p) {
  return ints(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline I load(const uint8_t* p, int n) {
  uint8_t b[8] = {};
  memcpy(b, p, static_cast<size_t>(n));
  return load(b);
}
inline I load(const int8_t* p, int n) {
  int8_t b[8] = {};
  memcpy(b, p, static_cast<size_t>(n));
  return load(b);
}
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline void store(float* p, F x, int n) { _mm256_maskstore_ps(p, first(n), x); }
inline void store(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), raw(x)); }
inline void store(uint8_t* p, I x) {
  __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(raw(x)), _mm256_extracti128_si256(raw(x), 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline void store(uint8_t* p, I x, int n) {
  uint8_t b[8];
  store(b, x);
  memcpy(p, b, static_cast<size_t>(n));
}
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline F rint(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline I to_int(F a) { return ints(_mm256_cvtps_epi32(a)); }
inline I floor_int(F a) { return ints(_mm256_cvtps_epi32(_mm256_floor_ps(a))); }
inline F to_float(I a) { return _mm256_cvtepi32_ps(raw(a)); }
inline M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline M less_equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
inline M is_nan(F a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
inline M any_of(M a, M b) { return _mm256_or_ps(a, b); }
inline M both(M a, M b) { return _mm256_and_ps(a, b); }
inline bool any(M m) { return _mm256_movemask_ps(m) != 0; }
inline int count(M m) { return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(m))); }
inline F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
inline I select(M m, I a, I b) { return ints(_mm256_blendv_epi8(raw(b), raw(a), _mm256_castps_si256(m))); }
inline I min(I a, I b) { return ints(_mm256_min_epi32(raw(a), raw(b))); }
inline I max(I a, I b) { return ints(_mm256_max_epi32(raw(a), raw(b))); }
inline I bits(F a) { return ints(_mm256_castps_si256(a)); }
inline F floats(I a) { return _mm256_castsi256_ps(raw(a)); }
inline F gather(const float* table, I index) { return _mm256_i32gather_ps(table, raw(index), 4); }

#elif !defined(ONNXPTQ_neon) && \
    !defined(ONNXPTQ_dotprod)  // portable: 128-bit vectors of the compiler, SSE2 or NEON underneath

constexpr int kLanes = 4;
using F = __attribute__((vector_size(16))) float;
using I = __attribute__((vector_size(16))) int32_t;
using M = I;

inline F set(float x) { return F{x, x, x, x}; }
inline I set(int32_t x) { return I{x, x, x, x}; }
template <typename V, typename T>
inline V load_as(const T* p, int n) {
  V v = {};
  for (int i = 0; i < n; ++i) v[i] = static_cast<decltype(+v[0])>(p[i]);
  return v;
}
inline F load(const float* p) {
  F v;
  memcpy(&v, p, sizeof(v));
  return v;
}
inline F load(const float* p, int n) { return load_as<F>(p, n); }
inline I load(const int32_t* p) {
  I v;
  memcpy(&v, p, sizeof(v));
  return v;
}
inline I load(const int32_t* p, int n) { return load_as<I>(p, n); }
inline I load(const uint8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
inline I load(const int8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
inline I load(const uint8_t* p, int n) { return load_as<I>(p, n); }
inline I load(const int8_t* p, int n) { return load_as<I>(p, n); }
inline void store(float* p, F x) { memcpy(p, &x, sizeof(x)); }
inline void store(float* p, F x, int n) { memcpy(p, &x, static_cast<size_t>(n) * 4); }
inline void store(int32_t* p, I x) { memcpy(p, &x, sizeof(x)); }
inline void store(uint8_t* p, I x, int n) {
  for (int i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(x[i]);
}
inline void store(uint8_t* p, I x) { store(p, x, 4); }
inline I select(M m, I a, I b) { return (m & a) | (~m & b); }
inline I bits(F a) { return reinterpret_cast<I>(a); }
inline F floats(I a) { return reinterpret_cast<F>(a); }
inline F select(M m, F a, F b) { return floats(select(m, bits(a), bits(b))); }
inline F fma(F a, F b, F c) { return a * b + c; }
inline F fnma(F a, F b, F c) { return c - a * b; }
inline M less(F a, F b) { return a < b; }
inline M less_equal(F a, F b) { return a <= b; }
inline M is_nan(F a) { return a != a; }
inline M any_of(M a, M b) { return a | b; }
inline M both(M a, M b) { return a & b; }
inline bool any(M m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
inline int count(M m) { return -(m[0] + m[1] + m[2] + m[3]); }
inline F min(F a, F b) { return select(a < b, a, b); }
inline F max(F a, F b) { return select(a > b, a, b); }
inline I min(I a, I b) { return select(a < b, a, b); }
inline I max(I a, I b) { return select(a > b, a, b); }
inline F abs(F a) { return floats(bits(a) & 0x7fffffff); }
inline F rint(F a) {  // exact for |a| < 2^22; larger values are integers up to a small error that no caller sees
  F magic = floats((bits(a) & static_cast<int32_t>(0x80000000u)) | bits(set(8388608.0f)));
  return select(less(abs(a), set(8388608.0f)), (a + magic) - magic, a);
}
inline I to_int(F a) { return __builtin_convertvector(rint(a), I); }
inline I floor_int(F a) {
  I n = __builtin_convertvector(a, I);
  return n + (__builtin_convertvector(n, F) > a);
}
inline F to_float(I a) { return __builtin_convertvector(a, F); }
inline F gather(const float* table, I i) { return F{table[i[0]], table[i[1]], table[i[2]], table[i[3]]}; }

#endif

// Doubles, as many as F has floats.
using Half = __attribute__((vector_size(kLanes / 2 * 8))) double;
struct D {
  Half low, high;
};
#if defined(ONNXPTQ_avx512bw) || defined(ONNXPTQ_avx512vnni)
inline D widen(F a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))};
}
#elif defined(ONNXPTQ_avx2)
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

#if !defined(ONNXPTQ_avx512bw) && !defined(ONNXPTQ_avx512vnni)
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
#if defined(ONNXPTQ_avx512bw) || defined(ONNXPTQ_avx512vnni)
  F part[4];
#endif
  alignas(64) float all[256];
  int bits;
};
inline void fill(Lookup* table, const float* values, int count, int bits, float rest) {
  table->bits = bits;
  for (int i = 0; i < 256; ++i) table->all[i] = i < count ? values[i] : rest;
#if defined(ONNXPTQ_avx512bw) || defined(ONNXPTQ_avx512vnni)
  for (int i = 0; i < 4; ++i) table->part[i] = load(table->all + 16 * i);
#endif
}
inline F find(const Lookup& table, I index) {
#if defined(ONNXPTQ_avx512bw) || defined(ONNXPTQ_avx512vnni)
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
