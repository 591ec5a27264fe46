// QMatMul: decode(encode(a)) decode(encode(b)), multiplied in integers. Operands that stay float, or whose scale varies
// along the sum, are multiplied in float.
#include "gemm_float.h"
#include "product.h"

namespace onnxptq {
namespace {

struct State {
  int bits[2];
  bool token[2];
  bool transposed;  // b is [..., N, K]
};

enum Input { kA, kB, kScaleA, kZeroA, kScaleB, kZeroB };

// One operand: matrices of rows, and the parameters of each row or column.
struct Operand {
  const float* x;
  int bits, rank;
  bool token;
  int64_t rows, width, matrices;  // of one matrix; how many
  int64_t dims[kMaxRank], scale_strides[kMaxRank], zero_strides[kMaxRank];
  const float* scale;
  const uint8_t* zero;  // null: 0

  bool by_row() const { return token || scale_strides[rank - 2] || zero_strides[rank - 2]; }
  bool by_column() const { return !token && (scale_strides[rank - 1] || zero_strides[rank - 1]); }
};

// Where the parameters of one matrix of an operand begin.
struct Place {
  const float* scale;
  const uint8_t* zero;

  Place(const Operand& o, int64_t matrix) : scale(o.scale), zero(o.zero) {
    for (int i = o.rank - 3; i >= 0; --i) {
      scale += matrix % o.dims[i] * o.scale_strides[i];
      if (zero) zero += matrix % o.dims[i] * o.zero_strides[i];
      matrix /= o.dims[i];
    }
  }
  Affine at(const Operand& o, int64_t row, int64_t column) const {
    return {scale[row * o.scale_strides[o.rank - 2] + column * o.scale_strides[o.rank - 1]],
            zero ? zero[row * o.zero_strides[o.rank - 2] + column * o.zero_strides[o.rank - 1]] : 0};
  }
  // The coder of n columns of one row.
  Uniform coder(const Operand& o, int64_t row, int64_t column, int n) const {
    if (!o.by_column()) {
      const Affine a = at(o, row, column);
      return uniform(a.scale, a.zero, o.bits);
    }
    float scales[kLanes];
    int32_t zeros[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const Affine a = at(o, row, column + (i < n ? i : 0));
      scales[i] = a.scale, zeros[i] = a.zero;
    }
    const F s = load(scales);
    const I z = load(zeros);
    const M plain = both(less(set(0x1p-100f), s), less(s, set(0x1p100f)));
    return {s,
            set(1.0f) / s,
            -to_float(z),
            set(static_cast<float>((1 << o.bits) - 1)) - to_float(z),
            select(plain, set(0.4999f), set(-1.0f)),
            z};
  }
};

// The scale and zero point of one row that has one.
inline Affine row_of(const Operand& o, const Place& place, const float* x, int64_t row) {
  return o.token ? row_range(x, o.width, o.bits) : place.at(o, row, 0);
}

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "a_bits", 0, &s->bits[0], &error) || !read_bits(node, "b_bits", 0, &s->bits[1], &error))
    return error;
  for (int i = 0; i < 2; ++i) {
    const char* name = i ? "b_scheme" : "a_scheme";
    char text[32] = "uniform";
    node.get_string(name, text, sizeof(text));
    s->token[i] = !strcmp(text, "token");
    if (!s->token[i] && strcmp(text, "uniform")) return node.fail("%s = %s; it must be uniform or token", name, text);
  }
  const int64_t transposed = get_int(node, "transpose_b", 0);
  if (transposed != 0 && transposed != 1) return "transpose_b must be 0 or 1";
  s->transposed = transposed == 1;
  return nullptr;
}

