// DequantizeWeight: stored codes to floats, for weights that no fused op takes.
#include "weights.h"

#include "simd.h"

namespace onnxptq {
namespace {

constexpr int64_t kGrain = 1 << 14;

struct State {
  int bits, axis, rank;
  int64_t group, dims[kMaxRank];
};

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "bits", 2, &s->bits, &error)) return error;
  s->rank = node.get_ints("shape", s->dims, kMaxRank);
  if (s->rank < 1 || s->rank > kMaxRank) return "attribute shape must list 1 to 12 dimensions";
  int64_t count = 1;
  for (int i = 0; i < s->rank; ++i) {
    if (s->dims[i] < 0) return "attribute shape has a negative dimension";
    const int64_t d = s->dims[i] ? s->dims[i] : 1;
    if (count > (int64_t{1} << 40) / d) return "attribute shape is too large";
    count *= d;
  }
  int64_t axis = get_int(node, "axis", 0);
  if (axis < -s->rank || axis >= s->rank)
    return node.fail("axis = %lld is outside of shape", static_cast<long long>(axis));
  s->axis = static_cast<int>(axis < 0 ? axis + s->rank : axis);
  s->group = get_int(node, "group", 0);
  if (s->group < 0 || s->group > INT32_MAX) return "group must not be negative, or beyond 2147483647";
  if (s->group > 0 && (s->rank != 2 || s->axis != 1)) return "group needs a weight of shape [K, N] and axis = 1";
  return nullptr;
}

Error run(const void* state, Call& call) {
  const State& s = *static_cast<const State*>(state);
  Tensor codes = call.input(0), scale = call.input(1), zero = call.input(2);
  const int64_t count = product(s.dims, 0, s.rank), channels = s.dims[s.axis],
                inner = product(s.dims, s.axis + 1, s.rank);
  if (Error error = check_codes(call, codes, s.bits, count)) return error;
  const int64_t groups = s.group ? ceil_div(s.dims[0], s.group) : 1;
  if (scale.count != groups * channels || zero.count != scale.count)
    return call.fail("scale %s and zero %s must hold %lld values each", show(scale).text, show(zero).text,
                     static_cast<long long>(groups * channels));
  float* y = static_cast<float*>(call.output(0, s.dims, s.rank));
  if (!count) return nullptr;
  const float* scales = static_cast<const float*>(scale.data);
  const int8_t* zeros = static_cast<const int8_t*>(zero.data);
  bool ok = parallel(call, ceil_div(count, kGrain), kGrain, [&](int64_t item, void* scratch) {
    int8_t* raw = static_cast<int8_t*>(scratch);
    int64_t from = item * kGrain, n = count - from < kGrain ? count - from : kGrain;
    unpack(codes, s.bits, from, n, raw);
    for (int64_t i = 0; i < n; ++i) {
      int64_t at = from + i, channel = at / inner % channels;
      if (s.group) channel += at / channels / s.group * channels;
      y[at] = static_cast<float>(raw[i] - zeros[channel]) * scales[channel];
    }
  });
  return ok ? nullptr : "out of memory";
}

const Op kOps[] = {
    {"onnxptq",
     "DequantizeWeight",
     {{"codes", kAny, false}, {"scale", kFloat, false}, {"zero", kInt8, false}},
     {{"w", kFloat, false}},
     create,
     run,
     "bits=8 axis=1 shape=9,20 | int8[9,20]~int:127 float[20]~scale int8[20]~int:9\n"
     "bits=6 axis=0 shape=5,3,2,2 | uint8[48]~uint:255 float[5]~scale int8[5]~int:9\n"
     "bits=4 axis=1 group=4 shape=10,6 | int4[10,6]~int:7 float[3,6]~scale int8[3,6]~int:3"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(weights, onnxptq::kOps)
