// QAttention: scores, softmax and the weighted sum of values for kRows queries at a time. Keys and values are coded and
// packed once a head; of the map of scores no more than kRows rows ever exist.
#include "attention.h"
#include "product.h"

namespace onnxptq {
namespace {

enum Input { kQ, kK, kV, kMask, kBias, kRelH, kRelW, kQScale, kQZero, kKScale, kKZero, kVScale, kVZero, kP0, kP1, kP2 };

struct State {
  int q_bits, k_bits, v_bits, p_bits;
  bool token, norm;
  SchemeKind softmax;
  float scale;
  int64_t heads;
};

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "q_bits", 0, &s->q_bits, &error) || !read_bits(node, "k_bits", 0, &s->k_bits, &error) ||
      !read_bits(node, "v_bits", 0, &s->v_bits, &error) || !read_bits(node, "p_bits", 0, &s->p_bits, &error))
    return error;
  char text[32] = "uniform";
  SchemeKind kind;
  node.get_string("qk_scheme", text, sizeof(text));
  if (!scheme_named(text, &kind) || (kind != kUniform && kind != kToken))
    return node.fail("qk_scheme = %s; it must be uniform or token", text);
  s->token = kind == kToken;
  snprintf(text, sizeof(text), "uniform");
  node.get_string("softmax_scheme", text, sizeof(text));
  if (!scheme_named(text, &s->softmax) || s->softmax == kToken || s->softmax == kOutlierRetained)
    return node.fail("softmax_scheme = %s; it must be uniform, row, dual_region, log_base or table", text);
  s->norm = get_int(node, "softmax_norm", 0) != 0;
  if (!node.get_float("scale", &s->scale)) s->scale = 1.0f;
  s->heads = get_int(node, "heads", 1);
  return s->heads < 1 ? "heads must be positive" : nullptr;
}

// A tensor that is added to the scores, seen as [batch, queries, keys].
struct Addend {
  const float* data;
  int64_t lead[kMaxRank], row, column;
};

struct Job {
  const State* s;
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
    return s->token ? row_range(row, d, s->q_bits)
                    : Affine{q_static.scale_at(b % s->heads, 0), q_static.zero_at(b % s->heads, 0)};
  }
  Affine k_range(int64_t b, const float* row) const {
    return s->token ? row_range(row, d, s->k_bits)
                    : Affine{k_static.scale_at(b % s->heads, 0), k_static.zero_at(b % s->heads, 0)};
  }
};

inline F decoded(const Uniform& u, float scale, F v) { return to_float(encode(u, v) - u.zero) * set(scale); }

// What the code of a weight depends on: its row's sum of exponentials, and for evenly spaced codes their scale.
struct RowState {
  F sum, inverse, scale, factor, sure;  // factor: from an exponential to a code
};

// kRows queries on their way through scores and softmax.
struct Queries {
  float* scores;  // [kRows][stride]
  int count;
  F top[kRows];
  float sum[kRows];
  RowState state[kRows];
};

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

