// Rows encoded on the fly, times packed weights: the driver that QLinear and QMatMul share.
#pragma once
#include "coders.h"
#include "functions.h"
#include "packed.h"
#include "panel.h"

namespace onnxptq {
namespace {

// Rows as a scheme encoded them. A scheme writes a value as a sum of `parts`, each an unsigned code minus a zero point
// times a scale; most schemes have one part. Parts after the first have the zero point 0 and may be sparse: of those,
// only the steps in which some row has a code are kept.
struct Block {
  int parts;
  int64_t rows;  // a multiple of kRows
  int64_t panel_bytes, groups;
  char* codes;    // [parts][rows / kRows] panels
  float* scale;   // [parts][rows]
  int32_t* zero;  // [parts][rows]
  int32_t* sums;  // [parts][groups][rows]: sums of codes
  int32_t* kept;  // [parts][rows / kRows][steps + 1]: how many steps, and which; written for sparse parts only

  static size_t bytes(const Packed& w, int parts, int64_t rows) {
    return static_cast<size_t>(parts *
                               (rows / kRows * (w.steps * kRows * 4 + (w.steps + 1) * 4) + rows * 4 * (2 + w.groups)));
  }
  Block(void* memory, const Packed& w, int parts_, int64_t rows_)
      : parts(parts_), rows(rows_), panel_bytes(w.steps * kRows * 4), groups(w.groups) {
    codes = static_cast<char*>(memory);
    scale = reinterpret_cast<float*>(codes + parts * (rows / kRows) * panel_bytes);
    zero = reinterpret_cast<int32_t*>(scale + parts * rows);
    sums = zero + parts * rows;
    kept = sums + parts * groups * rows;
  }
  char* panel(int part, int64_t row) const { return codes + (part * (rows / kRows) + row / kRows) * panel_bytes; }
  int32_t* kept_steps(int part, int64_t row) const {
    return kept + (part * (rows / kRows) + row / kRows) * (panel_bytes / (kRows * 4) + 1);
  }
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

// The words of the kept steps of a panel of columns, side by side.
inline const char* gather_steps(const char* panel, const int32_t* steps, int64_t count, char* into) {
  for (int64_t i = 0; i < count; ++i)
    memcpy(into + i * kColumns * 4, panel + int64_t{steps[i]} * kColumns * 4, kColumns * 4);
  return into;
}

// The same for several parts or groups, summed in float. `gathered` has room for one panel of columns.
template <int epilogue>
void multiply_sums(const Block& block, int64_t from, int64_t count, const Packed& w, int64_t first, int64_t last,
                   const Target& target, char* gathered) {
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
          const char* left = block.panel(part, row) + offset * kRows * 4;
          const char* right = panel + offset * kColumns * 4;
          int64_t now_steps = steps;
          if (part > 0 && w.groups == 1) {
            const int32_t* kept = block.kept_steps(part, row);
            now_steps = kept[0];
            if (now_steps == 0) continue;
            if (now_steps < steps) right = gather_steps(right, kept + 1, now_steps, gathered);
          }
          tile<false>(w.product, left, right, now_steps, rows, c, false);
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
                   const Target& target, char* gathered) {
  if (block.parts > 1 || w.groups > 1)
    multiply_sums<epilogue>(block, from, count, w, first, last, target, gathered);
  else if (w.centered)
    multiply_rows<epilogue, false, shared>(block, from, count, w, first, last, target);
  else
    multiply_rows<epilogue, true, shared>(block, from, count, w, first, last, target);
}

template <bool shared>
void multiply(int epilogue, const Block& block, int64_t from, int64_t count, const Packed& w, int64_t first,
              int64_t last, const Target& target, char* gathered) {
  if (epilogue == kGelu)
    multiply_with<shared, kGelu>(block, from, count, w, first, last, target, gathered);
  else if (epilogue == kRelu)
    multiply_with<shared, kRelu>(block, from, count, w, first, last, target, gathered);
  else
    multiply_with<shared, kNone>(block, from, count, w, first, last, target, gathered);
}

constexpr int64_t kBlockBytes = 256 << 10;  // of codes that stay in the second-level cache
constexpr int64_t kTaskProducts = 1 << 20;  // below this a task is not worth its start
constexpr int64_t kFewValues = 1 << 15;     // that one thread encodes sooner than two
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

