// Rows encoded on the fly, times packed weights: the driver that QLinear and QMatMul share.
#pragma once
#include "functions.h"
#include "packed.h"
#include "panel.h"
#include "uniform.h"

namespace onnxptq {
namespace {

// Rows as a scheme encoded them. A scheme writes a value as a sum of `parts`, each an unsigned code minus a zero point
// times a scale; most schemes have one part.
struct Block {
  int parts;
  int64_t rows;  // a multiple of kRows
  int64_t panel_bytes, groups;
  char* codes;    // [parts][rows / kRows] panels
  float* scale;   // [parts][rows]
  int32_t* zero;  // [parts][rows]
  int32_t* sums;  // [parts][groups][rows]: sums of codes

  static size_t bytes(const Packed& w, int parts, int64_t rows) {
    return static_cast<size_t>(parts * (rows / kRows * w.steps * kRows * 4 + rows * 4 * (2 + w.groups))) + 64;
  }
  Block(void* memory, const Packed& w, int parts_, int64_t rows_)
      : parts(parts_), rows(rows_), panel_bytes(w.steps * kRows * 4), groups(w.groups) {
    codes = static_cast<char*>(memory);
    scale = reinterpret_cast<float*>(codes + parts * (rows / kRows) * panel_bytes);
    zero = reinterpret_cast<int32_t*>(scale + parts * rows);
    sums = zero + parts * rows;
  }
  char* panel(int part, int64_t row) const { return codes + (part * (rows / kRows) + row / kRows) * panel_bytes; }
};

// Encodes rows [from, from + count) of the block; `from` and all but the last count are multiples of kRows.
template <typename Scheme>
void encode_rows(const Scheme& scheme, const float* x, int64_t stride, int64_t from, int64_t count, const Packed& w,
                 const Block& block) {
  for (int64_t row = from; row < from + count; row += kRows) {
    const int rows = from + count - row < kRows ? static_cast<int>(from + count - row) : kRows;
    scheme.encode(x + (row - from) * stride, stride, rows, row, w, block);
  }
}

// Where results go, and what is the same for all rows of a product.
struct Target {
  float* y;
  int64_t stride;
  const float* bias;      // [columns]
  const float* scale;     // [columns]: of the weights; times that of the rows where they share one
  const int32_t* offset;  // [columns]: minus the weights' sums; times the zero point that rows share
};

// The vectors of one part of a panel's columns, in registers for all rows of a tile.
template <bool corrected, bool shared>
struct Column {
  F scale, bias;
  I offset, zero;

  Column(const float* scales, const int32_t* offsets, const int32_t* zeros, const float* biases)
      : scale(load(scales)), bias(load(biases)), offset(load(offsets)), zero(corrected ? load(zeros) : I{}) {}