Error read_operand(Call& call, const State& s, int which, Operand* o) {
  const char* name = which ? "b" : "a";
  const Tensor x = call.input(which ? kB : kA);
  const Tensor scale = call.input(which ? kScaleB : kScaleA), zero = call.input(which ? kZeroB : kZeroA);
  if (x.rank < 2) return call.fail("%s %s must have at least two dimensions", name, show(x).text);
  *o = Operand{};
  o->x = static_cast<const float*>(x.data);
  o->bits = s.bits[which], o->rank = x.rank, o->token = s.token[which];
  o->rows = x.dims[x.rank - 2], o->width = x.dims[x.rank - 1], o->matrices = product(x.dims, 0, x.rank - 2);
  memcpy(o->dims, x.dims, sizeof(o->dims));
  if (!o->bits || o->token) return nullptr;
  if (!scale.present) return call.fail("scheme uniform needs %s_scale", name);
  if (!broadcast_strides(scale, x.dims, x.rank, o->scale_strides) ||
      (zero.present && !broadcast_strides(zero, x.dims, x.rank, o->zero_strides)))
    return call.fail("%s_scale %s and %s_zero %s must broadcast to %s's shape %s", name, show(scale).text, name,
                     show(zero).text, name, show(x).text);
  o->scale = static_cast<const float*>(scale.data);
  o->zero = static_cast<const uint8_t*>(zero.data);
  return nullptr;
}

// The whole product.
struct Job {
  Operand a, b;
  bool transposed;
  int64_t m, n, k;
  int64_t batch;
  int rank;  // of the dimensions before matrices, with the strides of a's and b's matrices along them
  int64_t lead[kMaxRank], a_strides[kMaxRank], b_strides[kMaxRank];
  float* y;

  void matrices(int64_t item, int64_t* of_a, int64_t* of_b) const {
    *of_a = *of_b = 0;
    for (int i = rank - 1; i >= 0; --i) {
      *of_a += item % lead[i] * a_strides[i];
      *of_b += item % lead[i] * b_strides[i];
      item /= lead[i];
    }
  }
  bool in_integers() const {
    const bool b_splits = transposed ? b.by_column() : b.by_row();
    return a.bits && b.bits && !a.by_column() && !b_splits && k <= kMostDepth;
  }
};

// Strides of an operand's matrices along the broadcast leading dimensions; fills in `lead`.
bool lead_strides(const Operand& o, Job* job, int64_t* strides) {
  int64_t step = 1;
  for (int i = job->rank - 1, j = o.rank - 3; i >= 0; --i, --j) {
    const int64_t d = j >= 0 ? o.dims[j] : 1;
    if (d != 1 && job->lead[i] != 1 && job->lead[i] != d) return false;
    if (d != 1) job->lead[i] = d;
    strides[i] = d == 1 ? 0 : step;
    step *= d;
  }
  return true;
}

// Encodes columns [column, column + valid) of one matrix of b, whose rows are k, into a panel of signed codes.
template <bool wide>
void encode_columns(const Operand& b, const Place& place, const float* x, int64_t column, int valid, int32_t* panel,
                    float* scales, int32_t* minus_zeros, int32_t* minus_sums) {
  constexpr int kStep = wide ? 2 : 4, kShift = wide ? 16 : 8, kMask = wide ? 0xffff : 0xff;
  const I half = set(1 << (b.bits - 1));
  for (int j = 0; j < valid; j += kLanes) {
    const int n = valid - j < kLanes ? valid - j : kLanes;
    const Uniform coder = place.coder(b, 0, column + j, n);
    I total = set(0);
    for (int64_t k = 0; k < b.rows; k += kStep) {
      const float* from = x + k * b.width + column + j;
      I word = set(0);
      for (int e = 0; e < kStep && k + e < b.rows; ++e, from += b.width) {
        const I code = encode(coder, n == kLanes ? load(from) : load(from, n)) - half;
        total += code;
        word |= (code & kMask) << (e * kShift);
      }
      store(panel + k / kStep * kColumns + j, word);
    }
    const I zero = coder.zero - half;
    store(scales + j, coder.scale);
    store(minus_zeros + j, -zero);
    store(minus_sums + j, zero * static_cast<int32_t>(b.rows) - total);
  }
}

