// Integer products of unsigned and signed codes on packed panels: C[row][column] (+)= sum over k of A[row][k]
// B[k][column].
//
// Both operands are cut into 32-bit words, each holding the codes of 4 neighbouring k (`narrow`: bytes) or of 2
// (`wide`: 16-bit words). A panel of A is [steps][kRows] words, a panel of B [steps][kColumns] words; missing rows,
// columns and k are zero. One of the operands holds unsigned codes, the other signed ones. Every sum is exact: 16-bit
// partial sums are widened before they could overflow, and codes that leave no room for that go the wide way.
#pragma once
#include "simd.h"

namespace onnxptq {
namespace {

constexpr int kVectors = kColumns / kLanes;  // of a row of C

// How two operands are multiplied.
struct Product {
  bool wide;
  int depth;  // steps until 16-bit sums must be widened; 0: summed in 32 bits at once

  int per_step() const { return wide ? 2 : 4; }
  int64_t steps(int64_t k) const { return ceil_div(k, per_step()); }
};

// The product of codes 0..high with signed codes of at most `magnitude`.
inline Product product_of(int high, int magnitude) {
#if defined(ONNXPTQ_DOT)
  (void)high, (void)magnitude;
  return {false, 0};
#elif defined(ONNXPTQ_NARROW)
  const int step = 2 * high * magnitude;
  if (step <= 32767 && high <= kMostNarrow) return {false, step ? 32767 / step : 1 << 20};
  return {true, 0};
#else
  (void)high, (void)magnitude;
  return {true, 0};
#endif
}

// Every loop over accumulators is unrolled by pragma: else GCC 12 keeps them in memory and the speed halves.
constexpr int kAhead = 2048;  // bytes
#define ONNXPTQ_UNROLL _Pragma("GCC unroll 32")

// Sums in 32 bits at once. kSigned tells which operand holds the signed codes: B (weights on the right) or A.
template <int rows, bool wide, bool signed_a>
void tile_words(const char* a, const char* b, int64_t steps, int32_t* c, bool add) {
  V acc[rows][kVectors];
  ONNXPTQ_UNROLL
  for (int i = 0; i < rows; ++i) {
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) acc[i][j] = zero_v();
  }
  for (int64_t k = 0; k < steps; ++k) {
    V right[kVectors];
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) right[j] = load_v(b + j * sizeof(V));
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) __builtin_prefetch(b + kAhead + j * sizeof(V));
    ONNXPTQ_UNROLL
    for (int i = 0; i < rows; ++i) {
      V left = word_v(a + 4 * i);
      ONNXPTQ_UNROLL
      for (int j = 0; j < kVectors; ++j) {
#if defined(ONNXPTQ_DOT)
        acc[i][j] = signed_a ? dot(acc[i][j], right[j], left) : dot(acc[i][j], left, right[j]);
#elif defined(ONNXPTQ_NARROW)
        if (wide)
          acc[i][j] = add32(acc[i][j], pairs_to_words(left, right[j]));
        else
          acc[i][j] = add32(
              acc[i][j],
              pairs_to_words(signed_a ? bytes_to_pairs(right[j], left) : bytes_to_pairs(left, right[j]), ones16()));
#else
        acc[i][j] = add32(acc[i][j], pairs_to_words(left, right[j]));
#endif
      }
    }
    a += 4 * kRows;
    b += 4 * kColumns;
  }
  if (add) {
    ONNXPTQ_UNROLL
    for (int i = 0; i < rows; ++i) {
      ONNXPTQ_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] = add32(acc[i][j], load_v(c + i * kColumns + j * kLanes));
    }
  }
  ONNXPTQ_UNROLL
  for (int i = 0; i < rows; ++i) {
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) store_v(c + i * kColumns + j * kLanes, acc[i][j]);
  }
}

