// Domain onnxptq.calib: a large tensor reduced to a few numbers, the same whatever the number of threads. A tensor is
// cut into pieces by its shape alone, every piece is reduced by one task, and the results are folded in order.
#include "shapes.h"
#include "simd.h"

namespace onnxptq {
namespace {

constexpr int64_t kPiece = 1 << 16;  // elements
constexpr int64_t kMostPieces = 256;
constexpr int64_t kMostResults = 1 << 16;  // of all pieces together
constexpr float kLargestFinite = 3.40282347e38f;

// How many pieces a tensor of `count` elements is cut into, where a piece has `results` results.
int64_t pieces_of(int64_t count, int64_t results) {
  int64_t pieces = count / kPiece < kMostPieces ? count / kPiece : kMostPieces;
  if (pieces * results > kMostResults) pieces = kMostResults / results;
  return pieces < 1 ? 1 : pieces;
}

inline M finite(F v) { return less_equal(abs(v), set(kLargestFinite)); }

struct Stats {
  double low, high, sum, squares, bad;
};

void fold(Stats* into, const Stats& s) {
  if (s.low < into->low) into->low = s.low;
  if (s.high > into->high) into->high = s.high;
  into->sum += s.sum;
  into->squares += s.squares;
  into->bad += s.bad;
}

const Stats kNothing = {INFINITY, -INFINITY, 0, 0, 0};

// A vector of running statistics: one of the whole, or one for each lane.
struct Lanes {
  F low = set(INFINITY), high = set(-INFINITY);
  D sum = {}, squares = {};
  I bad = set(0);

  void add(F v) {
    M good = finite(v);
    if (__builtin_expect(count(good) != kLanes, 0)) {
      bad += select(good, set(0), set(1));
      low = min(select(good, v, low), low);
      high = max(select(good, v, high), high);
      v = select(good, v, set(0.0f));
    } else {
      low = min(v, low);
      high = max(v, high);
    }
    D d = widen(v);
    sum.low += d.low;
    sum.high += d.high;
    squares.low += d.low * d.low;
    squares.high += d.high * d.high;
  }
};

Stats whole(const float* x, int64_t n) {
  Stats result = kNothing;
  Lanes a;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) a.add(load(x + i));
  Stats s = {lowest(a.low), highest(a.high), sum(a.sum), sum(a.squares), static_cast<double>(sum(a.bad))};
  fold(&result, s);
  for (; i < n; ++i) {
    double v = x[i];
    if (x[i] - x[i] == 0.0f)
      fold(&result, {v, v, v, v * v, 0});
    else
      result.bad += 1;
  }
  return result;
}

struct RangeState {
  int64_t axis, per_channel;
};

Error create_range(Node& node, void** state) {
  RangeState* s = static_cast<RangeState*>(node.keep(sizeof(RangeState)));
  if (!s) return "out of memory";
  *state = s;
  s->axis = get_int(node, "axis", -1);
  s->per_channel = get_int(node, "per_channel", 0);
  return nullptr;
}

// One task's running statistics of a matrix's columns, kept in scratch memory.
struct Columns {
  float *low, *high;
  double *sum, *squares;
  int32_t* bad;

