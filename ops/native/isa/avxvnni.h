// AVX2 with dot products of bytes: client CPUs from 2021, which have no AVX-512.
#pragma once
#include "isa/avx2.h"

#define ONNXPTQ_DOT 1

namespace onnxptq {
namespace {

inline V dot(V acc, V u, V s) { return _mm256_dpbusd_avx_epi32(acc, u, s); }

}  // namespace
}  // namespace onnxptq
