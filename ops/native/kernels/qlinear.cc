// QLinear: epilogue(decode(encode(x)) decode(w) + bias), multiplied in integers.
#include "gemm_float.h"
#include "product.h"

namespace onnxptq {
namespace {

struct State {
  int x_bits, w_bits, epilogue, highest;
  SchemeKind scheme;
  bool gelu, as_float;  // form of dual_region; whether products are float
  int64_t k, n, group;
  bool packed;
  Packed w;
};

enum Input { kX, kCodes, kScale, kZero, kBias, kP0, kP1, kP2 };

template <typename Allocate>
Error pack_weights(Messenger& to, const State& s, const Tensor& codes, const Tensor& scale, const Tensor& zero,
                   Allocate allocate, Packed* out) {
  return pack(to, codes, scale, zero, s.w_bits, s.as_float ? 0 : s.highest, s.k, s.n, s.group, allocate, out);
}

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "x_bits", 0, &s->x_bits, &error) || !read_bits(node, "w_bits", 2, &s->w_bits, &error))
    return error;
  char text[32] = "uniform", form[16] = "softmax";
  node.get_string("x_scheme", text, sizeof(text));
  if (!scheme_named(text, &s->scheme) || s->scheme == kRow) return node.fail("x_scheme = %s is not known", text);
  node.get_string("x_form", form, sizeof(form));
  s->gelu = !strcmp(form, "gelu");
  if (!s->gelu && strcmp(form, "softmax")) return node.fail("x_form = %s; it must be softmax or gelu", form);
  if ((error = read_epilogue(node, true, &s->epilogue))) return error;
  if (!node.get_int("K", &s->k) || !node.get_int("N", &s->n) || s->k < 0 || s->n < 0 || s->k > INT32_MAX ||
      s->n > INT32_MAX)
    return "attributes K and N must give the weight's shape";
  s->group = get_int(node, "w_group", 0);
  if (s->group < 0 || s->group > kMostDepth) return "w_group must be 0 to 32768";
  s->as_float = s->x_bits == 0 || s->scheme == kLogBase;
  if (!s->as_float)
    s->highest = highest_code(node, s->scheme, s->gelu, s->x_bits,
                              {{node.constant(kP0), node.constant(kP1), node.constant(kP2)}});
  Tensor codes = node.constant(kCodes), scale = node.constant(kScale), zero = node.constant(kZero);
  if (codes.present && scale.present && zero.present) {
    error = pack_weights(node, *s, codes, scale, zero, [&](size_t bytes) { return node.keep(bytes); }, &s->w);
    s->packed = !error;
  }
  return error;
}

template <typename Values>
bool run_float(Call& call, int epilogue, Values values, const float* x, int64_t m, const Packed& w, const float* bias,
               float* y) {
  if (epilogue == kGelu) return run_float_product<kGelu>(call, values, x, m, w, bias, y);
  if (epilogue == kRelu) return run_float_product<kRelu>(call, values, x, m, w, bias, y);
  return run_float_product<kNone>(call, values, x, m, w, bias, y);
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
            [&](size_t bytes) { return call.temporary(bytes); }, &fresh))
      return error;
  const Packed& w = s.packed ? s.w : fresh;
  int64_t dims[kMaxRank];
  memcpy(dims, x.dims, sizeof(dims));
  dims[x.rank - 1] = s.n;
  const int64_t m = product(x.dims, 0, x.rank - 1);
  float* y = static_cast<float*>(call.output(0, dims, x.rank));
  const float* biases = static_cast<const float*>(bias.data);
  const float* rows = static_cast<const float*>(x.data);
  const Parameters given = {{call.input(kP0), call.input(kP1), call.input(kP2)}};
  if (s.x_bits == 0)
    return run_float(call, s.epilogue, [](F v) { return v; }, rows, m, w, biases, y) ? nullptr : "out of memory";
  if (s.scheme == kLogBase) {
    LogBase coder;
    if (Error error = coder.read(call, given, s.x_bits)) return error;
    return run_float(
               call, s.epilogue, [&](F v) { return coder.value(coder.code(v)); }, rows, m, w, biases, y)
               ? nullptr
               : "out of memory";
  }
  return run_scheme(call, s.scheme, s.gelu, s.x_bits, s.highest, given, rows, m, w, s.epilogue, biases, y);
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
     "int8[40]~int:9 float[40]~normal float[]~scale uint8[]=128\n"
     "x_bits=4 w_bits=4 x_scheme=token w_group=16 epilogue=gelu K=70 N=40 | float[13,70]~normal int4[70,40]~int:7 "
     "float[5,40]~scale int8[5,40]~int:3\n"
     "x_bits=6 w_bits=6 x_scheme=dual_region x_form=gelu K=70 N=33 | float[13,70]~normal uint8[1734]~uint:255 "
     "float[33]~scale "
     "int8[33]~int:9 - float[]=0.005 float[]=0.1 float[]=0\n"
     "x_bits=4 w_bits=8 x_scheme=table epilogue=relu K=9 N=5 | float[2,9]~normal int8[9,5]~int:127 float[5]~scale "
     "int8[5]~int:9 float[5]~normal int8[16]~ascending float[]=0.05 float[15]~ascending\n"
     "x_bits=4 w_bits=8 x_scheme=log_base K=70 N=40 | float[13,70]~unit int8[70,40]~int:127 float[40]~scale "
     "int8[40]~int:9 - float[16]~descending float[15]~descending\n"
     "x_bits=4 w_bits=8 x_scheme=outlier_retained x_groups=3 K=70 N=40 | float[13,70]~normal int8[70,40]~int:127 "
     "float[40]~scale int8[40]~int:9 - float[2]~ascending float[3]~ascending uint8[3]~uint:15\n"
     "x_bits=0 w_bits=8 K=70 N=40 | float[13,70]~normal int8[70,40]~int:127 float[40]~scale int8[40]~int:9"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(qlinear, onnxptq::kOps)