#if defined(ONNXPTQ_NARROW) && !defined(ONNXPTQ_DOT)
// Sums `depth` steps in 16 bits before they are widened.
template <int rows, bool signed_a>
void tile_pairs(const char* a, const char* b, int64_t steps, int depth, int32_t* c, bool add) {
  V acc[rows][kVectors];
  ONNXPTQ_UNROLL
  for (int i = 0; i < rows; ++i) {
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) acc[i][j] = add ? load_v(c + i * kColumns + j * kLanes) : zero_v();
  }
  while (steps > 0) {
    int64_t now = steps < depth ? steps : depth;
    steps -= now;
    V pairs[rows][kVectors];
    ONNXPTQ_UNROLL
    for (int i = 0; i < rows; ++i) {
      ONNXPTQ_UNROLL
      for (int j = 0; j < kVectors; ++j) pairs[i][j] = zero_v();
    }
    for (; now > 0; --now) {
      V right[kVectors];
      ONNXPTQ_UNROLL
      for (int j = 0; j < kVectors; ++j) right[j] = load_v(b + j * sizeof(V));
      ONNXPTQ_UNROLL
      for (int i = 0; i < rows; ++i) {
        V left = word_v(a + 4 * i);
        ONNXPTQ_UNROLL
        for (int j = 0; j < kVectors; ++j)
          pairs[i][j] = add16(pairs[i][j], signed_a ? bytes_to_pairs(right[j], left) : bytes_to_pairs(left, right[j]));
      }
      a += 4 * kRows;
      b += 4 * kColumns;
    }
    ONNXPTQ_UNROLL
    for (int i = 0; i < rows; ++i) {
      ONNXPTQ_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] = add32(acc[i][j], pairs_to_words(pairs[i][j], ones16()));
    }
  }
  ONNXPTQ_UNROLL
  for (int i = 0; i < rows; ++i) {
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) store_v(c + i * kColumns + j * kLanes, acc[i][j]);
  }
}
#endif

template <int rows, bool signed_a>
inline void tile_rows(const Product& product, const char* a, const char* b, int64_t steps, int32_t* c, bool add) {
#if defined(ONNXPTQ_NARROW) && !defined(ONNXPTQ_DOT)
  if (product.wide) return tile_words<rows, true, signed_a>(a, b, steps, c, add);
  if (product.depth >= 2) return tile_pairs<rows, signed_a>(a, b, steps, product.depth, c, add);
#else
  (void)product;
#endif
  tile_words<rows, false, signed_a>(a, b, steps, c, add);
}

// One tile of C, [rows][kColumns]; rows <= kRows.
template <bool signed_a>
void tile(const Product& product, const void* a_panel, const void* b_panel, int64_t steps, int rows, int32_t* c,
          bool add) {
  const char* a = static_cast<const char*>(a_panel);
  const char* b = static_cast<const char*>(b_panel);
#if defined(ONNXPTQ_TILE)
  (void)product;
  tile_dot<signed_a>(a, b, steps, rows, c, add);
#else
#if defined(ONNXPTQ_DOT)
  constexpr int kTogether = kRows;
#else
  constexpr int kTogether = kRows > 6 ? 6 : kRows;  // as many rows as leave their accumulators in registers
#endif
  for (; rows > 0; rows -= kTogether, a += 4 * kTogether, c += kTogether * kColumns) {
#define ONNXPTQ_CASE(n)                                                                 \
  case n:                                                                               \
    if constexpr (n <= kTogether) tile_rows<n, signed_a>(product, a, b, steps, c, add); \
    break;
    switch (rows < kTogether ? rows : kTogether) {
      ONNXPTQ_CASE(1)
      ONNXPTQ_CASE(2)
      ONNXPTQ_CASE(3)
      ONNXPTQ_CASE(4)
      ONNXPTQ_CASE(5)
      ONNXPTQ_CASE(6)
      ONNXPTQ_CASE(7)
      ONNXPTQ_CASE(8)
      ONNXPTQ_CASE(9)
      ONNXPTQ_CASE(10)
      ONNXPTQ_CASE(11)
      ONNXPTQ_CASE(12)
    }
#undef ONNXPTQ_CASE
  }
#endif
}

}  // namespace
}  // namespace onnxptq
