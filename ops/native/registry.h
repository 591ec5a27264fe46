// Which kernels this library has, and which instruction set it uses here.
#pragma once
#include "kernel.h"

namespace onnxptq {

struct Kernels {
  const char* family;
  const char* isa;
  Family (*ops)();
};

// Every (family, instruction set) compiled in; instruction sets from worst to best.
const Kernels* all_kernels(size_t* count);

// Name of the index-th compiled instruction set, worst first; null past the end.
const char* isa_name(size_t index);

bool cpu_has(const char* isa);

// The best instruction set of this CPU, at most `cap` (null: no cap). Null if the cap is no known name.
const char* best_isa(const char* cap);

}  // namespace onnxptq
