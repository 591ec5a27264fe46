// The operands of an attention: keys and values packed once a head, for products in integers or in float.
#pragma once
#include "gemm_float.h"
#include "panel.h"
#include "uniform.h"

namespace onnxptq {
namespace {

// How activations are stored as the right operand of a product with codes up to `high`.
struct Storage {
  Product product;
  bool centered;  // code - zero; else code - 2^(bits-1), corrected by the rows' sums
};

inline Storage storage_of(int high, int bits) {
  const Product plain = product_of(high, 1 << (bits - 1));
#if defined(ONNXPTQ_DOT)
  return {plain, bits <= 7};
#else
  constexpr int kDeepEnough = 4;  // steps that are summed in 16 bits
  const Product centered = product_of(high, (1 << bits) - 1);
  if (plain.wide) return {centered, true};
  const bool cheap = !centered.wide && (centered.depth >= kDeepEnough || centered.depth == plain.depth);
  return bits <= 7 && cheap ? Storage{centered, true} : Storage{plain, false};
#endif
}

// Where codes of a static operand come from: one scale and zero, one a head, or one a head and channel.
struct Static {
  const float* scale = nullptr;
  const uint8_t* zero = nullptr;  // null: 0 everywhere
  int64_t per_head = 0, per_channel = 0;

  Affine at(int64_t head, int64_t channel) const {
    const int64_t i = head * per_head + channel * per_channel;
    return {scale[i], zero ? zero[i] : 0};
  }
};

// Reads scale and zero of an operand of `heads` heads and `channels` channels; `channels` 0: not by channel.
inline Error read_static(Messenger& to, const char* name, const Tensor& scale, const Tensor& zero, int64_t heads,
                         int64_t channels, Static* out) {
  const int64_t n = scale.count;
  const bool by_channel = channels && n == heads * channels && n != 1 && n != heads;
  if (!scale.present || !(n == 1 || n == heads || by_channel) || (zero.present && zero.count != n))
    return to.fail("%s_scale %s and %s_zero %s must hold one number, one for each of %lld heads%s", name,
                   show(scale).text, name, show(zero).text, static_cast<long long>(heads),
                   channels ? ", or one for each head and channel" : "");
  out->scale = static_cast<const float*>(scale.data);
  out->zero = static_cast<const uint8_t*>(zero.data);
  out->per_channel = by_channel;
  out->per_head = n == 1 ? 0 : by_channel ? channels : 1;
  return nullptr;
}

// Memory of `Packed` for every head, and the view of one.
struct PackedHeads {
  Packed shape;
  size_t panels, numbers;  // bytes a head

