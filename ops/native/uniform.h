// The affine code: clip(rint(x / scale) + zero, 0, 2^bits - 1), NaN -> 0.
#pragma once
#include "simd.h"

namespace onnxptq {
namespace {

struct Uniform {
  F scale, inverse, low, high, sure;
  I zero;
};

// Codes from `least` to `most`.
inline Uniform uniform_between(float scale, int zero, int least, int most) {
  const bool plain = scale > 0x1p-100f && scale < 0x1p100f;
  return {set(scale),
          set(1.0f / scale),
          set(static_cast<float>(least - zero)),
          set(static_cast<float>(most - zero)),
          set(plain ? 0.4999f : -1.0f),
          set(zero)};
}

inline Uniform uniform(float scale, int zero, int bits) { return uniform_between(scale, zero, 0, (1 << bits) - 1); }

// Clipping before rounding gives the same codes; max turns NaN into `low`. A product with the reciprocal is off by less
// than 1e-4, so it rounds like the quotient unless it lies that near to a tie.
inline I encode(const Uniform& u, F x) {
  F t = min(max(x * u.inverse, u.low), u.high);
  if (__builtin_expect(any(less(u.sure, abs(t - rint(t)))), 0)) t = min(max(x / u.scale, u.low), u.high);
  return to_int(t) + u.zero;
}

// The same with parameters that differ by lane.
inline I encode(F x, F scale, I zero, int bits) {
  F low = -to_float(zero), high = low + set(static_cast<float>((1 << bits) - 1));
  return to_int(min(max(x / scale, low), high)) + zero;
}

struct Affine {
  float scale;
  int zero;
};

constexpr float kSmallestNormal = 1.17549435e-38f;
constexpr float kLargest = 3.40282347e38f;

// The range from `low` to `high` with 0 inside it, as a scale and a zero point.
inline Affine affine(float low, float high, int bits) {
  const float top = static_cast<float>((1 << bits) - 1);
  float scale = high / top - low / top;
  if (!(scale > kSmallestNormal)) scale = kSmallestNormal;
  const float zero = nearbyintf(-low / scale);
  return {scale, static_cast<int>(zero < 0 ? 0 : zero > top ? top : zero)};
}

// Extrema of lanes, 0 among them: NaN counts as 0, infinities as the largest float.
struct Extrema {
  F low = set(0.0f), high = set(0.0f);

  void fold(F v) {
    v = select(is_nan(v), set(0.0f), v);
    low = min(v, low);
    high = max(v, high);
  }
  F lows() const { return max(low, set(-kLargest)); }
  F highs() const { return min(high, set(kLargest)); }
};

// The range of one row.
inline Affine row_range(const float* x, int64_t n, int bits) {
  Extrema e;
  walk(n, [&](int64_t i) { e.fold(load(x + i)); }, [&](int64_t i, int part) { e.fold(load(x + i, part)); });
  return affine(lowest(e.lows()), highest(e.highs()), bits);
}

// The ranges of up to kLanes neighbouring columns.
inline void column_ranges(const float* x, int64_t rows, int64_t stride, int columns, int bits, Affine* out) {
  Extrema e;
  for (int64_t i = 0; i < rows; ++i, x += stride) e.fold(columns == kLanes ? load(x) : load(x, columns));
  float low[kLanes], high[kLanes];
  store(low, e.lows()), store(high, e.highs());
  for (int j = 0; j < columns; ++j) out[j] = affine(low[j], high[j], bits);
}

}  // namespace
}  // namespace onnxptq
