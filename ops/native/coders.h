// The schemes that are not plain affine codes: how a vector of floats becomes codes, and codes become values. Each is
// read from the inputs p0, p1, p2 of an op and takes bits, and checks what it is given.
#pragma once
#include "shapes.h"
#include "uniform.h"

namespace onnxptq {
namespace {

enum SchemeKind : int { kUniform, kToken, kRow, kDualRegion, kLogBase, kTable, kOutlierRetained };

inline bool scheme_named(const char* name, SchemeKind* kind) {
  static const struct {
    const char* name;
    SchemeKind kind;
  } kNames[] = {{"uniform", kUniform},
                {"token", kToken},
                {"row", kRow},
                {"dual_region", kDualRegion},
                {"log_base", kLogBase},
                {"table", kTable},
                {"outlier_retained", kOutlierRetained}};
  for (const auto& n : kNames)
    if (!strcmp(name, n.name)) return *kind = n.kind, true;
  return false;
}

// What an op was given for one scheme.
struct Parameters {
  Tensor p[3];
};

inline bool is(const Tensor& t, Type type, int64_t count) { return t.present && t.type == type && t.count == count; }
inline float number(const Tensor& t) { return *static_cast<const float*>(t.data); }

struct Given {
  float scale;
  int zero;
};

// A scale, and a zero point that may be absent.
inline Error read_uniform(Messenger& to, const Parameters& given, Given* out) {
  const Tensor &scale = given.p[0], &zero = given.p[1];
  if (!is(scale, kFloat, 1) || (zero.present && !is(zero, kUint8, 1)))
    return to.fail("scheme uniform needs one float scale and at most one uint8 zero, not %s and %s", show(scale).text,
                   show(zero).text);
  *out = {number(scale), zero.present ? *static_cast<const uint8_t*>(zero.data) : 0};
  return nullptr;
}

// Two evenly spaced regions; the top bit of a code says which.
struct DualRegion {
  Uniform low, high;
  F threshold, scale_low, scale_high;
  I half, offset;
  float low_number, high_number;  // the scales again
  int half_number, offset_number;

  Error read(Messenger& to, const Parameters& given, int bits, bool gelu) {
    for (const Tensor& t : given.p)
      if (!is(t, kFloat, 1)) return to.fail("scheme dual_region needs three floats: scale_low, scale_high, threshold");
    half_number = 1 << (bits - 1), offset_number = gelu ? half_number : 0;
    low_number = number(given.p[0]), high_number = number(given.p[1]);
    low = uniform_between(low_number, offset_number, 0, gelu ? half_number : half_number - 1);
    high = uniform_between(high_number, 0, 0, half_number - 1);
    scale_low = set(low_number), scale_high = set(high_number), threshold = set(number(given.p[2]));
    half = set(half_number), offset = set(offset_number);
    return nullptr;
  }
  M in_high(F x) const { return less_equal(threshold, x); }
  I code(F x) const {
    I c = select(in_high(x), encode(high, x) + half, encode(low, x));
    return select(is_nan(x), set(0), c);
  }
  F value(I code) const {
    M upper = less_equal(to_float(half), to_float(code));
    return to_float(select(upper, code - half, code - offset)) * select(upper, scale_high, scale_low);
  }
};

// The number of edges that x has reached, in a table that ascends (edge <= x) or descends (edge >= x).
template <bool descending>
inline I count_edges(const Lookup& edges, F x) {
  I n = set(0);
  for (int32_t step = 1 << (edges.bits - 1); step; step >>= 1) {
    F edge = find(edges, n + (step - 1));
    n = select(descending ? less_equal(x, edge) : less_equal(edge, x), n + step, n);
  }
  return n;
}

// Values that fall by a constant factor; the last code is zero.
struct LogBase {
  Lookup values, edges;

