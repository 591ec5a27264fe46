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

// The range of one row with 0 inside it, as a scale and a zero point.
inline Affine row_range(const float* x, int64_t n, int bits) {
  const F limit = set(kLargest), below = set(-kLargest);
  F low = set(0.0f), high = set(0.0f);
  auto fold = [&](F v) {
    v = select(is_nan(v), set(0.0f), v);
    low = min(v, low);
    high = max(v, high);
  };
  walk(n, [&](int64_t i) { fold(load(x + i)); }, [&](int64_t i, int part) { fold(load(x + i, part)); });
  float lo = lowest(max(low, below)), hi = highest(min(high, limit));
  float top = static_cast<float>((1 << bits) - 1);
  float scale = hi / top - lo / top;
  if (!(scale > kSmallestNormal)) scale = kSmallestNormal;
  float zero = nearbyintf(-lo / scale);
  return {scale, static_cast<int>(zero < 0 ? 0 : zero > top ? top : zero)};
}

}  // namespace
}  // namespace onnxptq