  static size_t bytes(int64_t channels) { return static_cast<size_t>(round_up(channels, kLanes)) * 28; }
  Columns(void* memory, int64_t channels) {
    const int64_t n = round_up(channels, kLanes);
    sum = static_cast<double*>(memory), squares = sum + n;
    low = reinterpret_cast<float*>(squares + n), high = low + n;
    bad = reinterpret_cast<int32_t*>(high + n);
    memset(memory, 0, bytes(channels));
    for (int64_t i = 0; i < n; ++i) low[i] = INFINITY, high[i] = -INFINITY;
  }
};

// Statistics of each column of rows [from, to), folded into `out`. A few rows are read side by side, so that memory is
// walked in order and the running statistics are touched once for all of them.
void columns(const float* x, int64_t from, int64_t to, int64_t channels, Stats* out, void* memory) {
  constexpr int64_t kTogether = 4;
  Columns all(memory, channels);
  for (int64_t row = from; row < to; row += kTogether) {
    const int64_t rows = to - row < kTogether ? to - row : kTogether;
    for (int64_t c = 0; c < channels; c += kLanes) {
      const int n = channels - c < kLanes ? static_cast<int>(channels - c) : kLanes;
      const float* p = x + row * channels + c;
      Lanes a;
      a.low = load(all.low + c), a.high = load(all.high + c), a.bad = load(all.bad + c);
      memcpy(&a.sum, all.sum + c, sizeof(D)), memcpy(&a.squares, all.squares + c, sizeof(D));
      for (int64_t r = 0; r < rows; ++r) a.add(n == kLanes ? load(p + r * channels) : load(p + r * channels, n));
      store(all.low + c, a.low), store(all.high + c, a.high), store(all.bad + c, a.bad);
      store(all.sum + c, a.sum), store(all.squares + c, a.squares);
    }
  }
  for (int64_t c = 0; c < channels; ++c)
    fold(&out[c], {all.low[c], all.high[c], all.sum[c], all.squares[c], static_cast<double>(all.bad[c])});
}

Error range(const void* state, Call& call) {
  const RangeState& s = *static_cast<const RangeState*>(state);
  Tensor x = call.input(0);
  int64_t outer = 1, channels = 1, inner = x.count;
  if (s.per_channel) {
    int64_t axis = s.axis < 0 ? s.axis + x.rank : s.axis;
    if (axis < 0 || axis >= x.rank)
      return call.fail("axis = %lld is outside of x %s", static_cast<long long>(s.axis), show(x).text);
    outer = product(x.dims, 0, static_cast<int>(axis));
    channels = x.dims[axis];
    inner = product(x.dims, static_cast<int>(axis) + 1, x.rank);
  }
  const int64_t dims[2] = {channels, 5};
  double* stats = static_cast<double*>(call.output(0, s.per_channel ? dims : dims + 1, s.per_channel ? 2 : 1));
  if (!channels) return nullptr;

  // Pieces: by the outer dimension, or by the inner one where there is too little outside.
  const int64_t most = pieces_of(x.count, channels);
  const bool split_inner = outer < most && inner > channels;
  const int64_t total = split_inner ? inner : outer, step = ceil_div(total > 0 ? total : 1, most);
  const int64_t pieces = ceil_div(total > 0 ? total : 1, step);
  Stats* partial = static_cast<Stats*>(call.temporary(sizeof(Stats) * static_cast<size_t>(pieces * channels)));
  if (!partial) return "out of memory";
  const float* data = static_cast<const float*>(x.data);
  bool ok = parallel(call, pieces, inner == 1 ? Columns::bytes(channels) : 0, [&](int64_t piece, void* scratch) {
    Stats* mine = partial + piece * channels;
    for (int64_t c = 0; c < channels; ++c) mine[c] = kNothing;
    if (!x.count) return;
    const int64_t from = piece * step, to = from + step < total ? from + step : total;
    if (inner == 1) return columns(data, from, to, channels, mine, scratch);
    const int64_t low = split_inner ? from : 0, high = split_inner ? to : inner;
    for (int64_t o = split_inner ? 0 : from; o < (split_inner ? outer : to); ++o)
      for (int64_t c = 0; c < channels; ++c) fold(&mine[c], whole(data + (o * channels + c) * inner + low, high - low));
  });
  if (!ok) return "out of memory";
  for (int64_t c = 0; c < channels; ++c) {
    Stats result = kNothing;
    for (int64_t p = 0; p < pieces; ++p) fold(&result, partial[p * channels + c]);
    memcpy(stats + 5 * c, &result, sizeof(result));
  }
  return nullptr;
}

struct HistogramState {
  int64_t bins;
};

Error create_histogram(Node& node, void** state) {
  HistogramState* s = static_cast<HistogramState*>(node.keep(sizeof(HistogramState)));
  if (!s) return "out of memory";
  *state = s;
  s->bins = get_int(node, "bins", 2048);
  if (s->bins < 2 || s->bins > 65536 || (s->bins & (s->bins - 1)))
    return node.fail("bins = %lld; it must be a power of two from 2 to 65536", static_cast<long long>(s->bins));
  return nullptr;
}

constexpr int kLeastExponent = -60;
constexpr int64_t kBlock = 8192;  // elements that are still in cache when their bins are counted
constexpr int kTables = 4;        // neighbours are counted apart: equal values would wait for each other

// Smallest e >= kLeastExponent with magnitude < 2^e.
int exponent_of(float magnitude) {
  int e = 0;
  frexpf(magnitude, &e);
  return magnitude == 0 || e < kLeastExponent ? kLeastExponent : e;
}

// Counts of width 2^e seen with the width 2^to: pairs of bins around zero fall together.
void coarsen(const int64_t* counts, int64_t bins, int shift, int64_t* into) {
  const int64_t half = bins / 2;
  if (shift > 40) shift = 40;
  for (int64_t i = 0; i < bins; ++i) into[half + ((i - half) >> shift)] += counts[i];
}

struct Piece {
  int64_t* counts;
  double low, high;
  int64_t count, bad;
  int exponent;
};

void count_bins(const float* x, int64_t n, int64_t bins, Piece* out, uint32_t* tables, int64_t* spare) {
  int32_t index[kBlock];
  float low = INFINITY, high = -INFINITY;
  auto flush = [&] {
    for (int t = 0; t < kTables; ++t)
      for (int64_t i = 0; i < bins; ++i) out->counts[i] += tables[t * bins + i];
    memset(tables, 0, sizeof(uint32_t) * static_cast<size_t>(kTables * bins));
  };
  memset(tables, 0, sizeof(uint32_t) * static_cast<size_t>(kTables * bins));
  int64_t since = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t length = n - start < kBlock ? n - start : kBlock;
    const float* block = x + start;
    F lo = set(INFINITY), hi = set(-INFINITY);
    M all = finite(set(0.0f));
    auto see = [&](F v) {
      all = both(all, finite(v));
      lo = min(v, lo);
      hi = max(v, hi);
    };
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) see(load(block + i));
    if (i < length) {
      float tail[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) tail[j] = block[i + j < length ? i + j : i];
      see(load(tail));
    }
    const bool clean = count(all) == kLanes;
    float block_low = INFINITY, block_high = -INFINITY;
    if (clean) {
      block_low = lowest(lo), block_high = highest(hi);
    } else {
      for (int64_t j = 0; j < length; ++j) {
        if (block[j] - block[j] != 0.0f) continue;
        if (block[j] < block_low) block_low = block[j];
        if (block[j] > block_high) block_high = block[j];
      }
      if (block_low > block_high) {
        out->bad += length;
        continue;
      }
    }
    if (block_low < low) low = block_low;
    if (block_high > high) high = block_high;
    int e = exponent_of(-block_low > block_high ? -block_low : block_high);
    if (e > out->exponent || since > (int64_t{1} << 31)) {
      flush();
      since = 0;
    }
    if (e > out->exponent) {
      memset(spare, 0, sizeof(int64_t) * static_cast<size_t>(bins));
      coarsen(out->counts, bins, e - out->exponent, spare);
      memcpy(out->counts, spare, sizeof(int64_t) * static_cast<size_t>(bins));
      out->exponent = e;
    }
    // A product with a power of two is exact, but where it underflows: there the sign decides.
    const F scale = set(ldexpf(static_cast<float>(bins / 2), -out->exponent)), none = set(0.0f), tiny = set(-1e-30f);
    const I half = set(static_cast<int32_t>(bins / 2));
    auto place = [&](F v) {
      F scaled = v * scale;
      return floor_int(select(less(v, none), min(scaled, tiny), scaled)) + half;
    };
    if (clean) {
      walk(
          length, [&](int64_t j) { store(index + j, place(load(block + j))); },
          [&](int64_t j, int part) {
            int32_t lanes[kLanes];
            store(lanes, place(load(block + j, part)));
            memcpy(index + j, lanes, sizeof(int32_t) * static_cast<size_t>(part));
          });
    }
    int64_t kept = length;
    if (!clean) {
      kept = 0;
      for (int64_t j = 0; j < length; ++j) {
        if (block[j] - block[j] != 0.0f) continue;
        int32_t lanes[kLanes];
        store(lanes, place(set(block[j])));
        index[kept++] = lanes[0];
      }
    }
    int64_t j = 0;
    for (; j + kTables <= kept; j += kTables)
      for (int t = 0; t < kTables; ++t) ++tables[t * bins + index[j + t]];
    for (; j < kept; ++j) ++tables[index[j]];
    out->count += kept;
    out->bad += length - kept;
    since += kept;
  }
  flush();
  out->low = low;
  out->high = high;
}

