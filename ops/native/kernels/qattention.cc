// QAttention: scores, softmax and the weighted sum of values for kRows queries at a time. Keys and values are coded and
// packed once a head; of the map of scores no more than kRows rows ever exist.
#include "attention_coders.h"

namespace onnxptq {
namespace {

enum Input { kQ, kK, kV, kMask, kBias, kRelH, kRelW, kQScale, kQZero, kKScale, kKZero, kVScale, kVZero, kP0, kP1, kP2 };

Error create(Node& node, void** state) {
  Attention* s = static_cast<Attention*>(node.keep(sizeof(Attention)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "q_bits", 0, &s->q_bits, &error) || !read_bits(node, "k_bits", 0, &s->k_bits, &error) ||
      !read_bits(node, "v_bits", 0, &s->v_bits, &error) || !read_bits(node, "p_bits", 0, &s->p_bits, &error))
    return error;
  char text[32];
  auto dynamic = [&](const char* attribute, bool* out) {
    SchemeKind kind;
    snprintf(text, sizeof(text), "uniform");
    node.get_string(attribute, text, sizeof(text));
    const bool known = scheme_named(text, &kind) && (kind == kUniform || kind == kToken);
    *out = known && kind == kToken;
    return known ? nullptr : node.fail("%s = %s; it must be uniform or token", attribute, text);
  };
  if ((error = dynamic("qk_scheme", &s->token)) || (error = dynamic("v_scheme", &s->v_token))) return error;
  snprintf(text, sizeof(text), "uniform");
  node.get_string("softmax_scheme", text, sizeof(text));
  if (!scheme_named(text, &s->softmax) || s->softmax == kToken || s->softmax == kOutlierRetained)
    return node.fail("softmax_scheme = %s; it must be uniform, row, dual_region, log_base or table", text);
  s->norm = get_int(node, "softmax_norm", 0) != 0;
  if (!node.get_float("scale", &s->scale)) s->scale = 1.0f;
  s->heads = get_int(node, "heads", 1);
  return s->heads < 1 ? "heads must be positive" : nullptr;
}

constexpr int64_t kKeysOfTask = 16 * kColumns;
constexpr int64_t kBlocksOfTask = 4;  // of kRows queries

template <typename Sums>
Error attend(Call& call, const Job& job, Sums sums) {
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
          soften(job, rows, sums.sums(), Sums::kExponentials);
          for (int r = 0; r < rows.count; ++r) sums.start(&rows.state[r]);
          for (int r = rows.count; r < kRows; ++r) rows.state[r] = rows.state[0];
          sums.run(rows, head + key_bytes, scratch, job.y + (b * job.nq + first) * job.dv, job.v + b * job.nk * job.dv);
        }
      });
  return ok ? nullptr : "out of memory";
}

// Integer sums where values are coded and the scheme has integers to sum.
template <typename Coder>
Error attend_coded(Call& call, const Job& job, const Coder& coder) {
  if (job.s->v_bits && coder.parts) return attend(call, job, IntegerSums<Coder>(job, coder));
  return attend(call, job, FloatSums<Coder>(job, coder));
}

Error attend_by_scheme(Call& call, const Job& job, const Parameters& given) {
  const Attention& s = *job.s;
  if (s.p_bits == 0) return attend(call, job, FloatSums<PlainCoder>(job, {s.norm}));
  if (s.softmax == kUniform || s.softmax == kRow) {
    Given u{1.0f, 0};
    if (s.softmax == kUniform)
      if (Error error = read_uniform(call, given, &u)) return error;
    return attend_coded(call, job, EvenCoder(s, u));
  }
  if (s.softmax == kTable) {
    Table t;
    if (Error error = t.read(call, given, s.p_bits)) return error;
    return attend_coded(call, job, TableCoder(s, t));
  }
  if (s.softmax == kDualRegion) {
    DualRegion d;
    if (Error error = d.read(call, given, s.p_bits, false)) return error;
    return attend_coded(call, job, DualCoder(s, d));
  }
  LogBase l;
  if (Error error = l.read(call, given, s.p_bits)) return error;
  GeometricCoder geometric(s, l);
  if (geometric.read()) return attend_coded(call, job, geometric);
  return attend(call, job, FloatSums<LogCoder>(job, {l, s.norm}));
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
  const Attention& s = *static_cast<const Attention*>(state);
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
  if (!error && s.v_bits && !s.v_token)
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
     "q_bits=8 k_bits=8 v_bits=4 p_bits=8 qk_scheme=token v_scheme=token softmax_scheme=row heads=2 scale=0.25 | "
     "float[2,2,13,16]~normal float[2,2,12,16]~normal float[2,2,12,20]~normal\n"
     "q_bits=0 k_bits=0 v_bits=0 p_bits=0 | float[3,7,8]~normal float[3,40,8]~normal float[3,40,8]~normal"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(qattention, onnxptq::kOps)
