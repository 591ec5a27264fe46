// The weighted sums of values: softmax weights coded on the way, times values in integers or in float.
#pragma once
#include "attention_scores.h"

namespace onnxptq {
namespace {

// Each row's maximum and, where `wanted`, its sum of exponentials; `kept`: scores give way to exponentials.
inline void soften(const Job& job, Queries& rows, bool wanted, bool kept) {
  for (int r = 0; r < rows.count; ++r) {
    const float highest_score = highest(rows.top[r]);
    const F top = set(highest_score > -kLargest ? highest_score : -kLargest);
    F total = set(0.0f);
    float* row = rows.scores + r * job.stride;
    for (int64_t i = 0; i < round_up(job.nk, kColumns) && (wanted || kept); i += kLanes) {
      const F e = exp(load(row + i) - top);
      if (kept) store(row + i, e);
      total += e;
    }
    const float s = sum(total);
    const float divisor = s >= 1.0f ? s : 1.0f;  // less only where everything is masked
    rows.state[r].top = top, rows.state[r].sum = set(divisor), rows.state[r].inverse = set(1.0f / divisor);
  }
}

// e / sum, rounded like the division (but for results near the smallest numbers).
inline F quotient(F e, F sum, F inverse) {
#if defined(__FMA__)
  const F q = e * inverse;
  return fma(fnma(q, sum, e), inverse, q);
#else
  static_cast<void>(inverse);
  return e / sum;
#endif
}

// The softmax of a row of exponentials, or the exponentials themselves (softmax_norm).
inline F weight(bool norm, const RowState& row, F e) { return norm ? e : quotient(e, row.sum, row.inverse); }

constexpr int kMostWeightParts = 4;

// y = weights . values in integers. A coder says how weights are written:
//   parts, zero, highest, scale(part, row): each weight is the sum over parts of (code - zero) * scale, codes up to
//     `highest`; zero points are 0 but for the first part's
//   kExponentials, sums(): whether codes are made of exponentials or of scores, and whether the rows' sums are needed
//   start(row): prepares a row;  code<parts>(row, values, out): the codes of a vector
template <typename Coder>
class IntegerSums {
 public:
  static constexpr bool kExponentials = Coder::kExponentials;

  IntegerSums(const Job& job, const Coder& coder)
      : job_(job), coder_(coder), heads_(job.nk, job.dv, storage_of(coder.highest, job.s->v_bits)) {}

  size_t bytes_of_head() const { return heads_.bytes(); }
  bool sums() const { return coder_.sums(); }
  void start(RowState* row) const { coder_.start(row); }
  void lay_out(Layout* layout) {
    panel_ = layout->take(coder_.parts * panel_bytes());
    sums_ = layout->take(kRows * heads_.shape.columns * 4);
  }
  size_t bytes_to_pack() const { return static_cast<size_t>(heads_.shape.columns / kLanes) * sizeof(Uniform); }
  void pack(int64_t b, char* memory, void* scratch) const { job_.pack_values_of(b, heads_.at(memory), scratch); }
  void run(const Queries& rows, const char* head, char* scratch, float* y, const float*) const {
    switch (coder_.parts) {
      case 1:
        return run_parts<1>(rows, head, scratch, y);
      case 2:
        return run_parts<2>(rows, head, scratch, y);
      case 3:
        return run_parts<3>(rows, head, scratch, y);
      default:
        return run_parts<kMostWeightParts>(rows, head, scratch, y);
    }
  }

 private:
  int64_t panel_bytes() const { return heads_.shape.steps * kRows * 4; }

  template <int parts>
  void run_parts(const Queries& rows, const char* head, char* scratch, float* y) const {
    const Packed values = heads_.at(const_cast<char*>(head));
    const bool norm = job_.s->norm, summed = norm || !values.centered;
    char* panel = scratch + panel_;
    float* out = reinterpret_cast<float*>(scratch + sums_);
    memset(out, 0, static_cast<size_t>(kRows * values.columns) * sizeof(float));
    float total[kRows] = {}, scales[kRows];
    int32_t zeros[kRows], code_sums[parts * kRows];
    int64_t step = 0;
    for (int64_t g = 0; g < values.groups; ++g) {
      const int64_t depth = values.depth(g), steps = values.product.steps(depth);
      auto code = [&](int r, F v, I* codes) { coder_.template code<parts>(rows.state[r], v, codes); };
      const float* from = rows.scores + g * values.group;
      if (summed)
        encode_parts<kRows, parts, true>(from, job_.stride, rows.count, depth, values.product, code, panel,
                                         panel_bytes(), code_sums);
      else
        encode_parts<kRows, parts, false>(from, job_.stride, rows.count, depth, values.product, code, panel,
                                          panel_bytes(), code_sums);
      for (int part = 0; part < parts; ++part) {
        const int32_t* code_sum = code_sums + part * kRows;
        for (int r = 0; r < rows.count; ++r) {
          scales[r] = coder_.scale(part, rows.state[r]);
          zeros[r] = part ? 0 : coder_.zero;
          if (norm) total[r] += scales[r] * static_cast<float>(code_sum[r] - zeros[r] * static_cast<int32_t>(depth));
        }
        for (int64_t column = 0; column < values.columns; column += kColumns) {
          alignas(64) int32_t c[kRows * kColumns];
          tile<false>(values.product, panel + part * panel_bytes(),
                      values.panels + column / kColumns * values.panel_bytes() + step * kColumns * 4, steps, rows.count,
                      c, false);
          for (int j = 0; j < kColumns; j += kLanes) {
            const int64_t at = g * values.columns + column + j;
            float* to = out + column + j;
            Column<true, false> now(values.scale + at, values.minus_sum + at, values.minus_zero + at, to);
            for (int r = 0; r < rows.count; ++r, to += values.columns) {
              now.bias = load(to);
              store(to, now.value(c + r * kColumns + j, scales[r], zeros[r], code_sum[r]));
            }
          }
        }
      }
      step += steps;
    }
    for (int r = 0; r < rows.count; ++r) {
      const F divisor = set(norm && total[r] != 0 ? total[r] : 1.0f);
      const float* from = out + r * values.columns;
      float* to = y + r * job_.dv;
      walk(
          job_.dv, [&](int64_t i) { store(to + i, load(from + i) / divisor); },
          [&](int64_t i, int n) { store(to + i, load(from + i) / divisor, n); });
    }
  }

