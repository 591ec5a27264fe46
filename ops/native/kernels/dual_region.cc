// DualRegionQuantizeLinear and DualRegionDequantizeLinear.
#include "coders.h"
#include "pointwise.h"

namespace onnxptq {
namespace {

struct State {
  int bits;
  bool gelu;
};

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "bits", 2, &s->bits, &error)) return error;
  char form[16] = "softmax";
  node.get_string("form", form, sizeof(form));
  s->gelu = !strcmp(form, "gelu");
  return s->gelu || !strcmp(form, "softmax") ? nullptr : node.fail("form = %s; it must be softmax or gelu", form);
}

Error read(const void* state, Call& call, DualRegion* coder) {
  const State& s = *static_cast<const State*>(state);
  return coder->read(call, {{call.input(1), call.input(2), call.input(3)}}, s.bits, s.gelu);
}

Error quantize(const void* state, Call& call) {
  DualRegion coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  map<float, uint8_t>(call, x, call.output(0, x.dims, x.rank), [&](F v) { return coder.code(v); });
  return nullptr;
}

Error dequantize(const void* state, Call& call) {
  DualRegion coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  map<uint8_t, float>(call, x, call.output(0, x.dims, x.rank), [&](I v) { return coder.value(v); });
  return nullptr;
}

#define ONNXPTQ_PARAMETERS \
  {"scale_low", kFloat, false}, {"scale_high", kFloat, false}, { "threshold", kFloat, false }

const Op kOps[] = {
    {"onnxptq",
     "DualRegionQuantizeLinear",
     {{"x", kFloat, false}, ONNXPTQ_PARAMETERS},
     {{"codes", kUint8, false}},
     create,
     quantize,
     "bits=4 form=softmax | float[7,33]~unit float[]=0.01 float[]=0.14 float[]=0.07\n"
     "bits=6 form=gelu | float[7,33]~normal float[]=0.005 float[]=0.1 float[]=0"},
    {"onnxptq",
     "DualRegionDequantizeLinear",
     {{"codes", kUint8, false}, ONNXPTQ_PARAMETERS},
     {{"y", kFloat, false}},
     create,
     dequantize,
     "bits=4 form=softmax | uint8[7,33]~uint:15 float[]=0.01 float[]=0.14 float[]=0.07\n"
     "bits=6 form=gelu | uint8[7,33]~uint:63 float[]=0.005 float[]=0.1 float[]=0"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(dual_region, onnxptq::kOps)