  Error read(Messenger& to, const Parameters& given, int bits) {
    const int n = 1 << bits;
    if (!is(given.p[0], kFloat, n) || !is(given.p[1], kFloat, n - 1))
      return to.fail("scheme log_base of %d bits needs %d float values and %d float edges, not %s and %s", bits, n,
                     n - 1, show(given.p[0]).text, show(given.p[1]).text);
    fill(&values, static_cast<const float*>(given.p[0].data), n, bits, 0.0f);
    fill(&edges, static_cast<const float*>(given.p[1].data), n - 1, bits, -INFINITY);
    return nullptr;
  }
  I code(F x) const { return count_edges<true>(edges, x); }
  F value(I code) const { return find(values, code); }
};

// Freely placed values, each an int8 times one scale.
struct Table {
  Lookup levels, edges;  // levels are whole numbers
  F scale;
  float scale_number;
  int least, most;  // of the whole numbers

  Error read(Messenger& to, const Parameters& given, int bits) {
    const int n = 1 << bits;
    if (!is(given.p[0], kInt8, n) || !is(given.p[1], kFloat, 1) || !is(given.p[2], kFloat, n - 1))
      return to.fail(
          "scheme table of %d bits needs %d int8 values, one float scale and %d float edges, not %s, %s and %s", bits,
          n, n - 1, show(given.p[0]).text, show(given.p[1]).text, show(given.p[2]).text);
    const int8_t* v = static_cast<const int8_t*>(given.p[0].data);
    float whole[256];
    least = most = v[0];
    for (int i = 0; i < n; ++i) {
      whole[i] = v[i];
      if (v[i] < least) least = v[i];
      if (v[i] > most) most = v[i];
    }
    fill(&levels, whole, n, bits, 0.0f);
    fill(&edges, static_cast<const float*>(given.p[2].data), n - 1, bits, INFINITY);
    scale_number = number(given.p[1]), scale = set(scale_number);
    return nullptr;
  }
  I code(F x) const { return count_edges<false>(edges, x); }
  I level(I code) const { return to_int(find(levels, code)); }
  F value(I code) const { return find(levels, code) * scale; }
};

// Affine codes per group of magnitude; the group's index stands above the code.
struct OutlierRetained {
  static constexpr int kMost = 256;
  int groups, bits;
  float thresholds[kMost], scales[kMost];
  int zeros[kMost];

  Error read(Messenger& to, const Parameters& given, int bits_) {
    const int64_t n = given.p[1].count;
    if (n < 1 || n > kMost || !is(given.p[1], kFloat, n) || !is(given.p[0], kFloat, n - 1) ||
        !is(given.p[2], kUint8, n))
      return to.fail(
          "scheme outlier_retained needs G-1 float thresholds, G float scales and G uint8 zeros, not %s, %s and %s",
          show(given.p[0]).text, show(given.p[1]).text, show(given.p[2]).text);
    groups = static_cast<int>(n), bits = bits_;
    for (int g = 0; g < groups; ++g) {
      thresholds[g] = g + 1 < groups ? static_cast<const float*>(given.p[0].data)[g] : INFINITY;
      scales[g] = static_cast<const float*>(given.p[1].data)[g];
      zeros[g] = static_cast<const uint8_t*>(given.p[2].data)[g];
    }
    return nullptr;
  }
  int index_bits() const {
    int n = 0;
    while ((1 << n) < groups) ++n;
    return n;
  }
  // Elements of group g: above the thresholds before it, not above its own.
  M in_group(F x, int g) const {
    F size = abs(x);
    M above = g ? less(set(thresholds[g - 1]), size) : less_equal(set(-1.0f), size);
    return g + 1 < groups ? both(above, less_equal(size, set(thresholds[g]))) : above;
  }
  // The code within group g, whatever group x is in.
  I within(F x, int g) const { return encode(uniform(scales[g], zeros[g], bits), x); }
  I code(F x) const {
    I c = set(0);
    for (int g = 0; g < groups; ++g) {
      M mine = in_group(x, g);
      if (any(mine)) c = select(mine, within(x, g) + set(g << bits), c);
    }
    return c;
  }
  F value(I code) const {
    F v = set(0.0f);
    for (int g = 0; g < groups; ++g) {
      I inside = code - set(g << bits);
      F position = to_float(inside);
      M mine = both(less_equal(set(0.0f), position), less(position, set(static_cast<float>(1 << bits))));
      if (any(mine)) v = select(mine, to_float(inside - set(zeros[g])) * set(scales[g]), v);
    }
    return v;
  }
};

}  // namespace
}  // namespace onnxptq