// The same for rows of a transposed matrix of b.
void encode_transposed(const Operand& b, const Place& place, const float* x, int64_t row, int valid,
                       const Product& product, int32_t* panel, float* scales, int32_t* minus_zeros,
                       int32_t* minus_sums) {
  Uniform coders[kColumns];
  int32_t sums[kColumns];
  const int half = 1 << (b.bits - 1);
  const float* from = x + row * b.width;
  for (int r = 0; r < round_up(valid, kFour); ++r) {
    const int64_t at = r < valid ? r : 0;
    const Affine a = row_of(b, place, from + at * b.width, row + at);
    coders[r] = uniform(a.scale, a.zero, b.bits);
    scales[r] = a.scale, minus_zeros[r] = half - a.zero;
  }
  encode_panel<kColumns>(
      from, b.width, valid, b.width, product, true, [&](int r, F v) { return encode(coders[r], v) - set(half); },
      reinterpret_cast<char*>(panel), sums);
  for (int r = 0; r < valid; ++r) minus_sums[r] = -sums[r] - minus_zeros[r] * static_cast<int32_t>(b.width);
}

// Rows of a task: enough to be worth it, few enough to keep their codes near, fair to all threads.
inline int64_t rows_of_task(const Job& job, int64_t row_bytes) {
  int64_t rows = kBlockBytes / (row_bytes + 1);
  const int64_t fair = job.m * job.batch / kTasks, least = kTaskProducts / (job.k * job.n + 1);
  if (rows > fair) rows = fair > least ? fair : least < rows ? least : rows;
  return round_up(rows < 1 ? 1 : rows < job.m ? rows : job.m, kRows);
}

bool run_integers(Call& call, const Job& job) {
  const Operand &a = job.a, &b = job.b;
  Packed w{};
  w.k = job.k, w.n = job.n, w.group = job.k ? job.k : 1, w.groups = 1;
  w.width = kColumns, w.columns = round_up(job.n, kColumns);
  w.product = product_of((1 << a.bits) - 1, 1 << (b.bits - 1));
  w.steps = w.product.steps(job.k);
  const int64_t panels = w.columns / kColumns, panel_words = w.steps * kColumns;
  const size_t values = static_cast<size_t>(b.matrices * w.columns);
  const size_t words = static_cast<size_t>(b.matrices * panels * panel_words);
  char* memory = static_cast<char*>(call.temporary((words + 3 * values + static_cast<size_t>(w.columns)) * 4));
  if (!memory) return false;
  int32_t* codes = reinterpret_cast<int32_t*>(memory);
  float* scales = reinterpret_cast<float*>(codes + words);
  int32_t* minus_zeros = reinterpret_cast<int32_t*>(scales + values);
  int32_t* minus_sums = minus_zeros + values;
  float* bias = reinterpret_cast<float*>(minus_sums + values);
  memset(bias, 0, static_cast<size_t>(w.columns) * 4);
  if (!parallel(call, b.matrices * panels, 0, [&](int64_t item, void*) {
        const int64_t matrix = item / panels, column = item % panels * kColumns;
        const int valid = job.n - column < kColumns ? static_cast<int>(job.n - column) : kColumns;
        const float* x = b.x + matrix * b.rows * b.width;
        const Place place(b, matrix);
        const int64_t at = item * kColumns;
        int32_t* panel = codes + item * panel_words;
        if (valid < kColumns) {
          memset(panel, 0, static_cast<size_t>(panel_words) * 4);
          memset(scales + at, 0, kColumns * 4);
          memset(minus_zeros + at, 0, kColumns * 4), memset(minus_sums + at, 0, kColumns * 4);
        }
        if (job.transposed)
          encode_transposed(b, place, x, column, valid, w.product, panel, scales + at, minus_zeros + at,
                            minus_sums + at);
        else if (w.product.wide)
          encode_columns<true>(b, place, x, column, valid, panel, scales + at, minus_zeros + at, minus_sums + at);
        else
          encode_columns<false>(b, place, x, column, valid, panel, scales + at, minus_zeros + at, minus_sums + at);
      }))
    return false;
  const int64_t size = rows_of_task(job, w.steps * 4), blocks = ceil_div(job.m, size);
  return parallel(call, job.batch * blocks, Block::bytes(w, 1, size), [&](int64_t item, void* scratch) {
    int64_t of_a, of_b;
    job.matrices(item / blocks, &of_a, &of_b);
    const int64_t from = item % blocks * size, count = job.m - from < size ? job.m - from : size;
    const Place place(a, of_a);
    const Block block(scratch, w, 1, size);
    for (int64_t row = 0; row < count; row += kRows) {
      const int rows = count - row < kRows ? static_cast<int>(count - row) : kRows;
      const float* x = a.x + (of_a * job.m + from + row) * job.k;
      Uniform coders[kRows];
      for (int r = 0; r < kRows; ++r) {
        const int64_t at = r < rows ? r : 0;
        const Affine p = row_of(a, place, x + at * job.k, from + row + at);
        coders[r] = uniform(p.scale, p.zero, a.bits);
        if (r < rows) block.scale[row + r] = p.scale, block.zero[row + r] = p.zero;
      }
      encode_part(x, job.k, rows, row, w, block, 0, [&](int r, F v) { return encode(coders[r], v); });
    }
    Packed now = w;
    now.panels = reinterpret_cast<const char*>(codes + of_b * panels * panel_words);
    now.scale = scales + of_b * w.columns;
    now.minus_zero = minus_zeros + of_b * w.columns, now.minus_sum = minus_sums + of_b * w.columns;
    const Target target{job.y + (item / blocks * job.m + from) * job.n, job.n, bias, now.scale, now.minus_sum};
    multiply<false>(kNone, block, 0, count, now, 0, now.columns, target, nullptr);
  });
}

