// The affine code: clip(rint(x / scale) + zero, 0, 2^bits - 1), NaN -> 0.
#pragma once
#include "simd.h"

namespace onnxptq {
namespace {

struct Uniform {
  F scale, low, high;
  I zero;
};

inline Uniform uniform(float scale, int zero, int bits) {
  return {set(scale), set(static_cast<float>(-zero)), set(static_cast<float>((1 << bits) - 1 - zero)), set(zero)};
}

// Clipping first gives the same codes and keeps every rounded value small; max turns NaN into `low`.
inline I encode(const Uniform& u, F x) { return to_int(min(max(x / u.scale, u.low), u.high)) + u.zero; }

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
