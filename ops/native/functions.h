// exp and erf, and the activations that a product may end with.
#pragma once
#include "simd.h"

namespace onnxptq {
namespace {

// e^x for x <= 88, below 1 ulp (2 without FMA); 0 where it is no normal number, since those are slow.
inline F exp(F x) {
  const M gone = less(x, set(-87.3f));
  x = max(x, set(-87.3f));
  F n = rint(x * set(0x1.715476p+0f));
  F r = fnma(n, set(0x1.62e430p-1f), x);
  r = fnma(n, set(-0x1.05c610p-29f), r);
  F p = set(0x1.6a215ap-10f);
  p = fma(p, r, set(0x1.123b9cp-7f));
  p = fma(p, r, set(0x1.5558fcp-5f));
  p = fma(p, r, set(0x1.555490p-3f));
  p = fma(p, r, set(0x1.fffffcp-2f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return select(gone, set(0.0f), scale_by_power(p, n));
}

// erf(x), relative error below 4e-7: a ratio of two polynomials fitted on [-3.93, 3.93], 1 to float precision beyond.
inline F erf(F x) {
  x = max(min(x, set(3.93f)), set(-3.93f));
  F s = x * x;
  F p = set(0x1.12110cp-19f), q = set(0x1.3ecc88p-15f);
  p = fma(p, s, set(0x1.2aa41ep-12f)), q = fma(q, s, set(0x1.31735ep-10f));
  p = fma(p, s, set(0x1.ef6580p-9f)), q = fma(q, s, set(0x1.eb6f0ep-7f));
  p = fma(p, s, set(0x1.b07504p-5f)), q = fma(q, s, set(0x1.d3ff68p-4f));
  p = fma(p, s, set(0x1.86b95ep-3f)), q = fma(q, s, set(0x1.013be0p-1f));
  p = fma(p, s, set(0x1.20dd74p+0f)), q = fma(q, s, set(1.0f));
  return max(min(x * p / q, set(1.0f)), set(-1.0f));
}

enum Epilogue : int { kNone, kGelu, kRelu };

template <int epilogue>
inline F finish(F y) {
  if (epilogue == kRelu) return max(y, set(0.0f));
  if (epilogue == kGelu) return set(0.5f) * y * (set(1.0f) + erf(y * set(0.70710678f)));
  return y;
}

inline Error read_epilogue(Node& node, bool gelu, int* epilogue) {
  char text[16] = "none";
  node.get_string("epilogue", text, sizeof(text));
  *epilogue = !strcmp(text, "none")           ? kNone
              : !strcmp(text, "relu")         ? kRelu
              : gelu && !strcmp(text, "gelu") ? kGelu
                                              : -1;
  if (*epilogue < 0) return node.fail("epilogue = %s; it must be none, relu%s", text, gelu ? " or gelu" : "");
  return nullptr;
}

}  // namespace
}  // namespace onnxptq