  const int64_t row_cost = w.k * w.columns + 1, code_bytes = w.steps * 4 * scheme.parts() + 1;
  int64_t rows = kBlockBytes / code_bytes;
  const int64_t fair = ceil_div(m, kTasks), least = ceil_div(kTaskProducts, row_cost);
  const bool few = m < w.n && m <= rows;  // then their codes are less to read again than the weights
  if (rows > fair && !few) rows = fair > least ? fair : least < rows ? least : rows;
  rows = round_up(rows < 1 ? 1 : rows < m ? rows : m, kRows);
  const int64_t blocks = ceil_div(m, rows);
  const int64_t panels = w.columns / kColumns;
  int64_t pieces = kTasks / blocks;
  const int64_t worth = rows * row_cost / kTaskProducts;
  if (pieces > worth) pieces = worth;
  if (pieces > panels) pieces = panels;
  const size_t spare = scheme.parts() > 1 ? static_cast<size_t>(w.panel_bytes()) : 0;
  if (pieces < 2) {
    return parallel(call, blocks, spare + Block::bytes(w, scheme.parts(), rows), [&](int64_t item, void* memory) {
      const int64_t from = item * rows, count = m - from < rows ? m - from : rows;
      char* gathered = static_cast<char*>(memory);
      Block block(gathered + spare, w, scheme.parts(), rows);
      encode_rows(scheme, x + from * w.k, w.k, 0, count, w, block);
      multiply<shared>(epilogue, block, 0, count, w, 0, w.columns, target(from), gathered);
    });
  }
  void* memory = call.temporary(Block::bytes(w, scheme.parts(), round_up(m, kRows)));
  if (!memory) return false;
  Block block(memory, w, scheme.parts(), round_up(m, kRows));
  if (m * w.k <= kFewValues)
    encode_rows(scheme, x, w.k, 0, m, w, block);
  else if (!parallel(call, ceil_div(m, kRows), 0, [&](int64_t item, void*) {
             const int64_t from = item * kRows, count = m - from < kRows ? m - from : kRows;
             encode_rows(scheme, x + from * w.k, w.k, from, count, w, block);
           }))
    return false;
  return parallel(call, blocks * pieces, spare, [&](int64_t item, void* gathered) {
    const int64_t from = item / pieces * rows, count = m - from < rows ? m - from : rows, piece = item % pieces;
    const int64_t first = piece * panels / pieces * kColumns, last = (piece + 1) * panels / pieces * kColumns;
    multiply<shared>(epilogue, block, from, count, w, first, last, target(from), static_cast<char*>(gathered));
  });
}

// Encodes one part of up to kRows rows, group by group. `code(row, values)` gives the codes.
template <typename Code>
inline void encode_part(const float* x, int64_t stride, int rows, int64_t row, const Packed& w, const Block& block,
                        int part, Code code) {
  int64_t offset = 0;
  for (int64_t g = 0; g < w.groups; ++g) {
    encode_panel(x + g * w.group, stride, rows, w.depth(g), w.product, !w.centered, code,
                 block.panel(part, row) + offset * kRows * 4, block.sums + (part * w.groups + g) * block.rows + row);
    offset += w.product.steps(w.depth(g));
  }
}

// Schemes of one part whose scale and zero point all rows share: `code(values)` gives codes minus no zero point.
template <typename Code>
struct SharedRows {
  static constexpr bool kShared = true;
  float scale;
  int zero;
  Code code;

  int parts() const { return 1; }
  void encode(const float* x, int64_t stride, int rows, int64_t row, const Packed& w, const Block& block) const {
    encode_part(x, stride, rows, row, w, block, 0, [code = code](int, F v) { return code(v); });
    for (int r = 0; r < rows; ++r) block.scale[row + r] = scale, block.zero[row + r] = zero;
  }
};
template <typename Code>
inline SharedRows<Code> shared_rows(float scale, int zero, Code code) {
  return {scale, zero, code};
}

inline auto uniform_rows(float scale, int zero, int bits) {
  const Uniform u = uniform(scale, zero, bits);
  return shared_rows(scale, zero, [u](F v) { return encode(u, v); });
}

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
    encode_part(x, stride, rows, row, w, block, 0, [&](int r, F v) { return onnxptq::encode(u[r], v); });
  }
};

constexpr int kMostParts = 9;

// Schemes of several parts: `code(part, values)`; zero points are 0 but for the first part's.
template <typename Code>
struct SumRows {
  static constexpr bool kShared = false;
  int count;
  int zero;
  float scale[kMostParts];
  Code code;

  int parts() const { return count; }
  void encode(const float* x, int64_t stride, int rows, int64_t row, const Packed& w, const Block& block) const {
    for (int part = 0; part < count; ++part) {
      encode_part(x, stride, rows, row, w, block, part, [&](int, F v) { return code(part, v); });
      for (int r = 0; r < rows; ++r) {
        block.scale[part * block.rows + row + r] = scale[part];
        block.zero[part * block.rows + row + r] = part ? 0 : zero;
      }
      if (part > 0 && w.groups == 1) keep_steps(block.panel(part, row), rows, w.steps, block.kept_steps(part, row));
    }
  }

 private:
  static void keep_steps(char* panel, int rows, int64_t steps, int32_t* kept) {
    int32_t n = 0;
    for (int64_t k = 0; k < steps; ++k) {
      const char* words = panel + k * kRows * 4;
      bool any = false;
      for (int r = 0; r < rows; ++r) {
        int32_t word;
        memcpy(&word, words + 4 * r, 4);
        any |= word != 0;
      }
      if (!any) continue;
      if (n < k) memcpy(panel + n * kRows * 4, words, kRows * 4);
      kept[++n] = static_cast<int32_t>(k);
    }
    kept[0] = n;
  }
};
template <typename Code>
inline SumRows<Code> sum_rows(int count, int zero, const float* scales, Code code) {
  SumRows<Code> rows{count, zero, {}, code};
  memcpy(rows.scale, scales, sizeof(float) * static_cast<size_t>(count));
  return rows;
}