Error histogram(const void* state, Call& call) {
  const int64_t bins = static_cast<const HistogramState*>(state)->bins;
  Tensor x = call.input(0);
  const int64_t five = 5;
  int64_t* counts = static_cast<int64_t*>(call.output(0, &bins, 1));
  double* meta = static_cast<double*>(call.output(1, &five, 1));
  const int64_t most = pieces_of(x.count, 1), step = ceil_div(x.count > 0 ? x.count : 1, most);
  const int64_t pieces = ceil_div(x.count > 0 ? x.count : 1, step);
  const size_t size = static_cast<size_t>(bins) * sizeof(int64_t);
  Piece* partial = static_cast<Piece*>(call.temporary(sizeof(Piece) * static_cast<size_t>(pieces)));
  char* memory = static_cast<char*>(call.temporary(size * static_cast<size_t>(pieces)));
  if (!partial || !memory) return "out of memory";
  const size_t scratch = size + static_cast<size_t>(kTables * bins) * sizeof(uint32_t);
  bool ok = parallel(call, pieces, scratch, [&](int64_t i, void* p) {
    int64_t* mine = reinterpret_cast<int64_t*>(memory + size * static_cast<size_t>(i));
    memset(mine, 0, size);
    partial[i] = {mine, INFINITY, -INFINITY, 0, 0, kLeastExponent};
    int64_t from = i * step, to = from + step < x.count ? from + step : x.count;
    if (from < to)
      count_bins(static_cast<const float*>(x.data) + from, to - from, bins, &partial[i],
                 reinterpret_cast<uint32_t*>(static_cast<char*>(p) + size), static_cast<int64_t*>(p));
  });
  if (!ok) return "out of memory";
  Piece all = {counts, INFINITY, -INFINITY, 0, 0, kLeastExponent};
  for (int64_t i = 0; i < pieces; ++i) {
    const Piece& p = partial[i];
    if (p.exponent > all.exponent) all.exponent = p.exponent;
    if (p.low < all.low) all.low = p.low;
    if (p.high > all.high) all.high = p.high;
    all.count += p.count;
    all.bad += p.bad;
  }
  memset(counts, 0, size);
  for (int64_t i = 0; i < pieces; ++i) coarsen(partial[i].counts, bins, all.exponent - partial[i].exponent, counts);
  meta[0] = all.low;
  meta[1] = all.high;
  meta[2] = all.exponent;
  meta[3] = static_cast<double>(all.count);
  meta[4] = static_cast<double>(all.bad);
  return nullptr;
}

