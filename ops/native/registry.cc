// The generated table of kernels, read twice, and the CPU's features.
#include "registry.h"

#define FAMILY(family, isa) extern "C" onnxptq::Family onnxptq_##family##_##isa();
#define ISA(isa)
#include "kernels.inc"
#undef FAMILY
#undef ISA

namespace onnxptq {

static const Kernels kKernels[] = {
#define FAMILY(family, isa) {#family, #isa, onnxptq_##family##_##isa},
#define ISA(isa)
#include "kernels.inc"
#undef FAMILY
#undef ISA
};

static const char* const kIsas[] = {
#define FAMILY(family, isa)
#define ISA(isa) #isa,
#include "kernels.inc"
#undef FAMILY
#undef ISA
};

const Kernels* all_kernels(size_t* count) {
  *count = sizeof(kKernels) / sizeof(kKernels[0]);
  return kKernels;
}

const char* isa_name(size_t index) { return index < sizeof(kIsas) / sizeof(kIsas[0]) ? kIsas[index] : nullptr; }

#if defined(__x86_64__) || defined(_M_X64)
bool cpu_has(const char* isa) {
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512bw = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!strcmp(isa, "avx2")) return avx2;
  if (!strcmp(isa, "avx512bw")) return avx512bw;
  if (!strcmp(isa, "avx512vnni")) return avx512bw && __builtin_cpu_supports("avx512vnni");
  return !strcmp(isa, "portable");
}
#elif defined(__aarch64__) && defined(__linux__)
}  // namespace onnxptq
#include <sys/auxv.h>
namespace onnxptq {
bool cpu_has(const char* isa) {
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if (!strcmp(isa, "dotprod")) return (getauxval(AT_HWCAP) & kDotProduct) != 0;
  return !strcmp(isa, "portable") || !strcmp(isa, "neon");
}
#else
bool cpu_has(const char* isa) { return !strcmp(isa, "portable"); }
#endif

const char* best_isa(const char* cap) {
  const char* best = nullptr;
  bool known = false;
  for (size_t i = 0; isa_name(i) && !known; ++i) {
    if (cpu_has(isa_name(i))) best = isa_name(i);
    known = cap && !strcmp(cap, isa_name(i));
  }
  return known || !cap ? best : nullptr;
}

}  // namespace onnxptq
