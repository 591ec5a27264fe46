// Stored weight codes: 8 bits as int8, 4 bits as INT4, other widths as a little-endian bit stream of unsigned codes.
#pragma once
#include "shapes.h"

namespace onnxptq {
namespace {

// Checks that `codes` can hold `count` codes of `bits` bits.
inline Error check_codes(Messenger& to, const Tensor& codes, int bits, int64_t count) {
  const int64_t bytes = (count + 7) / 8 * bits;
  if (codes.type == kInt8 && bits == 8 && codes.count == count) return nullptr;
  if (codes.type == kInt4 && bits == 4 && codes.count == count) return nullptr;
  if (codes.type == kUint8 && bits < 8 && codes.rank == 1 && codes.count == bytes) return nullptr;
  return to.fail(
      "weight codes %s of element type %d do not hold %lld codes of %d bits (8 bits: int8; 4 bits: int4; else "
      "uint8 [%lld])",
      show(codes).text, codes.type, static_cast<long long>(count), bits, static_cast<long long>(bytes));
}

// Signed codes [from, from + n) of checked `codes`.
inline void unpack(const Tensor& codes, int bits, int64_t from, int64_t n, int8_t* out) {
  const uint8_t* bytes = static_cast<const uint8_t*>(codes.data);
  if (codes.type == kInt8) {
    memcpy(out, bytes + from, static_cast<size_t>(n));
  } else if (codes.type == kInt4) {
    for (int64_t i = 0; i < n; ++i) {
      int nibble = bytes[(from + i) / 2] >> (from + i) % 2 * 4 & 15;
      out[i] = static_cast<int8_t>((nibble ^ 8) - 8);
    }
  } else {
    const int half = 1 << (bits - 1), mask = 2 * half - 1;
    for (int64_t i = 0; i < n; ++i) {
      int64_t bit = (from + i) * bits, at = bit / 8;
      int pair = bytes[at] | (bit % 8 + bits > 8 ? bytes[at + 1] << 8 : 0);
      out[i] = static_cast<int8_t>((pair >> bit % 8 & mask) - half);
    }
  }
}

}  // namespace
}  // namespace onnxptq
