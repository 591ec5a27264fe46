// The scores of kRows queries against all keys: products in integers or in float, then whatever is added.
#pragma once
#include "attention.h"
#include "product.h"

namespace onnxptq {
namespace {

// What an attention is told by its attributes.
struct Attention {
  int q_bits, k_bits, v_bits, p_bits;
  bool token, v_token, norm;
  SchemeKind softmax;
  float scale;
  int64_t heads;
};

// A tensor that is added to the scores, seen as [batch, queries, keys].
struct Addend {
  const float* data;
  int64_t lead[kMaxRank], row, column;
};

// One call.
struct Job {
  const Attention* s;
  int rank;
  int64_t dims[kMaxRank];                // of the scores
  int64_t batch, nq, nk, d, dv, stride;  // stride: of a row of scores
  const float *q, *k, *v;
  float* y;
  Addend addend[2];
  int addends;
  bool spread;  // some addend has one number a row
  const float *rel_h, *rel_w;
  int64_t height, width;
  Static q_static, k_static, v_static;

  const float* row_of(const Addend& a, int64_t b, int64_t row) const {
    int64_t at = row * a.row;
    for (int i = rank - 3; i >= 0; --i) {
      at += b % dims[i] * a.lead[i];
      b /= dims[i];
    }
    return a.data + at;
  }
  Affine q_range(int64_t b, const float* row) const {
    return s->token ? row_range(row, d, s->q_bits) : q_static.at(b % s->heads, 0);
  }
  Affine k_range(int64_t b, const float* row) const {
    return s->token ? row_range(row, d, s->k_bits) : k_static.at(b % s->heads, 0);
  }
  void pack_values_of(int64_t b, const Packed& p, void* scratch) const {
    pack_values(v + b * nk * dv, dv, s->v_bits, s->v_token ? nullptr : &v_static, b % s->heads, p,
                static_cast<Uniform*>(scratch));
  }
};

// What the code of a weight depends on besides its score; what the fields after `inverse` mean is the coder's business.
struct RowState {
  F top, sum, inverse;  // the row's maximum, its sum of exponentials, and one by that
  F scale, factor, offset, sure;
};

// kRows queries on their way through scores and softmax.
struct Queries {
  float* scores;  // [kRows][stride]; later exponentials, where the coder wants these
  int count;
  F top[kRows];
  RowState state[kRows];
};

// Memory of one task, handed out in order.
struct Layout {
  size_t total = 0;
  size_t take(int64_t bytes) {
    const size_t at = total;
    total += static_cast<size_t>(round_up(bytes, 64));
    return at;
  }
};

inline F decoded(const Uniform& u, float scale, F v) { return to_float(encode(u, v) - u.zero) * set(scale); }

// Adds what is not a product and keeps each row's maximum; keys past the end are masked. `values(j)(r)` is a vector of
// the product.
template <typename Values>
inline void write_scores(const Job& job, Queries& rows, int64_t column, const float* const addend[2][kRows],
                         Values values) {
  const int64_t valid = job.nk - column;
  for (int j = 0; j < kColumns; j += kLanes) {
    const int n = valid - j >= kLanes ? kLanes : valid > j ? static_cast<int>(valid - j) : 0;
    const auto value = values(j);
    for (int r = 0; r < rows.count; ++r) {
      float* to = rows.scores + r * job.stride + column + j;
      F v = value(r);
      if (__builtin_expect(n == kLanes, 1)) {
        for (int a = 0; a < job.addends; ++a) v += load(addend[a][r] + column + j);
        if (job.rel_h) v += load(to);
      } else {
        for (int a = 0; a < job.addends && n; ++a) v += load(addend[a][r] + column + j, n);
        if (job.rel_h && n) v += load(to, n);
        const I inside = lanes_below(n);
        v = floats((bits(v) & inside) | (bits(set(-INFINITY)) & ~inside));
      }
      store(to, v);
      rows.top[r] = max(v, rows.top[r]);
    }
  }
}

// rel_h[row][key / width] + rel_w[row][key % width], to be added to.
inline void write_relative(const Job& job, int64_t b, int64_t row, float* scores) {
  const float* h = job.rel_h + (b * job.nq + row) * job.height;
  const float* w = job.rel_w + (b * job.nq + row) * job.width;
  walk(
      job.width,
      [&](int64_t i) {
        const F right = load(w + i);
        for (int64_t y = 0; y < job.height; ++y) store(scores + y * job.width + i, set(h[y]) + right);
      },
      [&](int64_t i, int n) {
        const F right = load(w + i, n);
        for (int64_t y = 0; y < job.height; ++y) store(scores + y * job.width + i, set(h[y]) + right, n);
      });
}

// The scores of kRows queries, in integers or in float.
class Scores {
 public:
  explicit Scores(const Job& job)
      : job_(job),
        integer_(job.s->q_bits && job.s->k_bits),
        storage_(storage_of((1 << job.s->q_bits) - 1, job.s->k_bits ? job.s->k_bits : 8)),
        heads_(job.d, job.nk, storage_) {}

