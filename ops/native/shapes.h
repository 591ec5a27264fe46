// Shapes: checks with messages, and how small tensors broadcast against a large one.
#pragma once
#include "kernel.h"

namespace onnxptq {
namespace {

// The common attribute of every op; false (with the sentence in *error) unless it is a width from `least` to 8.
inline bool read_bits(Node& node, const char* name, int least, int* bits, Error* error) {
  int64_t value = 0;
  if (!node.get_int(name, &value)) {
    *error = node.fail("attribute %s is missing", name);
  } else if (value != 0 && (value < 2 || value > 8)) {
    *error = node.fail("%s = %lld; it must be 2 to 8", name, static_cast<long long>(value));
  } else if (value < least) {
    *error = node.fail("%s = 0; it must be 2 to 8", name);
  } else {
    *bits = static_cast<int>(value);
    return true;
  }
  return false;
}

inline int64_t get_int(Node& node, const char* name, int64_t otherwise) {
  int64_t value = 0;
  return node.get_int(name, &value) ? value : otherwise;
}

struct ShapeText {
  char text[160];
};

// "[2, 3]", for messages.
inline ShapeText show(const Tensor& t) {
  ShapeText s;
  size_t at = static_cast<size_t>(snprintf(s.text, sizeof(s.text), "["));
  for (int i = 0; i < t.rank && at < sizeof(s.text) - 24; ++i)
    at += static_cast<size_t>(
        snprintf(s.text + at, sizeof(s.text) - at, i ? ", %lld" : "%lld", static_cast<long long>(t.dims[i])));
  snprintf(s.text + at, sizeof(s.text) - at, "]");
  return s;
}

inline int64_t product(const int64_t* dims, int from, int to) {
  int64_t n = 1;
  for (int i = from; i < to; ++i) n *= dims[i];
  return n;
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  return a.rank == b.rank && memcmp(a.dims, b.dims, sizeof(int64_t) * static_cast<size_t>(a.rank)) == 0;
}

// Strides of `small` seen with the `rank` dimensions `dims` (0 where it is broadcast). False where it does not
// broadcast.
inline bool broadcast_strides(const Tensor& small, const int64_t* dims, int rank, int64_t* strides) {
  int extra = small.rank - rank;
  for (int i = 0; i < extra; ++i)
    if (small.dims[i] != 1) return false;
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; --i) {
    int64_t d = i + extra >= 0 ? small.dims[i + extra] : 1;
    if (d != 1 && d != dims[i]) return false;
    strides[i] = d == 1 ? 0 : step;
    step *= d;
  }
  return true;
}

// A tensor and up to two smaller ones walked together as rows: within a row each small one stands still (stride 0) or
// runs along (stride 1). Neighbouring dimensions are merged, so that rows are as long as they can be.
struct Rows {
  int rank;
  int64_t dims[kMaxRank];
  int64_t strides[2][kMaxRank];
  int64_t rows, length;

  void offsets(int64_t row, int64_t* a, int64_t* b) const {
    *a = *b = 0;
    for (int i = rank - 2; i >= 0; --i) {
      int64_t at = row % dims[i];
      row /= dims[i];
      *a += at * strides[0][i];
      *b += at * strides[1][i];
    }
  }
};

inline bool rows_of(const Tensor& x, const Tensor& a, const Tensor& b, Rows* out) {
  int64_t s[2][kMaxRank];
  if (!broadcast_strides(a, x.dims, x.rank, s[0]) || !broadcast_strides(b, x.dims, x.rank, s[1])) return false;
  out->rank = 0;
  for (int i = 0; i < x.rank; ++i) {
    if (x.dims[i] == 1) continue;
    int last = out->rank - 1;
    bool merge = last >= 0;
    for (int j = 0; j < 2 && merge; ++j) merge = out->strides[j][last] == s[j][i] * x.dims[i];
    if (!merge) {
      ++last;
      out->dims[last] = 1;
      out->rank = last + 1;
    }
    out->dims[last] *= x.dims[i];
    for (int j = 0; j < 2; ++j) out->strides[j][last] = s[j][i];
  }
  if (out->rank == 0) {
    out->rank = 1;
    out->dims[0] = 1;
    out->strides[0][0] = out->strides[1][0] = 0;
  }
  out->length = out->dims[out->rank - 1];
  out->rows = product(out->dims, 0, out->rank - 1);
  return true;
}

}  // namespace
}  // namespace onnxptq
