// OutlierRetainedQuantizeLinear and OutlierRetainedDequantizeLinear; codes are uint16 where a byte is too small.
#include "coders.h"
#include "pointwise.h"

namespace onnxptq {
namespace {

struct Coding : Width {
  int64_t groups;
};

Error create(Node& node, void** state) {
  Coding* s = static_cast<Coding*>(node.keep(sizeof(Coding)));
  if (!s) return "out of memory";
  *state = s;
  s->groups = get_int(node, "groups", 1);
  Error error = nullptr;
  return read_bits(node, "bits", 2, &s->bits, &error) ? nullptr : error;
}

Error read(const void* state, Call& call, OutlierRetained* coder) {
  return coder->read(call, {{call.input(1), call.input(2), call.input(3)}}, static_cast<const Width*>(state)->bits);
}

Error quantize(const void* state, Call& call) {
  const Coding& s = *static_cast<const Coding*>(state);
  OutlierRetained coder;
  if (Error error = read(&s, call, &coder)) return error;
  // The type of the codes was told by the attribute alone.
  if (coder.groups != s.groups)
    return call.fail("groups = %lld, but there are %d scales", static_cast<long long>(s.groups), coder.groups);
  Tensor x = call.input(0);
  void* y = call.output(0, x.dims, x.rank);
  if (coder.bits + coder.index_bits() > 8)
    map<float, uint16_t>(call, x, y, [&](F v) { return coder.code(v); });
  else
    map<float, uint8_t>(call, x, y, [&](F v) { return coder.code(v); });
  return nullptr;
}

Error dequantize(const void* state, Call& call) {
  OutlierRetained coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  const Type type = coder.bits + coder.index_bits() > 8 ? kUint16 : kUint8;
  if (x.type != type) return call.fail("codes must be %s", type == kUint16 ? "uint16" : "uint8");
  float* y = static_cast<float*>(call.output(0, x.dims, x.rank));
  if (type == kUint16)
    map<uint16_t, float>(call, x, y, [&](I v) { return coder.value(v); });
  else
    map<uint8_t, float>(call, x, y, [&](I v) { return coder.value(v); });
  return nullptr;
}

Type code_type(Attributes& attributes) {
  int64_t bits = 8, groups = 1, index = 0;
  attributes.get_int("bits", &bits), attributes.get_int("groups", &groups);
  while (index < 8 && int64_t{1} << index < groups) ++index;
  return bits + index > 8 ? kUint16 : kUint8;
}

#define ONNXPTQ_PARAMETERS \
  {"thresholds", kFloat, false}, {"scales", kFloat, false}, { "zeros", kUint8, false }

const Op kOps[] = {
    {"onnxptq",
     "OutlierRetainedQuantizeLinear",
     {{"x", kFloat, false}, ONNXPTQ_PARAMETERS},
     {{"codes", kAny, false}},
     create,
     quantize,
     "bits=4 groups=3 | float[7,33]~normal float[2]~ascending float[3]~ascending uint8[3]~uint:15\n"
     "bits=8 groups=3 | float[7,33]~normal float[2]~ascending float[3]~ascending uint8[3]~uint:255",
     code_type},
    {"onnxptq",
     "OutlierRetainedDequantizeLinear",
     {{"codes", kAny, false}, ONNXPTQ_PARAMETERS},
     {{"y", kFloat, false}},
     create_width,
     dequantize,
     "bits=4 | uint8[7,33]~uint:47 float[2]~ascending float[3]~ascending uint8[3]~uint:15\n"
     "bits=8 | uint16[7,33]~uint:767 float[2]~ascending float[3]~ascending uint8[3]~uint:255"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(outlier_retained, onnxptq::kOps)
