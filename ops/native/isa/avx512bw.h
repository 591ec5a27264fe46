// AVX-512 with bytes and words (BW), and vectors of fewer bits (VL).
#pragma once
#include <immintrin.h>

#include "kernel.h"

#define ONNXPTQ_AVX512 1  // vectors are __m512
#define ONNXPTQ_NARROW 1

namespace onnxptq {
namespace {

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

constexpr int kRows = 12, kColumns = 32;
using V = __m512i;
inline V zero_v() { return _mm512_setzero_si512(); }
inline V load_v(const void* p) { return _mm512_loadu_si512(p); }
inline void store_v(void* p, V v) { _mm512_storeu_si512(p, v); }
inline V word_v(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
inline V add32(V a, V b) { return _mm512_add_epi32(a, b); }
inline V add16(V a, V b) { return _mm512_add_epi16(a, b); }
inline V bytes_to_pairs(V u, V s) { return _mm512_maddubs_epi16(u, s); }
inline V pairs_to_words(V a, V b) { return _mm512_madd_epi16(a, b); }
inline V ones16() { return _mm512_set1_epi16(1); }
constexpr int kMostNarrow = 255;  // the greatest unsigned code that products of bytes can take

}  // namespace
}  // namespace onnxptq