// Scores to exponentials relative to the row's maximum, and their sum.
inline void exponentials(const Job& job, Queries& rows) {
  for (int r = 0; r < rows.count; ++r) {
    const float top = highest(rows.top[r]);
    const F most = set(top > -kLargest ? top : -kLargest);
    F total = set(0.0f);
    float* row = rows.scores + r * job.stride;
    for (int64_t i = 0; i < round_up(job.nk, kColumns); i += kLanes) {
      const F e = exp(load(row + i) - most);
      store(row + i, e);
      total += e;
    }
    const float s = sum(total);
    rows.sum[r] = s >= 1.0f ? s : 1.0f;  // less only where everything is masked
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

// How weights are coded for integer sums: `code(part, row, exponentials)`; zero points are 0 but for the first part's.
template <typename Code>
struct Weights {
  int count, zero, highest;
  float scale[kMostParts];
  bool by_row;  // scale[0] is the row's maximum divided by `highest`
  Code code;
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

// y = weights . values in integers.
template <typename Code>
class IntegerSums {
 public:
  IntegerSums(const Job& job, const Weights<Code>& weights)
      : job_(job), weights_(weights), heads_(job.nk, job.dv, storage_of(weights.highest, job.s->v_bits)) {}

  size_t bytes_of_head() const { return heads_.bytes(); }
  void lay_out(Layout* layout) {
    panel_ = layout->take(heads_.shape.steps * kRows * 4);
    sums_ = layout->take(kRows * heads_.shape.columns * 4);
  }
  size_t bytes_to_pack() const { return static_cast<size_t>(heads_.shape.columns / kLanes) * sizeof(Uniform); }
  void pack(int64_t b, char* memory, void* scratch) const {
    pack_values(job_.v + b * job_.nk * job_.dv, job_.dv, job_.s->v_bits, job_.v_static, b % job_.s->heads,
                heads_.at(memory), static_cast<Uniform*>(scratch));
  }
  void run(const Queries& rows, const char* head, char* scratch, float* y, const float*) const {
    const Packed values = heads_.at(const_cast<char*>(head));
    const bool norm = job_.s->norm;
    char* panel = scratch + panel_;
    float* out = reinterpret_cast<float*>(scratch + sums_);
    memset(out, 0, static_cast<size_t>(kRows * values.columns) * sizeof(float));
    float total[kRows] = {}, scales[kRows];
    int32_t zeros[kRows], code_sums[kRows];
    int64_t step = 0;
    for (int64_t g = 0; g < values.groups; ++g) {
      const int64_t depth = values.depth(g), steps = values.product.steps(depth);
      for (int part = 0; part < weights_.count; ++part) {
        encode_panel(
            rows.scores + g * values.group, job_.stride, rows.count, depth, values.product, norm || !values.centered,
            [&](int r, F e) { return weights_.code(part, rows.state[r], e); }, panel, code_sums);
        for (int r = 0; r < rows.count; ++r) {
          scales[r] = weights_.by_row ? rows.state[r].scale[0] : weights_.scale[part];
          zeros[r] = part ? 0 : weights_.zero;
          if (norm) total[r] += scales[r] * static_cast<float>(code_sums[r] - zeros[r] * static_cast<int32_t>(depth));
        }
        for (int64_t column = 0; column < values.columns; column += kColumns) {
          alignas(64) int32_t c[kRows * kColumns];
          tile<false>(values.product, panel,
                      values.panels + column / kColumns * values.panel_bytes() + step * kColumns * 4, steps, rows.count,
                      c, false);
          for (int j = 0; j < kColumns; j += kLanes) {
            const int64_t at = g * values.columns + column + j;
            float* to = out + column + j;
            Column<true, false> now(values.scale + at, values.minus_sum + at, values.minus_zero + at, to);
            for (int r = 0; r < rows.count; ++r, to += values.columns) {
              now.bias = load(to);
              store(to, now.value(c + r * kColumns + j, scales[r], zeros[r], code_sums[r]));
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

 private:
  const Job& job_;
  const Weights<Code>& weights_;
  PackedHeads heads_;
  size_t panel_ = 0, sums_ = 0;
};

// y = weights . values in float: `value(row, exponentials)` gives decoded weights.
template <typename Value>
class FloatSums {
 public:
  FloatSums(const Job& job, Value value)
      : job_(job), value_(value), heads_(job.nk, job.dv, {{false, 0}, false}), columns_(heads_.shape.columns) {}

  size_t bytes_of_head() const { return job_.s->v_bits ? heads_.bytes() : 0; }
  void lay_out(Layout* layout) {
    left_ = layout->take(kPieceDepth * kRows * 4);
    right_ = layout->take(kPieceDepth * kColumns * 4);
    sums_ = layout->take(kRows * columns_ * 4);
  }
  size_t bytes_to_pack() const { return static_cast<size_t>(columns_ / kLanes) * sizeof(Uniform); }
  void pack(int64_t b, char* memory, void* scratch) const {
    if (job_.s->v_bits)
      pack_values(job_.v + b * job_.nk * job_.dv, job_.dv, job_.s->v_bits, job_.v_static, b % job_.s->heads,
                  heads_.at(memory), static_cast<Uniform*>(scratch));
  }
  void run(const Queries& rows, const char* head, char* scratch, float* y, const float* v) const {
    float* left = reinterpret_cast<float*>(scratch + left_);
    float* right = reinterpret_cast<float*>(scratch + right_);
    float* out = reinterpret_cast<float*>(scratch + sums_);  // [columns / kColumns][kRows][kColumns]
    memset(out, 0, static_cast<size_t>(kRows * columns_) * sizeof(float));
    float total[kRows] = {};
    for (int64_t k = 0; k < job_.nk; k += kPieceDepth) {
      const int64_t depth = job_.nk - k < kPieceDepth ? job_.nk - k : kPieceDepth;
      pack_floats(
          rows.scores + k, job_.stride, rows.count, depth, [&](int r, F e) { return value_(rows.state[r], e); }, left);
      for (int64_t i = 0; job_.s->norm && i < depth; ++i)
        for (int r = 0; r < kRows; ++r) total[r] += left[i * kRows + r];
      for (int64_t column = 0; column < columns_; column += kColumns) {
        if (job_.s->v_bits)
          decode_panel(heads_.at(const_cast<char*>(head)), column, 0, k / 4, depth, right);
        else
          copy_values(v + k * job_.dv, column, depth, right);
        tile_float(left, right, depth, rows.count, out + column * kRows);
      }
    }
    for (int r = 0; r < rows.count; ++r) {
      const float divisor = job_.s->norm && total[r] != 0 ? total[r] : 1.0f;
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
  Value value_;
  PackedHeads heads_;
  int64_t columns_;
  size_t left_ = 0, right_ = 0, sums_ = 0;
};

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

constexpr int64_t kKeysOfTask = 16 * kColumns;
constexpr int64_t kBlocksOfTask = 4;  // of kRows queries

template <typename Sums, typename Start>
Error attend(Call& call, const Job& job, Sums sums, Start start) {
  Scores scores(job);
  Layout layout;
  const size_t map = layout.take(kRows * job.stride * 4);
  const size_t spread = layout.take(job.spread ? 2 * kRows * job.stride * 4 : 0);
  scores.lay_out(&layout);
  sums.lay_out(&layout);
  const size_t key_bytes = static_cast<size_t>(round_up(static_cast<int64_t>(scores.bytes_of_head()), 64));
  const size_t bytes = key_bytes + static_cast<size_t>(round_up(static_cast<int64_t>(sums.bytes_of_head()), 64));
  char* heads = static_cast<char*>(call.temporary(bytes * static_cast<size_t>(job.batch)));
  if (!heads) return "out of memory";
  const int64_t pieces = ceil_div(job.nk, kKeysOfTask), columns = round_up(job.nk, kColumns);
  bool ok = parallel(call, job.batch * (pieces + 1), sums.bytes_to_pack(), [&](int64_t item, void* scratch) {
    const int64_t b = item / (pieces + 1), piece = item % (pieces + 1), from = (piece - 1) * kKeysOfTask;
    char* head = heads + bytes * static_cast<size_t>(b);
    if (piece == 0) return sums.pack(b, head + key_bytes, scratch);
    scores.pack(b, from, columns - from < kKeysOfTask ? columns : from + kKeysOfTask, head);
  });
  const int64_t per_task = kBlocksOfTask * kRows, tasks = ceil_div(job.nq, per_task);
  ok =
      ok && parallel(call, job.batch * tasks, layout.total, [&](int64_t item, void* memory) {
        char* scratch = static_cast<char*>(memory);
        const int64_t b = item / tasks, end = (item % tasks + 1) * per_task;
        const char* head = heads + bytes * static_cast<size_t>(b);
        for (int64_t first = item % tasks * per_task; first < (end < job.nq ? end : job.nq); first += kRows) {
          Queries rows;
          rows.scores = reinterpret_cast<float*>(scratch + map);
          rows.count = job.nq - first < kRows ? static_cast<int>(job.nq - first) : kRows;
          const float* addend[2][kRows] = {};
          for (int r = 0; r < rows.count; ++r) {
            rows.top[r] = set(-INFINITY);
            if (job.rel_h) write_relative(job, b, first + r, rows.scores + r * job.stride);
            for (int a = 0; a < job.addends; ++a) {
              addend[a][r] = job.row_of(job.addend[a], b, first + r);
              if (job.addend[a].column) continue;
              float* wide = reinterpret_cast<float*>(scratch + spread) + (a * kRows + r) * job.stride;
              for (int64_t i = 0; i < job.nk; ++i) wide[i] = *addend[a][r];
              addend[a][r] = wide;
            }
          }
          scores.run(b, first, head, scratch, addend, &rows);
          exponentials(job, rows);
          for (int r = 0; r < kRows; ++r) start(rows.sum[r < rows.count ? r : 0], &rows.state[r]);
          sums.run(rows, head + key_bytes, scratch, job.y + (b * job.nq + first) * job.dv, job.v + b * job.nk * job.dv);
        }
      });
  return ok ? nullptr : "out of memory";
}

// Evenly spaced codes, of softmax_scheme uniform and row.
struct Even {
  bool norm, by_row;
  float scale, most;
  F low, high;
  I zero;

  Even(const State& s, const Given& given)
      : norm(s.norm),
        by_row(s.softmax == kRow),
        scale(given.scale),
        most(static_cast<float>((1 << s.p_bits) - 1)),
        low(set(static_cast<float>(-given.zero))),
        high(set(most - static_cast<float>(given.zero))),
        zero(set(given.zero)) {}

  // A row's greatest weight is exp(0), divided by the sum.
  void start(float sum, RowState* row) const {
    float s = scale;
    if (by_row) {
      s = (norm ? 1.0f : 1.0f / sum) / most;
      if (!(s > kSmallestNormal)) s = kSmallestNormal;
    }
    const float factor = norm ? 1.0f / s : 1.0f / (sum * s);
    *row = {set(sum), set(1.0f / sum), set(s), set(factor),
            set(factor > 0x1p-100f && factor < 0x1p100f ? 0.4999f : -1.0f)};
  }
  // As in uniform.h: a product with the reciprocal, but near ties the divisions that it stands for.
  I operator()(int, const RowState& row, F e) const {
    F t = min(max(e * row.factor, low), high);
    if (__builtin_expect(any(less(row.sure, abs(t - rint(t)))), 0))
      t = min(max((norm ? e : e / row.sum) / row.scale, low), high);
    return to_int(t) + zero;
  }
};

void start_plain(float sum, RowState* row) { *row = {set(sum), set(1.0f / sum), set(0.0f), set(0.0f), set(0.0f)}; }

template <typename Code, typename Start>
Error attend_integer(Call& call, const Job& job, int count, int zero, int highest, const float* scales, bool by_row,
                     Code code, Start start) {
  Weights<Code> weights{count, zero, highest, {}, by_row, code};
  memcpy(weights.scale, scales, sizeof(float) * static_cast<size_t>(count));
  return attend(call, job, IntegerSums<Code>(job, weights), start);
}

template <typename Coder>
Error attend_coded(Call& call, const Job& job, const Coder& coder) {
  const bool norm = job.s->norm;
  auto value = [&coder, norm](const RowState& row, F e) { return coder.value(coder.code(weight(norm, row, e))); };
  return attend(call, job, FloatSums<decltype(value)>(job, value), start_plain);
}

// Powers of two as integers: values of one family lie a factor 2 apart, eight of them make a part.
struct Powers {
  int count = 0;
  float scale[kMostParts];
  Lookup code[kMostParts];

  // False where the values are no such families, or too many parts would be needed.
  bool read(const LogBase& l) {
    constexpr int kWorth = 4, kEach = 8;
    const int all = 1 << l.values.bits;
    int levels = 0;
    while (levels < all && l.values.all[levels] > 0) ++levels;
    for (int i = levels; i < all; ++i)
      if (l.values.all[i] != 0) return false;
    int families = 1;
    auto halves = [&] {
      for (int i = 0; i + families < levels; ++i)
        if (l.values.all[i] != 2 * l.values.all[i + families]) return false;
      return true;
    };
    while (families <= kWorth && !halves()) ++families;
    if (families > kWorth || families > levels) return false;
    for (int family = 0; family < families; ++family) {
      for (int from = family; from < levels; from += kEach * families) {
        if (count == kWorth) return false;
        float codes[256] = {};
        int last = from;
        while (last + families < levels && last + families < from + kEach * families) last += families;
        int power = 1;
        for (int i = last; i >= from; i -= families, power *= 2) codes[i] = static_cast<float>(power);
        scale[count] = l.values.all[last];
        fill(&code[count++], codes, all, l.values.bits, 0.0f);
      }
    }
    return true;
  }
};

// Integer sums for the scheme of the weights, where it has any.
Error attend_by_scheme(Call& call, const Job& job, const Parameters& given) {
  const State& s = *job.s;
  const bool norm = s.norm, integers = s.v_bits != 0;
  if (s.p_bits == 0) {
    auto value = [norm](const RowState& row, F e) { return weight(norm, row, e); };
    return attend(call, job, FloatSums<decltype(value)>(job, value), start_plain);
  }
  if (s.softmax == kUniform || s.softmax == kRow) {
    Given u{1.0f, 0};
    if (s.softmax == kUniform)
      if (Error error = read_uniform(call, given, &u)) return error;
    const Even even(s, u);
    auto start = [&](float sum, RowState* row) { even.start(sum, row); };
    if (integers)
      return attend_integer(call, job, 1, u.zero, (1 << s.p_bits) - 1, &u.scale, s.softmax == kRow, even, start);
    auto value = [&](const RowState& row, F e) { return to_float(even(0, row, e) - even.zero) * row.scale; };
    return attend(call, job, FloatSums<decltype(value)>(job, value), start);
  }
  if (s.softmax == kTable) {
    Table t;
    if (Error error = t.read(call, given, s.p_bits)) return error;
    if (!integers) return attend_coded(call, job, t);
    const I least = set(t.least);
    auto code = [&t, least, norm](int, const RowState& row, F e) {
      return t.level(t.code(weight(norm, row, e))) - least;
    };
    return attend_integer(call, job, 1, -t.least, t.most - t.least, &t.scale_number, false, code, start_plain);
  }
  if (s.softmax == kDualRegion) {
    DualRegion d;
    if (Error error = d.read(call, given, s.p_bits, false)) return error;
    if (!integers) return attend_coded(call, job, d);
    if (const int ratio = whole_ratio(d, 255)) {
      const I times = set(ratio);
      auto code = [&d, times, norm](int, const RowState& row, F e) {
        const F p = weight(norm, row, e);
        return select(d.in_high(p), encode(d.high, p) * times, encode(d.low, p));
      };
      return attend_integer(call, job, 1, 0, (d.half_number - 1) * ratio, &d.low_number, false, code, start_plain);
    }
    const float scales[2] = {d.low_number, d.high_number};
    auto code = [&d, norm](int part, const RowState& row, F e) {
      const F p = weight(norm, row, e);
      const M high = d.in_high(p);
      return part ? select(high, encode(d.high, p), set(0)) : select(high, set(0), encode(d.low, p));
    };
    return attend_integer(call, job, 2, 0, d.half_number - 1, scales, false, code, start_plain);
  }
  LogBase l;
  if (Error error = l.read(call, given, s.p_bits)) return error;
  Powers powers;
  if (!integers || !powers.read(l)) return attend_coded(call, job, l);
  auto code = [&l, &powers, norm](int part, const RowState& row, F e) {
    return to_int(find(powers.code[part], l.code(weight(norm, row, e))));
  };
  return attend_integer(call, job, powers.count, 0, 128, powers.scale, false, code, start_plain);
}

Error read_addend(Call& call, const char* name, const Tensor& t, Job* job) {
  if (!t.present) return nullptr;
  int64_t strides[kMaxRank];
  if (!broadcast_strides(t, job->dims, job->rank, strides))
    return call.fail("%s %s does not broadcast to the scores", name, show(t).text);
  Addend& a = job->addend[job->addends++];
  a.data = static_cast<const float*>(t.data);
  memcpy(a.lead, strides, sizeof(strides));
  a.row = strides[job->rank - 2];
  a.column = strides[job->rank - 1];
  if (job->nk != 1 && a.column == 0) job->spread = true;
  if (job->nk == 1) a.column = 1;
  return nullptr;
}

Error run(const void* state, Call& call) {
  const State& s = *static_cast<const State*>(state);
  const Tensor q = call.input(kQ), k = call.input(kK), v = call.input(kV);
  const int rank = q.rank;
  bool fits = rank >= 2 && k.rank == rank && v.rank == rank;
  for (int i = 0; fits && i < rank - 2; ++i) fits = q.dims[i] == k.dims[i] && q.dims[i] == v.dims[i];
  if (!fits || q.dims[rank - 1] != k.dims[rank - 1] || k.dims[rank - 2] != v.dims[rank - 2])
    return call.fail("q %s, k %s and v %s must be [..., n, d], [..., m, d] and [..., m, e]", show(q).text, show(k).text,
                     show(v).text);
  Job job{};
  job.s = &s, job.rank = rank;
  memcpy(job.dims, q.dims, sizeof(job.dims));
  job.batch = product(q.dims, 0, rank - 2);
  job.nq = q.dims[rank - 2], job.d = q.dims[rank - 1], job.nk = k.dims[rank - 2], job.dv = v.dims[rank - 1];
  job.dims[rank - 1] = job.nk;
  if (job.d > kMostDepth) return "heads wider than 32768 are not supported";
  if (job.batch % s.heads) return call.fail("q %s has no %lld heads", show(q).text, static_cast<long long>(s.heads));
  job.stride = round_up(job.nk, kColumns) + kLanes;  // rows that lie a power of two apart would share cache lines
  job.q = static_cast<const float*>(q.data), job.k = static_cast<const float*>(k.data),
  job.v = static_cast<const float*>(v.data);
  Error error = read_addend(call, "bias", call.input(kBias), &job);
  if (!error) error = read_addend(call, "mask", call.input(kMask), &job);
  const Tensor rel_h = call.input(kRelH), rel_w = call.input(kRelW);
  if (!error && (rel_h.present || rel_w.present)) {
    const int64_t rows = job.batch * job.nq;
    if (rel_h.rank < 1 || rel_w.rank < 1) return "rel_h and rel_w must be given together";
    job.height = rel_h.dims[rel_h.rank - 1], job.width = rel_w.dims[rel_w.rank - 1];
    if (job.height * job.width != job.nk || rel_h.count != rows * job.height || rel_w.count != rows * job.width)
      return call.fail("rel_h %s and rel_w %s must be [..., %lld, H] and [..., %lld, W] with H W = %lld",
                       show(rel_h).text, show(rel_w).text, static_cast<long long>(job.nq),
                       static_cast<long long>(job.nq), static_cast<long long>(job.nk));
    job.rel_h = static_cast<const float*>(rel_h.data), job.rel_w = static_cast<const float*>(rel_w.data);
  }
  if (!error && s.q_bits && !s.token)
    error = read_static(call, "q", call.input(kQScale), call.input(kQZero), s.heads, 0, &job.q_static);
  if (!error && s.k_bits && !s.token)
    error = read_static(call, "k", call.input(kKScale), call.input(kKZero), s.heads, 0, &job.k_static);
  if (!error && s.v_bits)
    error = read_static(call, "v", call.input(kVScale), call.input(kVZero), s.heads, job.dv, &job.v_static);
  if (error) return error;
  int64_t dims[kMaxRank];
  memcpy(dims, q.dims, sizeof(dims));
  dims[rank - 1] = job.dv;
  job.y = static_cast<float*>(call.output(0, dims, rank));
  const int64_t size = job.batch * job.nq * job.dv;
  if (size == 0) return nullptr;
  if (job.nk == 0) {
    memset(job.y, 0, static_cast<size_t>(size) * sizeof(float));
    return nullptr;
  }
  return attend_by_scheme(call, job, {{call.input(kP0), call.input(kP1), call.input(kP2)}});
}

#define ONNXPTQ_SCALES                                                                                      \
  {"q_scale", kFloat, true}, {"q_zero", kUint8, true}, {"k_scale", kFloat, true}, {"k_zero", kUint8, true}, \
      {"v_scale", kFloat, true}, {                                                                          \
    "v_zero", kUint8, true                                                                                  \
  }

const Op kOps[] = {
    {"onnxptq",
     "QAttention",
     {{"q", kFloat, false},
      {"k", kFloat, false},
      {"v", kFloat, false},
      {"mask", kFloat, true},
      {"bias", kFloat, true},
      {"rel_h", kFloat, true},
      {"rel_w", kFloat, true},
      ONNXPTQ_SCALES,
      {"p0", kAny, true},
      {"p1", kAny, true},
      {"p2", kAny, true}},
     {{"y", kFloat, false}},
     create,
     run,
     "q_bits=8 k_bits=8 v_bits=8 p_bits=8 qk_scheme=token softmax_scheme=row heads=2 scale=0.25 | "
     "float[2,2,13,16]~normal "
     "float[2,2,12,16]~normal float[2,2,12,20]~normal - float[2,1,12]~normal float[2,2,13,3]~normal "
     "float[2,2,13,4]~normal "
     "- - - - float[2]~scale uint8[2]=128\n"
     "q_bits=4 k_bits=4 v_bits=4 p_bits=4 softmax_scheme=log_base | float[3,7,8]~normal float[3,40,8]~normal "
     "float[3,40,8]~normal float[1,7,40]~normal - - - float[]=0.3 uint8[]=8 float[]=0.3 uint8[]=8 float[]=0.3 "
     "uint8[]=8 "
     "float[16]~descending float[15]~descending\n"
     "q_bits=0 k_bits=0 v_bits=0 p_bits=0 | float[3,7,8]~normal float[3,40,8]~normal float[3,40,8]~normal"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(qattention, onnxptq::kOps)
