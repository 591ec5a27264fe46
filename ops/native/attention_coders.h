// How the weights of an attention are coded, by scheme: what IntegerSums and FloatSums are given.
#pragma once
#include "attention_sums.h"

namespace onnxptq {
namespace {

// Weights that stay float.
struct PlainCoder {
  static constexpr bool kExponentials = true;
  bool norm;

  bool sums() const { return !norm; }
  void start(RowState*) const {}
  F value(const RowState& row, F e) const { return weight(norm, row, e); }
};

// Evenly spaced codes: schemes uniform and row.
struct EvenCoder {
  static constexpr bool kExponentials = true;
  int parts = 1, zero, highest;
  bool norm, by_row;
  float given;
  F low, high;
  I offset;

  EvenCoder(const Attention& s, const Given& u)
      : zero(u.zero),
        highest((1 << s.p_bits) - 1),
        norm(s.norm),
        by_row(s.softmax == kRow),
        given(u.scale),
        low(set(static_cast<float>(-zero))),
        high(set(static_cast<float>(highest - zero))),
        offset(set(zero)) {}

  bool sums() const { return !norm; }
  // The greatest weight of a row is exp(0) = 1, divided by the sum.
  void start(RowState* row) const {
    float scale = given;
    if (by_row) {
      scale = (norm ? 1.0f : row->inverse[0]) / static_cast<float>(highest);
      if (!(scale > kSmallestNormal)) scale = kSmallestNormal;
    }
    const float factor = norm ? 1.0f / scale : 1.0f / (row->sum[0] * scale);
    row->scale = set(scale), row->factor = set(factor);
    row->sure = set(factor > 0x1p-100f && factor < 0x1p100f ? 0.4999f : -1.0f);
  }
  float scale(int, const RowState& row) const { return row.scale[0]; }
  // As in uniform.h: a product with the reciprocal, but near ties the divisions that it stands for.
  I even(const RowState& row, F e) const {
    F t = min(max(e * row.factor, low), high);
    if (__builtin_expect(any(less(row.sure, abs(t - rint(t)))), 0))
      t = min(max((norm ? e : e / row.sum) / row.scale, low), high);
    return to_int(t) + offset;
  }
  template <int>
  void code(const RowState& row, F e, I* out) const {
    out[0] = even(row, e);
  }
  F value(const RowState& row, F e) const { return to_float(even(row, e) - offset) * row.scale; }
};

struct TableCoder {
  static constexpr bool kExponentials = true;
  const Table& table;
  bool norm;
  int parts = 1, zero, highest;
  I least;

  TableCoder(const Attention& s, const Table& t)
      : table(t), norm(s.norm), zero(-t.least), highest(t.most - t.least), least(set(t.least)) {}

  bool sums() const { return !norm; }
  void start(RowState*) const {}
  float scale(int, const RowState&) const { return table.scale_number; }
  template <int>
  void code(const RowState& row, F e, I* out) const {
    out[0] = table.level(table.code(weight(norm, row, e))) - least;
  }
  F value(const RowState& row, F e) const { return table.value(table.code(weight(norm, row, e))); }
};

// One part where the coarse scale is a small multiple of the fine one, else one for each region.
struct DualCoder {
  static constexpr bool kExponentials = true;
  const DualRegion& dual;
  bool norm;
  int ratio, parts, zero = 0, highest;
  I times;

  DualCoder(const Attention& s, const DualRegion& d)
      : dual(d),
        norm(s.norm),
        ratio(whole_ratio(d, 255)),
        parts(ratio ? 1 : 2),
        highest((d.half_number - 1) * (ratio ? ratio : 1)),
        times(set(ratio)) {}

  bool sums() const { return !norm; }
  void start(RowState*) const {}
  float scale(int part, const RowState&) const { return part ? dual.high_number : dual.low_number; }
  template <int count>
  void code(const RowState& row, F e, I* out) const {
    const F p = weight(norm, row, e);
    const M upper = dual.in_high(p);
    const I low = encode(dual.low, p), high = encode(dual.high, p);
    if (count == 1) {
      out[0] = select(upper, high * times, low);
    } else {
      out[0] = select(upper, set(0), low);
      out[1] = select(upper, high, set(0));
    }
  }
  F value(const RowState& row, F e) const { return dual.value(dual.code(weight(norm, row, e))); }
};

// A log-base code found from the exponentials by counting edges; decoded in float.
struct LogCoder {
  static constexpr bool kExponentials = true;
  const LogBase& log;
  bool norm;