  PackedHeads(int64_t k, int64_t n, const Storage& storage) : shape{} {
    shape.k = k, shape.n = n, shape.width = kColumns;
    shape.group = k > kMostDepth ? kMostDepth : k > 0 ? k : 1;
    shape.groups = k > 0 ? ceil_div(k, shape.group) : 1;
    shape.columns = round_up(n, kColumns);
    shape.product = storage.product, shape.centered = storage.centered;
    for (int64_t g = 0; g < shape.groups; ++g) shape.steps += storage.product.steps(shape.depth(g));
    panels = static_cast<size_t>(shape.columns / kColumns * shape.panel_bytes());
    numbers = static_cast<size_t>(shape.groups * shape.columns) * 4;
  }
  size_t bytes() const { return round_up(static_cast<int64_t>(panels + 3 * numbers), 64); }
  Packed at(char* memory) const {
    Packed p = shape;
    p.panels = memory;
    p.scale = reinterpret_cast<float*>(memory + panels);
    p.minus_zero = reinterpret_cast<int32_t*>(memory + panels + numbers);
    p.minus_sum = reinterpret_cast<int32_t*>(memory + panels + 2 * numbers);
    return p;
  }
};

template <typename T>
inline T* writable(const T* p) {
  return const_cast<T*>(p);
}

// Packs keys [from, to) (whole panels) of [n][d] as columns. `range(row)` gives a key's scale and zero.
template <typename Range>
inline void pack_keys(const float* x, int64_t d, int bits, int64_t from, int64_t to, Range range, const Packed& p) {
  const int half = 1 << (bits - 1);
  for (int64_t column = from; column < to; column += kColumns) {
    char* panel = writable(p.panels) + column / kColumns * p.panel_bytes();
    const int rows = p.n - column < kColumns ? static_cast<int>(p.n - column) : kColumns;
    if (rows < kColumns) memset(panel, 0, static_cast<size_t>(p.panel_bytes()));
    Uniform u[kColumns];
    I shift[kColumns];
    int32_t sums[kColumns];
    for (int r = 0; r < kColumns; ++r) {
      const int64_t at = column + r;
      if (r >= rows) {
        u[r] = u[0], shift[r] = shift[0];
        writable(p.scale)[at] = 0, writable(p.minus_zero)[at] = 0, writable(p.minus_sum)[at] = 0;
        continue;
      }
      const Affine a = range(x + at * d);
      u[r] = uniform(a.scale, a.zero, bits);
      const int off = p.centered ? a.zero : half;
      shift[r] = set(off);
      writable(p.scale)[at] = a.scale;
      writable(p.minus_zero)[at] = off - a.zero;
    }
    encode_panel<kColumns>(
        x + column * d, d, rows, d, p.product, true, [&](int r, F v) { return encode(u[r], v) - shift[r]; }, panel,
        sums);
    for (int r = 0; r < rows; ++r)  // minus the sum of code - zero
      writable(p.minus_sum)[column + r] = -sums[r] - static_cast<int32_t>(d) * p.minus_zero[column + r];
  }
}

// Packs values [n][dv] of one head: keys run along k, channels are columns. Narrow codes that are not centered can also
// be decoded (decode_panel). Without given ranges each channel has that of its values.
inline void pack_values(const float* x, int64_t dv, int bits, const Static* given, int64_t head, const Packed& p,
                        Uniform* u) {
  const int half = 1 << (bits - 1), per_step = p.product.per_step();
  const int64_t vectors = p.columns / kLanes;
  auto lanes = [&](int64_t i) {
    const int64_t left = dv - i * kLanes;
    return left >= kLanes ? kLanes : left > 0 ? static_cast<int>(left) : 0;
  };
  for (int64_t i = 0; i < vectors; ++i) {
    float scale[kLanes], low[kLanes], high[kLanes];
    Affine own[kLanes];
    if (!given) column_ranges(x + i * kLanes, p.k, dv, lanes(i), bits, own);
    int32_t zero[kLanes];
    bool plain = true;
    for (int j = 0; j < kLanes; ++j) {
      const int64_t c = i * kLanes + j;
      const Affine a = c >= dv ? Affine{1.0f, 0} : given ? given->at(head, c) : own[j];
      scale[j] = a.scale, zero[j] = a.zero;
      low[j] = static_cast<float>(-zero[j]), high[j] = static_cast<float>((1 << bits) - 1 - zero[j]);
      plain &= scale[j] > 0x1p-100f && scale[j] < 0x1p100f;
      for (int64_t g = 0; g < p.groups; ++g) {
        writable(p.scale)[g * p.columns + c] = c < dv ? scale[j] : 0;
        writable(p.minus_zero)[g * p.columns + c] = p.centered ? 0 : half - zero[j];
      }
    }
    u[i] = {load(scale), set(1.0f) / load(scale), load(low), load(high), set(plain ? 0.4999f : -1.0f), load(zero)};
  }
  memset(writable(p.minus_sum), 0, static_cast<size_t>(p.groups * p.columns) * 4);
  int64_t step = 0;
  for (int64_t g = 0; g < p.groups; ++g) {
    int32_t* sums = writable(p.minus_sum) + g * p.columns;
    for (int64_t k = g * p.group; k < g * p.group + p.depth(g); k += per_step, ++step) {
      const int64_t left = g * p.group + p.depth(g) - k;
      const int now = left < per_step ? static_cast<int>(left) : per_step;
      for (int64_t i = 0; i < vectors; ++i) {
        const int n = lanes(i);
        I word = set(0), sum = load(sums + i * kLanes);
        for (int e = 0; e < now; ++e) {
          const float* row = x + (k + e) * dv + i * kLanes;
          const F v = n == kLanes ? load(row) : n ? load(row, n) : set(0.0f);
          const I code = encode(u[i], v), centered = code - u[i].zero;
          sum -= centered;
          const I stored = p.centered ? centered : code - half;
          word |= p.product.wide ? (stored & 0xffff) << (16 * e) : (stored & 0xff) << (8 * e);
        }
        store(sums + i * kLanes, sum);
        char* panel = writable(p.panels) + i * kLanes / kColumns * p.panel_bytes();
        store(reinterpret_cast<int32_t*>(panel + (step * kColumns + i * kLanes % kColumns) * 4), word);
      }
    }
  }
}

}  // namespace
}  // namespace onnxptq