struct SampleState {
  int64_t rows, seed;
};

Error create_sample(Node& node, void** state) {
  SampleState* s = static_cast<SampleState*>(node.keep(sizeof(SampleState)));
  if (!s) return "out of memory";
  *state = s;
  if (!node.get_int("rows", &s->rows)) return "attribute rows is missing";
  if (s->rows < 1) return node.fail("rows = %lld; it must be positive", static_cast<long long>(s->rows));
  s->seed = get_int(node, "seed", 0);
  return nullptr;
}

uint64_t split_mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// One row from each of `rows` equal stretches, at a place that depends on the seed: a fixed stride could meet the
// period of windows or image rows.
Error sample_rows(const void* state, Call& call) {
  const SampleState& s = *static_cast<const SampleState*>(state);
  Tensor x = call.input(0);
  if (x.rank < 1) return "x must have at least one dimension";
  const int64_t length = x.dims[x.rank - 1], rows = product(x.dims, 0, x.rank - 1);
  const int64_t dims[2] = {rows < s.rows ? rows : s.rows, length};
  float* y = static_cast<float*>(call.output(0, dims, 2));
  if (!x.count) return nullptr;
  for (int64_t i = 0; i < dims[0]; ++i) {
    auto edge = [&](int64_t k) { return k * (rows / dims[0]) + k * (rows % dims[0]) / dims[0]; };
    const int64_t first = edge(i), size = edge(i + 1) - first;
    const int64_t row =
        first + static_cast<int64_t>(split_mix(static_cast<uint64_t>(s.seed) + static_cast<uint64_t>(i)) %
                                     static_cast<uint64_t>(size));
    memcpy(y + i * length, static_cast<const float*>(x.data) + row * length,
           static_cast<size_t>(length) * sizeof(float));
  }
  return nullptr;
}

const Op kOps[] = {
    {"onnxptq.calib",
     "Range",
     {{"x", kFloat, false}},
     {{"stats", kDouble, false}},
     create_range,
     range,
     "axis=-1 per_channel=0 | float[3,41,7]~normal\n"
     "axis=1 per_channel=1 | float[3,41,7]~normal\n"
     "axis=-1 per_channel=1 | float[300,70]~normal"},
    {"onnxptq.calib",
     "Histogram",
     {{"x", kFloat, false}},
     {{"counts", kInt64, false}, {"meta", kDouble, false}},
     create_histogram,
     histogram,
     "bins=2048 | float[3,41,70]~normal\nbins=16 | float[9]~normal"},
    {"onnxptq.calib",
     "SampleRows",
     {{"x", kFloat, false}},
     {{"y", kFloat, false}},
     create_sample,
     sample_rows,
     "rows=5 seed=3 | float[3,41,7]~normal"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(observe, onnxptq::kOps)
