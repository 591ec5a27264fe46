// Products in float: for rows that stay float, or whose values are no multiples of one scale, times packed weight codes
// that are decoded a piece at a time.
#pragma once
#include "functions.h"
#include "gemm.h"
#include "packed.h"

namespace onnxptq {
namespace {

constexpr int64_t kPieceDepth = 128;  // k whose decoded weights stay in the first-level cache

// C[rows][kColumns] += A[rows][k] B[k][kColumns] of panels [k][kRows] and [k][kColumns].
template <int rows>
void tile_float_rows(const float* a, const float* b, int64_t depth, float* c) {
  F acc[rows][kVectors];
  ONNXPTQ_UNROLL
  for (int i = 0; i < rows; ++i) {
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) acc[i][j] = load(c + i * kColumns + j * kLanes);
  }
  for (int64_t k = 0; k < depth; ++k) {
    F right[kVectors];
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) right[j] = load(b + j * kLanes);
    ONNXPTQ_UNROLL
    for (int i = 0; i < rows; ++i) {
      F left = set(a[i]);
      ONNXPTQ_UNROLL
      for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(left, right[j], acc[i][j]);
    }
    a += kRows;
    b += kColumns;
  }
  ONNXPTQ_UNROLL
  for (int i = 0; i < rows; ++i) {
    ONNXPTQ_UNROLL
    for (int j = 0; j < kVectors; ++j) store(c + i * kColumns + j * kLanes, acc[i][j]);
  }
}

inline void tile_float(const float* a, const float* b, int64_t depth, int rows, float* c) {
  if constexpr (kRows > 8)
    if (rows > 8) return tile_float_rows<12>(a, b, depth, c);
  if constexpr (kRows > 4)
    if (rows > 4) return tile_float_rows<8>(a, b, depth, c);
  tile_float_rows<4>(a, b, depth, c);
}

#if defined(ONNXPTQ_AVX512)
// Floats of 16 neighbouring k of four rows, side by side for each k.
template <int width>
inline void scatter_floats(const F* v, float* to) {
  const F ab = _mm512_unpacklo_ps(v[0], v[1]), cd = _mm512_unpacklo_ps(v[2], v[3]);
  const F ef = _mm512_unpackhi_ps(v[0], v[1]), gh = _mm512_unpackhi_ps(v[2], v[3]);
  const F k[4] = {_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee), _mm512_shuffle_ps(ef, gh, 0x44),
                  _mm512_shuffle_ps(ef, gh, 0xee)};
  for (int i = 0; i < 4; ++i) {  // lane j of k[i] belongs to 4 j + i
    _mm_storeu_ps(to + i * width, _mm512_castps512_ps128(k[i]));
    _mm_storeu_ps(to + (4 + i) * width, _mm512_extractf32x4_ps(k[i], 1));
    _mm_storeu_ps(to + (8 + i) * width, _mm512_extractf32x4_ps(k[i], 2));
    _mm_storeu_ps(to + (12 + i) * width, _mm512_extractf32x4_ps(k[i], 3));
  }
}
#else
template <int width>
inline void scatter_floats(const F* v, float* to) {
  for (int i = 0; i < kLanes; ++i)
    for (int r = 0; r < 4; ++r) to[i * width + r] = v[r][i];
}
#endif

// A panel [k][width] of up to `width` rows of values(row, values); rows past the end are whatever.
template <int width = kRows, typename Values>
inline void pack_floats(const float* x, int64_t stride, int rows, int64_t k, Values values, float* panel) {
  for (int row = 0; row < rows; row += 4) {
    const float* from[4];
    for (int r = 0; r < 4; ++r) from[r] = x + (row + r < rows ? row + r : row) * stride;
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      F v[4];
      for (int r = 0; r < 4; ++r) v[r] = values(row + r, load(from[r] + i));
      scatter_floats<width>(v, panel + i * width + row);
    }
    if (i < k) {
      const int n = static_cast<int>(k - i);
      for (int r = 0; r < 4; ++r) {
        float lanes[kLanes];
        store(lanes, values(row + r, load(from[r] + i, n)));
        for (int j = 0; j < n; ++j) panel[(i + j) * width + row + r] = lanes[j];
      }
    }
  }
}

