// AVX-512 with dot products of bytes.
#pragma once
#include "isa/avx512bw.h"

#define ONNXPTQ_DOT 1

namespace onnxptq {
namespace {

inline V dot(V acc, V u, V s) { return _mm512_dpbusd_epi32(acc, u, s); }

}  // namespace
}  // namespace onnxptq
