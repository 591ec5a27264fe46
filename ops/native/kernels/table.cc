// TableQuantizeLinear and TableDequantizeLinear.
#include "coders.h"
#include "pointwise.h"

namespace onnxptq {
namespace {

Error read(const void* state, Call& call, Table* coder) {
  return coder->read(call, {{call.input(1), call.input(2), call.input(3)}}, static_cast<const Width*>(state)->bits);
}

Error quantize(const void* state, Call& call) {
  Table coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  map<float, uint8_t>(call, x, call.output(0, x.dims, x.rank), [&](F v) { return coder.code(v); });
  return nullptr;
}

Error dequantize(const void* state, Call& call) {
  Table coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  map<uint8_t, float>(call, x, call.output(0, x.dims, x.rank), [&](I v) { return coder.value(v); });
  return nullptr;
}

#define ONNXPTQ_PARAMETERS \
  {"values", kInt8, false}, {"scale", kFloat, false}, { "edges", kFloat, false }

const Op kOps[] = {
    {"onnxptq",
     "TableQuantizeLinear",
     {{"x", kFloat, false}, ONNXPTQ_PARAMETERS},
     {{"codes", kUint8, false}},
     create_width,
     quantize,
     "bits=4 | float[7,33]~unit int8[16]~ascending float[]=0.05 float[15]~ascending"},
    {"onnxptq",
     "TableDequantizeLinear",
     {{"codes", kUint8, false}, ONNXPTQ_PARAMETERS},
     {{"y", kFloat, false}},
     create_width,
     dequantize,
     "bits=4 | uint8[7,33]~uint:15 int8[16]~ascending float[]=0.05 float[15]~ascending"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(table, onnxptq::kOps)