// One row as it is after coding.
void decode_row(const Operand& o, const Place& place, int64_t row, const float* x, float* out) {
  if (!o.bits) {
    if (o.width) memcpy(out, x, static_cast<size_t>(o.width) * sizeof(float));
    return;
  }
  Uniform coder{};
  if (!o.by_column()) {
    const Affine p = row_of(o, place, x, row);
    coder = uniform(p.scale, p.zero, o.bits);
  }
  auto step = [&](int64_t i, int n) {
    if (o.by_column()) coder = place.coder(o, row, i, n);
    const I code = encode(coder, n == kLanes ? load(x + i) : load(x + i, n));
    store(out + i, to_float(code - coder.zero) * coder.scale, n);
  };
  walk(o.width, [&](int64_t i) { step(i, kLanes); }, step);
}

bool run_floats(Call& call, const Job& job) {
  constexpr int64_t kPiece = 1024;
  const Operand &a = job.a, &b = job.b;
  const int64_t panels = ceil_div(job.n, kColumns), panel = job.k * kColumns, k = job.k;
  float* right = static_cast<float*>(call.temporary(static_cast<size_t>(b.matrices * panels * panel) * sizeof(float)));
  if (!right) return false;
  memset(right, 0, static_cast<size_t>(b.matrices * panels * panel) * sizeof(float));
  const size_t row_bytes = static_cast<size_t>(b.width) * sizeof(float);
  if (!parallel(call, b.matrices * b.rows, row_bytes, [&](int64_t item, void* scratch) {
        const int64_t matrix = item / b.rows, row = item % b.rows;
        float* decoded = static_cast<float*>(scratch);
        decode_row(b, Place(b, matrix), row, b.x + item * b.width, decoded);
        float* to = right + matrix * panels * panel;
        if (job.transposed) {
          float* place = to + row / kColumns * panel + row % kColumns;
          for (int64_t i = 0; i < k; ++i) place[i * kColumns] = decoded[i];
        } else {
          for (int64_t i = 0; i < job.n; ++i) to[i / kColumns * panel + row * kColumns + i % kColumns] = decoded[i];
        }
      }))
    return false;
  const int64_t size = rows_of_task(job, k * 4), blocks = ceil_div(job.m, size);
  const size_t left = static_cast<size_t>(size * k), rows_at_once = static_cast<size_t>(kRows * k);
  const size_t bytes = (left + rows_at_once) * sizeof(float);
  return parallel(call, job.batch * blocks, bytes, [&](int64_t item, void* scratch) {
    int64_t of_a, of_b;
    job.matrices(item / blocks, &of_a, &of_b);
    const int64_t from = item % blocks * size, count = job.m - from < size ? job.m - from : size;
    const Place place(a, of_a);
    float* decoded = static_cast<float*>(scratch);
    float* coded = decoded + rows_at_once;
    for (int64_t row = 0; row < count; row += kRows) {
      const int rows = count - row < kRows ? static_cast<int>(count - row) : kRows;
      for (int r = 0; r < rows; ++r) {
        const int64_t at = from + row + r;
        decode_row(a, place, at, a.x + (of_a * job.m + at) * k, decoded + r * k);
      }
      pack_floats(decoded, k, rows, k, [](int, F v) { return v; }, coded + row * k);
    }
    float* y = job.y + (item / blocks * job.m + from) * job.n;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t column = p * kColumns;
      const int valid = job.n - column < kColumns ? static_cast<int>(job.n - column) : kColumns;
      for (int64_t row = 0; row < count; row += kRows) {
        const int rows = count - row < kRows ? static_cast<int>(count - row) : kRows;
        alignas(64) float c[kRows * kColumns] = {};
        alignas(64) float piece[kRows * kColumns];
        for (int64_t at = 0; at < k; at += kPiece) {  // long sums lose digits
          memset(piece, 0, sizeof(piece));
          tile_float(coded + row * k + at * kRows, right + (of_b * panels + p) * panel + at * kColumns,
                     k - at < kPiece ? k - at : kPiece, rows, piece);
          for (int i = 0; i < kRows * kColumns; ++i) c[i] += piece[i];
        }
        for (int r = 0; r < rows; ++r)
          memcpy(y + (row + r) * job.n + column, c + r * kColumns, static_cast<size_t>(valid) * sizeof(float));
      }
    }
  });
}