  // Sum of codes to value: scale_row * scale_column * (sum - corrections) + bias.
  F value(const int32_t* c, float row_scale, int32_t row_zero, int32_t row_sum) const {
    I acc = load(c) + (shared ? offset : set(row_zero) * offset);
    if (corrected) acc += set(row_sum) * zero;
    F v = to_float(acc);
    return fma(shared ? v : v * set(row_scale), scale, bias);
  }
};

// Multiplies rows [from, from + count) of the block by columns [first, last) (whole panels) of w.
template <int epilogue, bool corrected, bool shared>
void multiply_rows(const Block& block, int64_t from, int64_t count, const Packed& w, int64_t first, int64_t last,
                   const Target& target) {
  alignas(64) int32_t c[kRows * kColumns];
  for (int64_t column = first; column < last; column += kColumns) {
    const char* panel = w.panels + column / kColumns * w.panel_bytes();
    const int64_t valid = w.n - column < kColumns ? w.n - column : kColumns;
    for (int64_t row = from; row < from + count; row += kRows) {
      const int rows = from + count - row < kRows ? static_cast<int>(from + count - row) : kRows;
      for (int r = 0; r < rows; ++r)  // where the results go, fetched while they are computed
        for (int j = 0; j < kColumns; j += 16)
          __builtin_prefetch(target.y + (row - from + r) * target.stride + column + j, 1);
      tile<false>(w.product, block.panel(0, row), panel, w.steps, rows, c, false);
      for (int j = 0; j < valid; j += kLanes) {
        const int64_t at = column + j;
        const Column<corrected, shared> now(target.scale + at, target.offset + at, w.minus_zero + at, target.bias + at);
        const float* scale = block.scale + row;
        const int32_t *zero = block.zero + row, *sum = block.sums + row;
        auto value = [&](int r) {
          return finish<epilogue>(now.value(c + r * kColumns + j, scale[r], zero[r], sum[r]));
        };
        const int64_t stride = target.stride;
        float* y = target.y + (row - from) * stride + at;
        const int n = valid - j < kLanes ? static_cast<int>(valid - j) : kLanes;
        if (n < kLanes) {
          for (int r = 0; r < rows; ++r, y += stride) store(y, value(r), n);
        } else {
#pragma GCC unroll 4
          for (int r = 0; r < rows; ++r, y += stride) store(y, value(r));
        }
      }
    }
  }
}

// The same for several parts or groups, summed in float.
template <int epilogue>
void multiply_sums(const Block& block, int64_t from, int64_t count, const Packed& w, int64_t first, int64_t last,
                   const Target& target) {
  alignas(64) int32_t c[kRows * kColumns];
  alignas(64) float y[kRows * kColumns];
  for (int64_t column = first; column < last; column += kColumns) {
    const char* panel = w.panels + column / kColumns * w.panel_bytes();
    const int64_t valid = w.n - column < kColumns ? w.n - column : kColumns;
    for (int64_t row = from; row < from + count; row += kRows) {
      const int rows = from + count - row < kRows ? static_cast<int>(from + count - row) : kRows;
      for (int r = 0; r < rows; ++r) memcpy(y + r * kColumns, target.bias + column, sizeof(float) * kColumns);
      int64_t offset = 0;
      for (int64_t g = 0; g < w.groups; ++g) {
        const int64_t steps = w.product.steps(w.depth(g));
        for (int part = 0; part < block.parts; ++part) {
          tile<false>(w.product, block.panel(part, row) + offset * kRows * 4, panel + offset * kColumns * 4, steps,
                      rows, c, false);
          const float* scales = block.scale + part * block.rows + row;
          const int32_t* zeros = block.zero + part * block.rows + row;
          const int32_t* sums = block.sums + (part * w.groups + g) * block.rows + row;
          for (int j = 0; j < kColumns; j += kLanes) {
            const int64_t at = g * w.columns + column + j;
            Column<true, false> now(w.scale + at, w.minus_sum + at, w.minus_zero + at, target.bias);
            for (int r = 0; r < rows; ++r) {
              now.bias = load(y + r * kColumns + j);
              store(y + r * kColumns + j, now.value(c + r * kColumns + j, scales[r], zeros[r], sums[r]));
            }
          }
        }
        offset += steps;
      }
      for (int r = 0; r < rows; ++r) {
        float* to = target.y + (row - from + r) * target.stride + column;
        for (int j = 0; j < valid; j += kLanes) {
          F v = finish<epilogue>(load(y + r * kColumns + j));
          if (j + kLanes <= valid)
            store(to + j, v);
          else
            store(to + j, v, static_cast<int>(valid - j));
        }
      }
    }
  }
}

template <bool shared, int epilogue>
void multiply_with(const Block& block, int64_t from, int64_t count, const Packed& w, int64_t first, int64_t last,
                   const Target& target) {
  if (block.parts > 1 || w.groups > 1)
    multiply_sums<epilogue>(block, from, count, w, first, last, target);
  else if (w.centered)
    multiply_rows<epilogue, false, shared>(block, from, count, w, first, last, target);
  else
    multiply_rows<epilogue, true, shared>(block, from, count, w, first, last, target);
}

template <bool shared>
void multiply(int epilogue, const Block& block, int64_t from, int64_t count, const Packed& w, int64_t first,
              int64_t last, const Target& target) {
  if (epilogue == kGelu)
    multiply_with<shared, kGelu>(block, from, count, w, first, last, target);
  else if (epilogue == kRelu)
    multiply_with<shared, kRelu>(block, from, count, w, first, last, target);
  else
    multiply_with<shared, kNone>(block, from, count, w, first, last, target);
}

constexpr int64_t kBlockBytes = 256 << 10;  // of codes that stay in the second-level cache
constexpr int64_t kTaskProducts = 4 << 20;  // below this a task is not worth its start
constexpr int64_t kTasks = 16;              // wanted, so that threads end together

// y[m][n] = epilogue(decode(encode(x)) w + bias), in tasks over blocks of rows, or of columns where rows are few.
// `bias` is null or of n values.
template <typename Scheme>
bool run_product(Call& call, const Scheme& scheme, const float* x, int64_t m, const Packed& w, int epilogue,
                 const float* bias, float* y) {
  if (m == 0 || w.n == 0) return true;
  constexpr bool shared = Scheme::kShared;
  const size_t size = static_cast<size_t>(w.columns) * 4;
  char* columns = static_cast<char*>(call.temporary(3 * size));
  if (!columns) return false;
  memset(columns, 0, 3 * size);
  float* biases = reinterpret_cast<float*>(columns);
  float* scales = biases + w.columns;
  int32_t* offsets = reinterpret_cast<int32_t*>(scales + w.columns);
  if (bias) memcpy(biases, bias, static_cast<size_t>(w.n) * sizeof(float));
  if constexpr (shared) {
    for (int64_t c = 0; c < w.n; ++c) {
      scales[c] = scheme.scale * w.scale[c];
      offsets[c] = scheme.zero * w.minus_sum[c];
    }
  }
  auto target = [&](int64_t row) {
    return Target{y + row * w.n, w.n, biases, shared ? scales : w.scale, shared ? offsets : w.minus_sum};
  };

  const int64_t row_cost = w.k * w.columns + 1;
  int64_t rows = kBlockBytes / (w.steps * 4 * scheme.parts() + 1);
  const int64_t fair = ceil_div(m, kTasks), least = ceil_div(kTaskProducts, row_cost);
  if (rows > fair) rows = fair > least ? fair : least < rows ? least : rows;
  rows = round_up(rows < 1 ? 1 : rows < m ? rows : m, kRows);
  const int64_t blocks = ceil_div(m, rows);
  const int64_t panels = w.columns / kColumns;
  int64_t pieces = kTasks / blocks;
  const int64_t worth = rows * row_cost / kTaskProducts;
  if (pieces > worth) pieces = worth;
  if (pieces > panels) pieces = panels;
  if (pieces < 2) {
    return parallel(call, blocks, Block::bytes(w, scheme.parts(), rows), [&](int64_t item, void* memory) {
      const int64_t from = item * rows, count = m - from < rows ? m - from : rows;
      Block block(memory, w, scheme.parts(), rows);
      encode_rows(scheme, x + from * w.k, w.k, 0, count, w, block);
      multiply<shared>(epilogue, block, 0, count, w, 0, w.columns, target(from));
    });
  }
  void* memory = call.temporary(Block::bytes(w, scheme.parts(), round_up(m, kRows)));
  if (!memory) return false;
  Block block(memory, w, scheme.parts(), round_up(m, kRows));
  if (!parallel(call, ceil_div(m, kRows), 0, [&](int64_t item, void*) {
        const int64_t from = item * kRows, count = m - from < kRows ? m - from : kRows;
        encode_rows(scheme, x + from * w.k, w.k, from, count, w, block);
      }))
    return false;
  return parallel(call, blocks * pieces, 0, [&](int64_t item, void*) {
    const int64_t from = item / pieces * rows, count = m - from < rows ? m - from : rows, piece = item % pieces;
    const int64_t first = piece * panels / pieces * kColumns, last = (piece + 1) * panels / pieces * kColumns;
    multiply<shared>(epilogue, block, from, count, w, first, last, target(from));
  });
}

// Affine codes with one scale and zero point.
struct UniformRows {
  static constexpr bool kShared = true;
  float scale;
  int zero, bits;

