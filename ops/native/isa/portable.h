// 128-bit vectors of the compiler, SSE2 or NEON underneath.
#pragma once
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernel.h"

namespace onnxptq {
namespace {

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

constexpr int kRows = 4, kColumns = 8;
using V = I;
inline V zero_v() { return set(0); }
inline V load_v(const void* p) { return load(static_cast<const int32_t*>(p)); }
inline void store_v(void* p, V v) { memcpy(p, &v, sizeof(v)); }
inline V word_v(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return set(word);
}
inline V add32(V a, V b) { return a + b; }
#if defined(__SSE2__)
inline V pairs_to_words(V a, V b) {
  return reinterpret_cast<V>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
#else
inline V pairs_to_words(V a, V b) { return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16); }
#endif

}  // namespace
}  // namespace onnxptq
