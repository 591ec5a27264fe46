// Rows of floats, encoded on the way into the panels of gemm.h. A panel is kRows wide where rows are the left operand,
// kColumns where they are columns of the right one; codes may be signed.
#pragma once
#include "gemm.h"

namespace onnxptq {
namespace {

constexpr int kFour = 4;  // rows encoded side by side
static_assert(kRows % kFour == 0 && kColumns % kFour == 0, "panels are filled four rows at a time");

#if defined(ONNXPTQ_AVX512)
// Codes of 16 neighbouring k of four rows to their words.
template <int width>
inline void scatter_bytes(const I* codes, char* panel) {
  __m128i a = _mm512_cvtepi32_epi8(raw(codes[0])), b = _mm512_cvtepi32_epi8(raw(codes[1]));
  __m128i c = _mm512_cvtepi32_epi8(raw(codes[2])), d = _mm512_cvtepi32_epi8(raw(codes[3]));
  __m128i ab = _mm_unpacklo_epi32(a, b), cd = _mm_unpacklo_epi32(c, d);
  __m128i ef = _mm_unpackhi_epi32(a, b), gh = _mm_unpackhi_epi32(c, d);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(panel), _mm_unpacklo_epi64(ab, cd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(panel + 4 * width), _mm_unpackhi_epi64(ab, cd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(panel + 8 * width), _mm_unpacklo_epi64(ef, gh));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(panel + 12 * width), _mm_unpackhi_epi64(ef, gh));
}
#endif

// Writes words [0, words) of each row; codes past the end are already zero.
template <int width>
inline void scatter(const I* codes, bool wide, int words, char* panel) {
#if defined(ONNXPTQ_AVX512)
  if (!wide && words == 4) return scatter_bytes<width>(codes, panel);
#endif
  for (int r = 0; r < kFour; ++r) {
    union {
      uint8_t bytes[4 * kLanes];
      int32_t words[kLanes];
    } row;
    if (wide) {
      int32_t lanes[kLanes];
      store(lanes, codes[r] & 0xffff);
      for (int i = 0; i < kLanes / 2; ++i)
        row.words[i] =
            static_cast<int32_t>(static_cast<uint32_t>(lanes[2 * i]) | static_cast<uint32_t>(lanes[2 * i + 1]) << 16);
    } else {
      store(row.bytes, codes[r] & 0xff);
    }
    for (int i = 0; i < words; ++i) memcpy(panel + 4 * (i * width + r), &row.words[i], 4);
  }
}

inline I lanes_below(int n) {
  static const int32_t kMask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  return load(kMask + 16 - n);
}

// Encodes x[row][0..k) of up to `width` rows into `parts` panels, part_bytes apart, and writes each row's sum of codes
// to sums[part * width + row] (0 where nobody needs it). `code(row, values, out)` gives the codes of all parts of a
// vector.
template <int width, int parts, bool summed, typename Code>
inline void encode_parts(const float* x, int64_t stride, int rows, int64_t k, const Product& product, Code code,
                         char* panel, int64_t part_bytes, int32_t* sums) {
  const int words = kLanes / product.per_step();
  for (int row = 0; row < rows; row += kFour) {
    const float* from[kFour];
    I total[parts][kFour], codes[parts][kFour];
    for (int r = 0; r < kFour; ++r) {
      from[r] = x + (row + r < rows ? row + r : row) * stride;
      for (int p = 0; p < parts; ++p) total[p][r] = set(0);
    }
    char* to = panel + 4 * row;
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes, to += 4 * words * width) {
      ONNXPTQ_UNROLL
      for (int r = 0; r < kFour; ++r) {
        I out[parts];
        code(row + r, load(from[r] + i), out);
        ONNXPTQ_UNROLL
        for (int p = 0; p < parts; ++p) {
          codes[p][r] = out[p];
          if (summed) total[p][r] += out[p];
        }
        __builtin_prefetch(from[r] + i + kFour * stride);
      }
      ONNXPTQ_UNROLL
      for (int p = 0; p < parts; ++p) scatter<width>(codes[p], product.wide, words, to + p * part_bytes);
    }
    if (i < k) {
      const int n = static_cast<int>(k - i);
      const I valid = lanes_below(n);
      for (int r = 0; r < kFour; ++r) {
        I out[parts];
        code(row + r, load(from[r] + i, n), out);
        for (int p = 0; p < parts; ++p) {
          codes[p][r] = out[p] & valid;
          total[p][r] += codes[p][r];
        }
      }
      for (int p = 0; p < parts; ++p)
        scatter<width>(codes[p], product.wide, static_cast<int>(product.steps(n)), to + p * part_bytes);
    }
    for (int p = 0; p < parts; ++p)
      for (int r = 0; r < kFour && row + r < rows; ++r) sums[p * width + row + r] = summed ? sum(total[p][r]) : 0;
  }
}

// The same for one part: `code(row, values)` gives the codes of a vector of values.
template <int width = kRows, typename Code>
inline void encode_panel(const float* x, int64_t stride, int rows, int64_t k, const Product& product, bool summed,
                         Code code, char* panel, int32_t* sums) {
  auto one = [&code](int r, F v, I* out) { out[0] = code(r, v); };
  if (summed)
    encode_parts<width, 1, true>(x, stride, rows, k, product, one, panel, 0, sums);
  else
    encode_parts<width, 1, false>(x, stride, rows, k, product, one, panel, 0, sums);
}

}  // namespace
}  // namespace onnxptq
