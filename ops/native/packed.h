// Weight codes as panels of one operand, with what the correction of zero points needs.
#pragma once
#include <cstdlib>

#include "gemm.h"
#include "weights.h"

namespace onnxptq {
namespace {

constexpr int64_t kMostDepth = 32768;  // products of 255 x 255 that 32 bits can sum

struct Packed {
  int64_t k, n;
  int64_t group, groups;  // k is cut into groups that are summed apart
  int64_t width;          // of a panel: kColumns on the right of a product, kRows on the left
  int64_t columns;        // n rounded up to whole panels
  int64_t steps;          // of one panel, all groups together
  Product product;
  bool centered;              // panels hold code - zero; else code, and rows are corrected by their sums
  const char* panels;         // [columns / width][steps][width] words
  const float* scale;         // [groups][columns]
  const int32_t* minus_zero;  // [groups][columns]: of the stored codes; 0 where centered
  const int32_t* minus_sum;   // [groups][columns]: of code - zero over k

  int64_t depth(int64_t g) const { return g + 1 < groups ? group : k - g * group; }
  int64_t panel_bytes() const { return steps * width * 4; }
};

// Packs weight codes [K, N] for rows of codes up to `high` (0: for rows of floats). `group` 0 is one scale a column;
// `allocate(bytes)` gives aligned memory or null; the product is fit for codes up to `magnitude` even where these are
// smaller.
template <int width = kColumns, typename Allocate>
Error pack(Messenger& to, const Tensor& codes, const Tensor& scale, const Tensor& zero, int bits, int high, int64_t k,
           int64_t n, int64_t group, Allocate allocate, Packed* out, int magnitude = 0) {
  if (Error error = check_codes(to, codes, bits, k * n)) return error;
  const int64_t stored = group ? ceil_div(k, group) : 1;
  if (scale.count != stored * n || zero.count != stored * n)
    return to.fail("w_scale %s and w_zero %s must hold %lld values each", show(scale).text, show(zero).text,
                   static_cast<long long>(stored * n));
  if (scale.type != kFloat || zero.type != kInt8) return "w_scale must be float and w_zero int8";
  Packed p{};
  p.k = k, p.n = n;
  p.group = group ? group : k > kMostDepth ? kMostDepth : k > 0 ? k : 1;
  p.groups = k > 0 ? ceil_div(k, p.group) : 1;
  p.width = width, p.columns = round_up(n, width);
  const size_t values = static_cast<size_t>(p.groups * p.columns);
  const int8_t* raw = static_cast<const int8_t*>(codes.data);
  int8_t* unpacked = nullptr;
  if (codes.type != kInt8) {
    raw = unpacked = static_cast<int8_t*>(malloc(static_cast<size_t>(k * n + 1)));
    if (unpacked) unpack(codes, bits, 0, k * n, unpacked);
  }
  float* scales = static_cast<float*>(allocate(values * sizeof(float)));
  int32_t* zeros = static_cast<int32_t*>(allocate(values * sizeof(int32_t)));
  int32_t* sums = static_cast<int32_t*>(allocate(values * sizeof(int32_t)));
  if ((!raw && codes.count) || !scales || !zeros || !sums) {
    free(unpacked);
    return "out of memory";
  }
  memset(scales, 0, values * sizeof(float)), memset(zeros, 0, values * sizeof(int32_t));
  memset(sums, 0, values * sizeof(int32_t));
  const float* given_scale = static_cast<const float*>(scale.data);
  const int8_t* given_zero = static_cast<const int8_t*>(zero.data);
  int centered_magnitude = 0;
  bool any_zero = false;
  for (int64_t g = 0; g < p.groups; ++g) {
    const int64_t from = group ? g * n : 0;
    int32_t* z = zeros + g * p.columns;
    int32_t* s = sums + g * p.columns;
    // Of no rows in groups there are no scales.
    for (int64_t c = 0; c < n && stored; ++c) {
      scales[g * p.columns + c] = given_scale[from + c];
      z[c] = given_zero[from + c];
      any_zero |= z[c] != 0;
    }
    for (int64_t i = g * p.group; i < g * p.group + p.depth(g); ++i) {
      for (int64_t c = 0; c < n; ++c) {
        const int w = raw[i * n + c], d = w - z[c];
        s[c] -= d;
        if (w > magnitude || -w > magnitude) magnitude = w < 0 ? -w : w;
        if (d > centered_magnitude || -d > centered_magnitude) centered_magnitude = d < 0 ? -d : d;
      }
    }
  }
  p.product = high ? product_of(high, magnitude) : Product{false, 0};
  if (high) {
    const Product centered = product_of(high, centered_magnitude);
    const bool fits = centered_magnitude <= 127;
#if defined(ONNXPTQ_DOT)
    p.centered = fits;
#else
    constexpr int kDeep = 16;  // steps: correcting sums costs less than widening them more often
    p.centered = p.product.wide || !any_zero || (fits && !centered.wide && centered.depth >= kDeep);
#endif
    if (p.centered) p.product = p.product.wide ? p.product : centered;
  }
  for (int64_t g = 0; g < p.groups; ++g) p.steps += p.product.steps(p.depth(g));
  const size_t bytes = static_cast<size_t>(p.columns / width * p.panel_bytes());
  char* panels = static_cast<char*>(allocate(bytes));
  if (!panels) {
    free(unpacked);
    return "out of memory";
  }
  memset(panels, 0, bytes);
  const int per_step = p.product.per_step();
  int64_t offset = 0;
  for (int64_t g = 0; g < p.groups; ++g) {
    for (int64_t i = 0; i < p.depth(g); ++i) {
      const int8_t* row = raw + (g * p.group + i) * n;
      char* place = panels + (offset + i / per_step) * width * 4;
      for (int64_t c = 0; c < n; ++c) {
        const int value = row[c] - (p.centered ? zeros[g * p.columns + c] : 0);
        char* word = place + c / width * p.panel_bytes() + c % width * 4;
        if (p.product.wide) {
          const int16_t v = static_cast<int16_t>(value);
          memcpy(word + i % per_step * 2, &v, 2);
        } else {
          word[i % per_step] = static_cast<char>(value);
        }
      }
    }
    offset += p.product.steps(p.depth(g));
  }
  free(unpacked);
  for (size_t i = 0; i < values; ++i) zeros[i] = p.centered ? 0 : -zeros[i];
  p.panels = panels, p.scale = scales, p.minus_zero = zeros, p.minus_sum = sums;
  *out = p;
  return nullptr;
}

}  // namespace
}  // namespace onnxptq