// Two regions as one part: where the coarse scale is a small multiple of the fine one. 0 where it is not.
inline int whole_ratio(const DualRegion& d, int highest) {
  const float ratio = d.high_number / d.low_number;
  if (!(ratio >= 1 && ratio <= 255)) return 0;
  const int r = static_cast<int>(nearbyintf(ratio));
  if (d.low_number * static_cast<float>(r) != d.high_number) return 0;
  return d.offset_number + (d.half_number - 1) * r <= highest ? r : 0;
}

// The greatest unsigned code that rows of a scheme are multiplied with; parameters that are not known yet are absent.
inline int highest_code(Messenger& to, SchemeKind kind, bool gelu, int bits, const Parameters& given) {
  const int whole = (1 << bits) - 1;
  if (kind == kTable) {
    Table t;
    return given.p[0].present && given.p[1].present && given.p[2].present && !t.read(to, given, bits) ? t.most - t.least
                                                                                                      : 255;
  }
  if (kind == kDualRegion) {
    DualRegion d;
    if (!given.p[0].present || !given.p[1].present || !given.p[2].present || d.read(to, given, bits, gelu)) return 255;
    const int ratio = whole_ratio(d, 255);
    return ratio ? d.offset_number + (d.half_number - 1) * ratio : d.half_number;
  }
  return whole;
}

// The product of rows of any scheme but log_base, with weights that were packed for codes up to `highest`.
inline Error run_scheme(Call& call, SchemeKind kind, bool gelu, int bits, int highest, const Parameters& given,
                        const float* x, int64_t m, const Packed& w, int epilogue, const float* bias, float* y) {
  bool ok = true;
  if (kind == kToken) {
    ok = run_product(call, TokenRows{bits}, x, m, w, epilogue, bias, y);
  } else if (kind == kUniform) {
    Given u;
    if (Error error = read_uniform(call, given, &u)) return error;
    ok = run_product(call, uniform_rows(u.scale, u.zero, bits), x, m, w, epilogue, bias, y);
  } else if (kind == kTable) {
    Table t;
    if (Error error = t.read(call, given, bits)) return error;
    const I least = set(t.least);
    ok = run_product(call, shared_rows(t.scale_number, -t.least, [&](F v) { return t.level(t.code(v)) - least; }), x, m,
                     w, epilogue, bias, y);
  } else if (kind == kDualRegion) {
    DualRegion d;
    if (Error error = d.read(call, given, bits, gelu)) return error;
    if (const int ratio = whole_ratio(d, highest)) {
      const I times = set(ratio);
      auto code = [&](F v) {
        I c = select(d.in_high(v), encode(d.high, v) * times + d.offset, encode(d.low, v));
        return select(is_nan(v), set(0), c);
      };
      ok = run_product(call, shared_rows(d.low_number, d.offset_number, code), x, m, w, epilogue, bias, y);
    } else {
      const float scales[2] = {d.low_number, d.high_number};
      auto code = [&](int part, F v) {
        if (part) return select(d.in_high(v), encode(d.high, v), set(0));
        return select(is_nan(v), set(0), select(d.in_high(v), d.offset, encode(d.low, v)));
      };
      ok = run_product(call, sum_rows(2, d.offset_number, scales, code), x, m, w, epilogue, bias, y);
    }
  } else {
    OutlierRetained o;
    if (Error error = o.read(call, given, bits)) return error;
    if (2 * o.groups - 1 > kMostParts)
      return call.fail("scheme outlier_retained has %d groups; at most %d are supported here", o.groups,
                       kMostParts / 2 + 1);
    // The first group is dense and affine; each other one is two sparse parts, what is above its zero point and below.
    float scales[kMostParts] = {o.scales[0]};
    Uniform within[kMostParts];
    for (int g = 0; g < o.groups; ++g) within[g] = uniform(o.scales[g], o.zeros[g], bits);
    for (int g = 1; g < o.groups; ++g) scales[2 * g - 1] = o.scales[g], scales[2 * g] = -o.scales[g];
    auto code = [&](int part, F v) {
      const int g = (part + 1) / 2;
      M mine = o.in_group(v, g);
      if (g == 0) return select(is_nan(v), set(0), select(mine, encode(within[0], v), set(o.zeros[0])));
      I d = encode(within[g], v) - set(o.zeros[g]);
      return select(mine, max(part % 2 ? d : -d, set(0)), set(0));
    };
    ok = run_product(call, sum_rows(2 * o.groups - 1, o.zeros[0], scales, code), x, m, w, epilogue, bias, y);
  }
  return ok ? nullptr : "out of memory";
}

}  // namespace
}  // namespace onnxptq
