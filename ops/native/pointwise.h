// Ops that treat every element alike.
#pragma once
#include "shapes.h"
#include "simd.h"

namespace onnxptq {
namespace {

inline void store(uint16_t* p, I x, int n) {
  int32_t lanes[kLanes];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = static_cast<uint16_t>(lanes[i]);
}
inline void store(uint16_t* p, I x) { store(p, x, kLanes); }
inline I load(const uint16_t* p, int n) {
  int32_t lanes[kLanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline I load(const uint16_t* p) { return load(p, kLanes); }

// y[i] = body(x[i]), a vector at a time.
template <typename From, typename To, typename Body>
void map(Call& call, const Tensor& x, void* out, Body body) {
  constexpr int64_t kGrain = 1 << 15;
  const From* source = static_cast<const From*>(x.data);
  To* target = static_cast<To*>(out);
  parallel(call, ceil_div(x.count, kGrain), 0, [&](int64_t item, void*) {
    const int64_t from = item * kGrain, n = x.count - from < kGrain ? x.count - from : kGrain;
    const From* a = source + from;
    To* b = target + from;
    walk(
        n, [&](int64_t i) { store(b + i, body(load(a + i))); },
        [&](int64_t i, int part) { store(b + i, body(load(a + i, part)), part); });
  });
}

// The state of an op whose only attribute is its width.
struct Width {
  int bits;
};

inline Error create_width(Node& node, void** state) {
  Width* s = static_cast<Width*>(node.keep(sizeof(Width)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  return read_bits(node, "bits", 2, &s->bits, &error) ? nullptr : error;
}

}  // namespace
}  // namespace onnxptq
