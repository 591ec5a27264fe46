// QLinear: epilogue(decode(encode(x)) decode(w) + bias), multiplied in integers.
#include "product.h"

namespace onnxptq {
namespace {

struct State {
  int x_bits, w_bits, epilogue;
  bool token;
  int64_t k, n, group;
  bool packed;
  Packed w;
};

enum Input { kX, kCodes, kScale, kZero, kBias, kP0, kP1, kP2 };

Error pack_weights(Messenger& to, const State& s, const Tensor& codes, const Tensor& scale, const Tensor& zero,
                   void* (*allocate)(void*, size_t), void* from, Packed* out) {
  return pack(
      to, codes, scale, zero, s.w_bits, (1 << s.x_bits) - 1, s.k, s.n, s.group,
      [&](size_t bytes) { return allocate(from, bytes); }, out);
}

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "x_bits", 0, &s->x_bits, &error) || !read_bits(node, "w_bits", 2, &s->w_bits, &error))
    return error;
  char scheme[32] = "uniform";
  node.get_string("x_scheme", scheme, sizeof(scheme));
  s->token = !strcmp(scheme, "token");
  if (!s->token && strcmp(scheme, "uniform")) return node.fail("x_scheme = %s is not known", scheme);
  if ((error = read_epilogue(node, true, &s->epilogue))) return error;
  if (!node.get_int("K", &s->k) || !node.get_int("N", &s->n) || s->k < 0 || s->n < 0)
    return "attributes K and N must give the weight's shape";
  s->group = get_int(node, "w_group", 0);
  if (s->group < 0 || s->group > kMostDepth) return "w_group must be 0 to 32768";
  Tensor codes = node.constant(kCodes), scale = node.constant(kScale), zero = node.constant(kZero);
  if (codes.present && scale.present && zero.present) {
    error = pack_weights(
        node, *s, codes, scale, zero, [](void* n, size_t bytes) { return static_cast<Node*>(n)->keep(bytes); }, &node,
        &s->w);
    s->packed = !error;
  }
  return error;
}

Error run(const void* state, Call& call) {
  const State& s = *static_cast<const State*>(state);
  Tensor x = call.input(kX), bias = call.input(kBias);
  if (x.rank < 1 || x.dims[x.rank - 1] != s.k)
    return call.fail("x %s must end with K = %lld", show(x).text, static_cast<long long>(s.k));
  if (bias.present && bias.count != s.n)
    return call.fail("bias %s must hold N = %lld values", show(bias).text, static_cast<long long>(s.n));
  Packed fresh;
  if (!s.packed)
    if (Error error = pack_weights(
            call, s, call.input(kCodes), call.input(kScale), call.input(kZero),
            [](void* c, size_t bytes) { return static_cast<Call*>(c)->temporary(bytes); }, &call, &fresh))
      return error;
  const Packed& w = s.packed ? s.w : fresh;
  int64_t dims[kMaxRank];
  memcpy(dims, x.dims, sizeof(dims));
  dims[x.rank - 1] = s.n;
  const int64_t m = product(x.dims, 0, x.rank - 1);
  float* y = static_cast<float*>(call.output(0, dims, x.rank));
  const float* biases = static_cast<const float*>(bias.data);
  const float* rows = static_cast<const float*>(x.data);
  bool ok;
  if (s.token) {
    ok = run_product(call, TokenRows{s.x_bits}, rows, m, w, s.epilogue, biases, y);
  } else {
    Tensor scale = call.input(kP0), zero = call.input(kP1);
    if (scale.type != kFloat || scale.count != 1 || zero.type != kUint8 || zero.count != 1)
      return "x_scheme uniform needs p0, a float scale, and p1, a uint8 zero";
    ok = run_product(
        call, UniformRows{*static_cast<const float*>(scale.data), *static_cast<const uint8_t*>(zero.data), s.x_bits},
        rows, m, w, s.epilogue, biases, y);
  }
  return ok ? nullptr : "out of memory";
}

const Op kOps[] = {
    {"onnxptq",
     "QLinear",
     {{"x", kFloat, false},
      {"w_codes", kAny, false},
      {"w_scale", kFloat, false},
      {"w_zero", kInt8, false},
      {"bias", kFloat, true},
      {"p0", kAny, true},
      {"p1", kAny, true},
      {"p2", kAny, true}},
     {{"y", kFloat, false}},
     create,
     run,
     "x_bits=8 w_bits=8 x_scheme=uniform K=70 N=40 | float[3,11,70]~normal int8[70,40]~int:127 float[40]~scale "
     "int8[40]~int:9 float[40]~normal float[]~scale uint8[]=128"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(qlinear, onnxptq::kOps)
