// AVX2 with fused multiply and add.
#pragma once
#include <immintrin.h>

#include "kernel.h"

#define ONNXPTQ_AVX2 1  // vectors are __m256
#define ONNXPTQ_NARROW 1

namespace onnxptq {
namespace {

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

constexpr int kRows = 4, kColumns = 16;
using V = __m256i;
inline V zero_v() { return _mm256_setzero_si256(); }
inline V load_v(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_v(void* p, V v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline V word_v(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}
inline V add32(V a, V b) { return _mm256_add_epi32(a, b); }
inline V add16(V a, V b) { return _mm256_add_epi16(a, b); }
inline V bytes_to_pairs(V u, V s) { return _mm256_maddubs_epi16(u, s); }
inline V pairs_to_words(V a, V b) { return _mm256_madd_epi16(a, b); }
inline V ones16() { return _mm256_set1_epi16(1); }
constexpr int kMostNarrow = 255;  // the greatest unsigned code that products of bytes can take

}  // namespace
}  // namespace onnxptq