  const Job& job_;
  const Coder& coder_;
  PackedHeads heads_;
  size_t panel_ = 0, sums_ = 0;
};

// y = weights . values in float. A coder has kExponentials, sums() and start(row) as above, and value(row, values):
// decoded weights.
template <typename Coder>
class FloatSums {
 public:
  static constexpr bool kExponentials = Coder::kExponentials;

  FloatSums(const Job& job, const Coder& coder)
      : job_(job), coder_(coder), heads_(job.nk, job.dv, {{false, 0}, false}), columns_(heads_.shape.columns) {}

  bool sums() const { return coder_.sums(); }
  void start(RowState* row) const { coder_.start(row); }
  size_t bytes_of_head() const { return job_.s->v_bits ? heads_.bytes() : 0; }
  void lay_out(Layout* layout) {
    left_ = layout->take(kPieceDepth * kRows * 4);
    right_ = layout->take(kPieceDepth * kColumns * 4);
    sums_ = layout->take(kRows * columns_ * 4);
  }
  size_t bytes_to_pack() const { return static_cast<size_t>(columns_ / kLanes) * sizeof(Uniform); }
  void pack(int64_t b, char* memory, void* scratch) const {
    if (job_.s->v_bits) job_.pack_values_of(b, heads_.at(memory), scratch);
  }
  void run(const Queries& rows, const char* head, char* scratch, float* y, const float* v) const {
    float* left = reinterpret_cast<float*>(scratch + left_);
    float* right = reinterpret_cast<float*>(scratch + right_);
    float* out = reinterpret_cast<float*>(scratch + sums_);  // [columns / kColumns][kRows][kColumns]
    memset(out, 0, static_cast<size_t>(kRows * columns_) * sizeof(float));
    double total[kRows] = {};
    for (int64_t k = 0; k < job_.nk; k += kPieceDepth) {
      const int64_t depth = job_.nk - k < kPieceDepth ? job_.nk - k : kPieceDepth;
      pack_floats(
          rows.scores + k, job_.stride, rows.count, depth, [&](int r, F e) { return coder_.value(rows.state[r], e); },
          left);
      for (int64_t i = 0; job_.s->norm && i < depth; ++i)
        for (int r = 0; r < rows.count; ++r) total[r] += left[i * kRows + r];
      for (int64_t column = 0; column < columns_; column += kColumns) {
        if (job_.s->v_bits)
          decode_panel(heads_.at(const_cast<char*>(head)), column, 0, k / 4, depth, right);
        else
          copy_values(v + k * job_.dv, column, depth, right);
        tile_float(left, right, depth, rows.count, out + column * kRows);
      }
    }
    for (int r = 0; r < rows.count; ++r) {
      const float divisor = job_.s->norm && total[r] != 0 ? static_cast<float>(total[r]) : 1.0f;
      for (int64_t c = 0; c < job_.dv; ++c)
        y[r * job_.dv + c] = out[c / kColumns * kRows * kColumns + r * kColumns + c % kColumns] / divisor;
    }
  }

 private:
  void copy_values(const float* v, int64_t column, int64_t depth, float* right) const {
    const int64_t valid = job_.dv - column < kColumns ? job_.dv - column : kColumns;
    for (int64_t i = 0; i < depth; ++i) {
      for (int64_t c = 0; c < kColumns; ++c) right[i * kColumns + c] = c < valid ? v[i * job_.dv + column + c] : 0.0f;
    }
  }

  const Job& job_;
  const Coder& coder_;
  PackedHeads heads_;
  int64_t columns_;
  size_t left_ = 0, right_ = 0, sums_ = 0;
};

}  // namespace
}  // namespace onnxptq