  size_t bytes_of_head() const {
    return integer_ ? heads_.bytes() : static_cast<size_t>(heads_.shape.columns * job_.d) * sizeof(float);
  }
  void lay_out(Layout* layout) { panel_ = layout->take((integer_ ? heads_.shape.steps * 4 : job_.d * 4) * kRows); }

  // Packs keys [from, to), whole panels of columns.
  void pack(int64_t b, int64_t from, int64_t to, char* memory) const {
    const float* k = job_.k + b * job_.nk * job_.d;
    if (integer_)
      return pack_keys(
          k, job_.d, job_.s->k_bits, from, to, [&](const float* row) { return job_.k_range(b, row); },
          heads_.at(memory));
    for (int64_t column = from; column < to; column += kColumns) {
      const int rows = job_.nk - column < kColumns ? static_cast<int>(job_.nk - column) : kColumns;
      if (rows < kColumns) memset(memory + column * job_.d * 4, 0, static_cast<size_t>(job_.d) * kColumns * 4);
      Affine a[kColumns] = {};
      for (int r = 0; job_.s->k_bits && r < rows; ++r) a[r] = job_.k_range(b, k + (column + r) * job_.d);
      pack_floats<kColumns>(
          k + column * job_.d, job_.d, rows, job_.d,
          [&](int r, F v) {
            return job_.s->k_bits ? decoded(uniform(a[r].scale, a[r].zero, job_.s->k_bits), a[r].scale, v) : v;
          },
          reinterpret_cast<float*>(memory) + column * job_.d);
    }
  }

  void run(int64_t b, int64_t first, const char* head, char* scratch, const float* const addend[2][kRows],
           Queries* rows) const {
    const float* q = job_.q + (b * job_.nq + first) * job_.d;
    Uniform u[kRows];
    float scale[kRows];
    int32_t zero[kRows], sums[kRows];
    for (int r = 0; r < kRows && job_.s->q_bits; ++r) {
      const Affine a = job_.q_range(b, q + (r < rows->count ? r : 0) * job_.d);
      u[r] = uniform(a.scale, a.zero, job_.s->q_bits);
      scale[r] = a.scale, zero[r] = a.zero;
    }
    if (integer_) {
      const Packed keys = heads_.at(const_cast<char*>(head));
      char* panel = scratch + panel_;
      encode_panel(
          q, job_.d, rows->count, job_.d, keys.product, !keys.centered, [&](int r, F v) { return encode(u[r], v); },
          panel, sums);
      for (int r = 0; r < rows->count; ++r) scale[r] *= job_.s->scale;
      if (keys.centered) return integer_scores<false>(keys, panel, scale, zero, sums, addend, rows);
      return integer_scores<true>(keys, panel, scale, zero, sums, addend, rows);
    }
    float* panel = reinterpret_cast<float*>(scratch + panel_);
    const F times = set(job_.s->scale);
    pack_floats(
        q, job_.d, rows->count, job_.d,
        [&](int r, F v) { return (job_.s->q_bits ? decoded(u[r], scale[r], v) : v) * times; }, panel);
    for (int64_t column = 0; column < heads_.shape.columns; column += kColumns) {
      alignas(64) float c[kRows * kColumns] = {};
      tile_float(panel, reinterpret_cast<const float*>(head) + column * job_.d, job_.d, rows->count, c);
      write_scores(job_, *rows, column, addend,
                   [&](int j) { return [&c, j](int r) { return load(c + r * kColumns + j); }; });
    }
  }

 private:
  template <bool corrected>
  void integer_scores(const Packed& keys, const char* panel, const float* scale, const int32_t* zero,
                      const int32_t* sums, const float* const addend[2][kRows], Queries* rows) const {
    const F nothing = set(0.0f);
    for (int64_t column = 0; column < keys.columns; column += kColumns) {
      alignas(64) int32_t c[kRows * kColumns];
      tile<false>(keys.product, panel, keys.panels + column / kColumns * keys.panel_bytes(), keys.steps, rows->count, c,
                  false);
      write_scores(job_, *rows, column, addend, [&](int j) {
        const int64_t at = column + j;
        Column<corrected, false> now(keys.scale + at, keys.minus_sum + at, keys.minus_zero + at, keys.scale + at);
        now.bias = nothing;
        return [=, &c](int r) { return now.value(c + r * kColumns + j, scale[r], zero[r], sums[r]); };
      });
    }
  }

  const Job& job_;
  bool integer_;
  Storage storage_;
  PackedHeads heads_;
  size_t panel_ = 0;
};

}  // namespace
}  // namespace onnxptq