  int parts() const { return 1; }
  void encode(const float* x, int64_t stride, int rows, int64_t row, const Packed& w, const Block& block) const {
    const Uniform u = uniform(scale, zero, bits);
    int64_t offset = 0;
    for (int64_t g = 0; g < w.groups; ++g) {
      encode_panel(
          x + g * w.group, stride, rows, w.depth(g), w.product, !w.centered,
          [&](int, F v) { return onnxptq::encode(u, v); }, block.panel(0, row) + offset * kRows * 4,
          block.sums + g * block.rows + row);
      offset += w.product.steps(w.depth(g));
    }
    for (int r = 0; r < rows; ++r) block.scale[row + r] = scale, block.zero[row + r] = zero;
  }
};

// Affine codes with each row's own range.
struct TokenRows {
  static constexpr bool kShared = false;
  int bits;

  int parts() const { return 1; }
  void encode(const float* x, int64_t stride, int rows, int64_t row, const Packed& w, const Block& block) const {
    Uniform u[kRows];
    for (int r = 0; r < kRows; ++r) {
      const Affine a = row_range(x + (r < rows ? r : 0) * stride, w.k, bits);
      u[r] = uniform(a.scale, a.zero, bits);
      if (r < rows) block.scale[row + r] = a.scale, block.zero[row + r] = a.zero;
    }
    int64_t offset = 0;
    for (int64_t g = 0; g < w.groups; ++g) {
      encode_panel(
          x + g * w.group, stride, rows, w.depth(g), w.product, !w.centered,
          [&](int r, F v) { return onnxptq::encode(u[r], v); }, block.panel(0, row) + offset * kRows * 4,
          block.sums + g * block.rows + row);
      offset += w.product.steps(w.depth(g));
    }
  }
};

}  // namespace
}  // namespace onnxptq