  bool sums() const { return !norm; }
  void start(RowState*) const {}
  F value(const RowState& row, F e) const { return log.value(log.code(weight(norm, row, e))); }
};

// The same found from the scores, without exponentials: -tau log2(weight / largest value), rounded, is the number of
// edges that lie above it, unless it is so near to half that the edges must be asked. Values of one family are a factor
// 2 apart: eight of them are the powers of two of one unsigned code.
struct GeometricCoder {
  static constexpr bool kExponentials = false;
  const LogBase& log;
  bool norm;
  int parts = 0, zero = 0, highest = 1;
  int levels = 0;  // values that are not zero
  double tau = 0, largest = 0;
  F factor, high, limit;
  float unit[kMostWeightParts];
  Lookup power[kMostWeightParts];

  GeometricCoder(const Attention& s, const LogBase& l) : log(l), norm(s.norm) {}

  // False where values and edges are not evenly spaced in the exponent.
  bool read() {
    const int all = 1 << log.values.bits;
    const float *values = log.values.all, *edges = log.edges.all;
    while (levels < all && values[levels] > 0) ++levels;
    for (int i = levels; i < all; ++i)
      if (values[i] != 0) return false;
    if (levels < 2 || levels == all) return false;
    constexpr double kNear = 1e-6;
    largest = log2(static_cast<double>(values[0]));
    tau = (levels - 1) / (largest - log2(static_cast<double>(values[levels - 1])));
    if (!(tau > 0.01 && tau < 100)) return false;
    for (int i = 0; i < levels; ++i) {
      if (!(edges[i] > 0)) return false;
      if (fabs(log2(static_cast<double>(values[i])) - (largest - i / tau)) > kNear) return false;
      if (fabs(log2(static_cast<double>(edges[i])) - (largest - (i + 0.5) / tau)) > kNear) return false;
    }
    for (int i = levels; i + 1 < all; ++i)
      if (edges[i] != edges[levels - 1]) return false;
    factor = set(static_cast<float>(-tau * 1.4426950408889634));
    high = set(static_cast<float>(all - 1));
    limit = set(static_cast<float>(levels) - 0.5f);
    split();
    return true;
  }
  bool sums() const { return !norm; }
  void start(RowState* row) const {
    row->offset = set(static_cast<float>(tau * (largest + (norm ? 0.0 : log2(static_cast<double>(row->sum[0]))))));
  }
  float scale(int part, const RowState&) const { return unit[part]; }
  I index(const RowState& row, F score) const {
    const F below = score - row.top;
    F t = fma(below, factor, row.offset);
    t = max(min(t, high), set(0.0f));  // NaN, of masked rows, is the last code: zero
    t = select(less(limit, t), high, t);
    if (__builtin_expect(any(less(set(0.4995f), abs(t - rint(t)))), 0)) return log.code(weight(norm, row, exp(below)));
    return to_int(t);
  }
  template <int count>
  void code(const RowState& row, F score, I* out) const {
    const I i = index(row, score);
    ONNXPTQ_UNROLL
    for (int p = 0; p < count; ++p) out[p] = to_int(find(power[p], i));
  }
  F value(const RowState& row, F score) const { return find(log.values, index(row, score)); }

 private:
  // Leaves `parts` 0 where there would be too many.
  void split() {
    constexpr int kEach = 8;
    const float* values = log.values.all;
    int families = 1, count = 0;
    auto halves = [&] {
      for (int i = 0; i + families < levels; ++i)
        if (values[i] != 2 * values[i + families]) return false;
      return true;
    };
    while (families <= kMostWeightParts && !halves()) ++families;
    if (families > kMostWeightParts || families > levels) return;
    for (int family = 0; family < families; ++family) {
      for (int from = family; from < levels; from += kEach * families) {
        if (count == kMostWeightParts) return;
        float codes[256] = {};
        int last = from, now = 1;
        while (last + families < levels && last + families < from + kEach * families) last += families;
        for (int i = last; i >= from; i -= families, now *= 2) {
          codes[i] = static_cast<float>(now);
          if (now > highest) highest = now;
        }
        unit[count] = values[last];
        fill(&power[count++], codes, 256, log.values.bits, 0.0f);
      }
    }
    parts = count;
  }
};

}  // namespace
}  // namespace onnxptq
