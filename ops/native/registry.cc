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
}  // namespace onnxptq
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static void cpuid(unsigned leaf, unsigned part, unsigned (&r)[4]) { __cpuidex(reinterpret_cast<int*>(r), leaf, part); }
static unsigned long long enabled() { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpuid(unsigned leaf, unsigned part, unsigned (&r)[4]) {
  if (!__get_cpuid_count(leaf, part, &r[0], &r[1], &r[2], &r[3])) r[0] = r[1] = r[2] = r[3] = 0;
}
static unsigned long long enabled() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<unsigned long long>(high) << 32;
}
#endif
namespace onnxptq {
// Read from the CPU: __builtin_cpu_supports answers no to everything where zig links it.
bool cpu_has(const char* isa) {
  unsigned one[4], seven[4], more[4];
  cpuid(1, 0, one);
  cpuid(7, 0, seven);
  cpuid(7, 1, more);  // zeros where there is no such part
  auto bit = [](unsigned word, int place) { return (word >> place & 1) != 0; };
  constexpr unsigned long long kYmm = 0x6, kZmm = 0xe6;  // registers that the operating system saves
  const unsigned long long saved = bit(one[2], 27) ? enabled() : 0;
  const bool avx2 = bit(seven[1], 5) && bit(one[2], 12) && (saved & kYmm) == kYmm;
  const bool avx512bw = avx2 && (saved & kZmm) == kZmm && bit(seven[1], 16) && bit(seven[1], 30) && bit(seven[1], 31) &&
                        bit(seven[1], 17);
  if (!strcmp(isa, "avx2")) return avx2;
  if (!strcmp(isa, "avxvnni")) return avx2 && bit(more[0], 4);
  if (!strcmp(isa, "avx512bw")) return avx512bw;
  if (!strcmp(isa, "avx512vnni")) return avx512bw && bit(seven[2], 11);
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
#elif defined(__aarch64__) && defined(__APPLE__)
}  // namespace onnxptq
#include <sys/sysctl.h>
namespace onnxptq {
bool cpu_has(const char* isa) {
  int has = 0;
  size_t size = sizeof(has);
  if (!strcmp(isa, "dotprod"))
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) && has != 0;
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
