// LogBaseQuantizeLinear and LogBaseDequantizeLinear.
#include "coders.h"
#include "pointwise.h"

namespace onnxptq {
namespace {

Error read(const void* state, Call& call, LogBase* coder) {
  return coder->read(call, {{call.input(1), call.input(2), Tensor{}}}, static_cast<const Width*>(state)->bits);
}

Error quantize(const void* state, Call& call) {
  LogBase coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  map<float, uint8_t>(call, x, call.output(0, x.dims, x.rank), [&](F v) { return coder.code(v); });
  return nullptr;
}

Error dequantize(const void* state, Call& call) {
  LogBase coder;
  if (Error error = read(state, call, &coder)) return error;
  Tensor x = call.input(0);
  map<uint8_t, float>(call, x, call.output(0, x.dims, x.rank), [&](I v) { return coder.value(v); });
  return nullptr;
}

#define ONNXPTQ_PARAMETERS \
  {"values", kFloat, false}, { "edges", kFloat, false }

const Op kOps[] = {
    {"onnxptq",
     "LogBaseQuantizeLinear",
     {{"x", kFloat, false}, ONNXPTQ_PARAMETERS},
     {{"codes", kUint8, false}},
     create_width,
     quantize,
     "bits=4 | float[7,33]~unit float[16]~descending float[15]~descending"},
    {"onnxptq",
     "LogBaseDequantizeLinear",
     {{"codes", kUint8, false}, ONNXPTQ_PARAMETERS},
     {{"y", kFloat, false}},
     create_width,
     dequantize,
     "bits=4 | uint8[7,33]~uint:15 float[16]~descending float[15]~descending"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(log_base, onnxptq::kOps)