Error run(const void* state, Call& call) {
  const State& s = *static_cast<const State*>(state);
  Job job{};
  if (Error error = read_operand(call, s, 0, &job.a)) return error;
  if (Error error = read_operand(call, s, 1, &job.b)) return error;
  const Tensor a = call.input(kA), b = call.input(kB);
  job.transposed = s.transposed;
  job.m = job.a.rows, job.k = job.a.width;
  job.n = s.transposed ? job.b.rows : job.b.width;
  job.rank = (a.rank > b.rank ? a.rank : b.rank) - 2;
  for (int i = 0; i < job.rank; ++i) job.lead[i] = 1;
  if ((s.transposed ? job.b.width : job.b.rows) != job.k || !lead_strides(job.a, &job, job.a_strides) ||
      !lead_strides(job.b, &job, job.b_strides))
    return call.fail("a %s and b %s%s do not multiply", show(a).text, show(b).text,
                     s.transposed ? " (transposed)" : "");
  int64_t dims[kMaxRank];
  memcpy(dims, job.lead, sizeof(dims));
  dims[job.rank] = job.m, dims[job.rank + 1] = job.n;
  job.batch = product(job.lead, 0, job.rank);
  job.y = static_cast<float*>(call.output(0, dims, job.rank + 2));
  if (job.batch * job.m * job.n == 0 || !job.y) return nullptr;
  return (job.in_integers() ? run_integers(call, job) : run_floats(call, job)) ? nullptr : "out of memory";
}

const Op kOps[] = {
    {"onnxptq",
     "QMatMul",
     {{"a", kFloat, false},
      {"b", kFloat, false},
      {"a_scale", kFloat, true},
      {"a_zero", kUint8, true},
      {"b_scale", kFloat, true},
      {"b_zero", kUint8, true}},
     {{"y", kFloat, false}},
     create,
     run,
     "a_bits=8 b_bits=8 a_scheme=token b_scheme=token transpose_b=1 | float[2,3,19,33]~normal float[2,3,21,33]~normal"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(qmatmul, onnxptq::kOps)