// Decodes k in [from, from + count) of one panel of narrow codes (one group) to [count][kColumns].
inline void decode_panel(const Packed& w, int64_t column, int64_t group, int64_t step, int64_t count, float* out) {
  const char* words = w.panels + column / kColumns * w.panel_bytes() + step * kColumns * 4;
  for (int j = 0; j < kColumns; j += kLanes) {
    const int64_t at = group * w.columns + column + j;
    const F scale = load(w.scale + at);
    const I zero = load(w.minus_zero + at);
    for (int64_t i = 0; i < count; i += 4) {
      const I word = load(reinterpret_cast<const int32_t*>(words + (i / 4 * kColumns + j) * 4));
      const I code[4] = {(word << 24) >> 24, (word << 16) >> 24, (word << 8) >> 24, word >> 24};
      for (int e = 0; e < 4 && i + e < count; ++e)
        store(out + (i + e) * kColumns + j, to_float(code[e] + zero) * scale);
    }
  }
}

// y[m][n] = epilogue(values(x) w + bias), w packed narrow and not centered.
template <int epilogue, typename Values>
bool run_float_product(Call& call, Values values, const float* x, int64_t m, const Packed& w, const float* bias,
                       float* y) {
  if (m == 0 || w.n == 0) return true;
  constexpr int64_t kRowsOfTask = 8 * kRows;
  const int64_t most = m < kRowsOfTask ? round_up(m, kRows) : kRowsOfTask, blocks = ceil_div(m, most);
  const int64_t panels = w.columns / kColumns;
  int64_t pieces = ceil_div(16, blocks);
  if (pieces > panels) pieces = panels;
  const size_t left = static_cast<size_t>(most * w.k), right = kPieceDepth * kColumns,
               sums = static_cast<size_t>(most) * kColumns;
  return parallel(call, blocks * pieces, (left + right + sums) * sizeof(float), [&](int64_t item, void* memory) {
    float* a = static_cast<float*>(memory);
    float *c = a + left, *b = c + sums;
    const int64_t from = item / pieces * most, count = m - from < most ? m - from : most, piece = item % pieces;
    for (int64_t row = 0; row < count; row += kRows) {
      const int rows = count - row < kRows ? static_cast<int>(count - row) : kRows;
      pack_floats(x + (from + row) * w.k, w.k, rows, w.k, [&](int, F v) { return values(v); }, a + row * w.k);
    }
    for (int64_t panel = piece * panels / pieces; panel < (piece + 1) * panels / pieces; ++panel) {
      const int64_t column = panel * kColumns, valid = w.n - column < kColumns ? w.n - column : kColumns;
      memset(c, 0, sums * sizeof(float));
      int64_t step = 0;
      for (int64_t g = 0; g < w.groups; ++g) {
        const int64_t start = g * w.group, depth = w.depth(g);
        for (int64_t k = 0; k < depth; k += kPieceDepth) {
          const int64_t now = depth - k < kPieceDepth ? depth - k : kPieceDepth;
          decode_panel(w, column, g, step + k / 4, now, b);
          for (int64_t row = 0; row < count; row += kRows)
            tile_float(a + row * w.k + (start + k) * kRows, b, now,
                       count - row < kRows ? static_cast<int>(count - row) : kRows, c + row * kColumns);
        }
        step += w.product.steps(depth);
      }
      for (int64_t row = 0; row < count; ++row) {
        float* to = y + (from + row) * w.n + column;
        for (int j = 0; j < valid; j += kLanes) {
          const int n = valid - j < kLanes ? static_cast<int>(valid - j) : kLanes;
          F v = load(c + row * kColumns + j);
          if (bias) v += load(bias + column + j, n);
          store(to + j, finish<epilogue>(v), n);
        }
      }
    }
  });
}

}  // namespace
}  // namespace onnxptq
