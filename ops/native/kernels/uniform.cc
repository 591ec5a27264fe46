// UniformQuantizeLinear and UniformDequantizeLinear of 2 to 8 bits at any granularity, and RowRange.
#include "uniform.h"

#include "shapes.h"

namespace onnxptq {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements of one task

struct State {
  int bits;
};

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  return read_bits(node, "bits", 2, &s->bits, &error) ? nullptr : error;
}

struct RangeState {
  int bits;
  bool columns;
};

Error create_range(Node& node, void** state) {
  RangeState* s = static_cast<RangeState*>(node.keep(sizeof(RangeState)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "bits", 2, &s->bits, &error)) return error;
  const int64_t axis = get_int(node, "axis", -1);
  s->columns = axis == -2;
  return s->columns || axis == -1
             ? nullptr
             : node.fail("axis = %lld; it must be -1, for rows, or -2, for columns", static_cast<long long>(axis));
}

// Runs body(x offset, count, scale, scale stride, zero, zero stride) over pieces of rows.
template <typename Body>
bool over_rows(Call& call, const Rows& rows, const float* scale, const uint8_t* zero, Body body) {
  int64_t pieces = ceil_div(rows.length, kGrain), together = pieces > 1 ? 1 : kGrain / (rows.length ? rows.length : 1);
  if (together < 1) together = 1;
  int64_t scale_step = rows.strides[0][rows.rank - 1], zero_step = rows.strides[1][rows.rank - 1];
  return parallel(call, ceil_div(rows.rows, together) * pieces, 0, [&](int64_t item, void*) {
    int64_t row = item / pieces * together, start = item % pieces * kGrain;
    int64_t count = pieces > 1 && rows.length - start > kGrain ? kGrain : rows.length - start;
    for (int64_t end = row + together < rows.rows ? row + together : rows.rows; row < end; ++row) {
      int64_t a, b;
      rows.offsets(row, &a, &b);
      body(row * rows.length + start, count, scale + a + start * scale_step, scale_step, zero + b + start * zero_step,
           zero_step);
    }
  });
}

Error check(Call& call, const Tensor& x, const Tensor& scale, const Tensor& zero, Rows* rows) {
  if (!rows_of(x, scale, zero, rows))
    return call.fail("scale %s and zero %s must broadcast to the input's shape %s", show(scale).text, show(zero).text,
                     show(x).text);
  return nullptr;
}

Error quantize(const void* state, Call& call) {
  const int bits = static_cast<const State*>(state)->bits;
  Tensor x = call.input(0), scale = call.input(1), zero = call.input(2);
  Rows rows;
  if (Error error = check(call, x, scale, zero, &rows)) return error;
  uint8_t* y = static_cast<uint8_t*>(call.output(0, x.dims, x.rank));
  if (!x.count) return nullptr;
  const float* source = static_cast<const float*>(x.data);
  over_rows(call, rows, static_cast<const float*>(scale.data), static_cast<const uint8_t*>(zero.data),
            [&](int64_t at, int64_t n, const float* s, int64_t ss, const uint8_t* z, int64_t zs) {
              const float* from = source + at;
              uint8_t* to = y + at;
              if (ss == 0 && zs == 0) {
                Uniform u = uniform(*s, *z, bits);
                walk(
                    n, [&](int64_t i) { store(to + i, encode(u, load(from + i))); },
                    [&](int64_t i, int part) { store(to + i, encode(u, load(from + i, part)), part); });
              } else {
                walk(
                    n,
                    [&](int64_t i) {
                      store(to + i, encode(load(from + i), ss ? load(s + i) : set(*s),
                                           zs ? load(z + i) : set(int32_t{*z}), bits));
                    },
                    [&](int64_t i, int part) {
                      store(to + i,
                            encode(load(from + i, part), ss ? load(s + i, part) : set(*s),
                                   zs ? load(z + i, part) : set(int32_t{*z}), bits),
                            part);
                    });
              }
            });
  return nullptr;
}

Error dequantize(const void*, Call& call) {
  Tensor x = call.input(0), scale = call.input(1), zero = call.input(2);
  Rows rows;
  if (Error error = check(call, x, scale, zero, &rows)) return error;
  float* y = static_cast<float*>(call.output(0, x.dims, x.rank));
  if (!x.count) return nullptr;
  const uint8_t* source = static_cast<const uint8_t*>(x.data);
  over_rows(call, rows, static_cast<const float*>(scale.data), static_cast<const uint8_t*>(zero.data),
            [&](int64_t at, int64_t n, const float* s, int64_t ss, const uint8_t* z, int64_t zs) {
              const uint8_t* from = source + at;
              float* to = y + at;
              walk(
                  n,
                  [&](int64_t i) {
                    I d = load(from + i) - (zs ? load(z + i) : set(int32_t{*z}));
                    store(to + i, to_float(d) * (ss ? load(s + i) : set(*s)));
                  },
                  [&](int64_t i, int part) {
                    I d = load(from + i, part) - (zs ? load(z + i, part) : set(int32_t{*z}));
                    store(to + i, to_float(d) * (ss ? load(s + i, part) : set(*s)), part);
                  });
            });
  return nullptr;
}

Error ranges_of_columns(Call& call, const Tensor& x, int bits) {
  if (x.rank < 2) return call.fail("x %s must have at least two dimensions for ranges of columns", show(x).text);
  int64_t dims[kMaxRank];
  memcpy(dims, x.dims, sizeof(dims));
  const int64_t width = dims[x.rank - 1], length = dims[x.rank - 2], matrices = product(dims, 0, x.rank - 2);
  dims[x.rank - 2] = 1;
  float* scale = static_cast<float*>(call.output(0, dims, x.rank));
  uint8_t* zero = static_cast<uint8_t*>(call.output(1, dims, x.rank));
  parallel(call, matrices, 0, [&](int64_t matrix, void*) {
    for (int64_t c = 0; c < width; c += kLanes) {
      const int n = width - c < kLanes ? static_cast<int>(width - c) : kLanes;
      Affine found[kLanes];
      column_ranges(static_cast<const float*>(x.data) + matrix * length * width + c, length, width, n, bits, found);
      for (int j = 0; j < n; ++j) {
        scale[matrix * width + c + j] = found[j].scale;
        zero[matrix * width + c + j] = static_cast<uint8_t>(found[j].zero);
      }
    }
  });
  return nullptr;
}

Error row_ranges(const void* state, Call& call) {
  const int bits = static_cast<const RangeState*>(state)->bits;
  Tensor x = call.input(0);
  if (static_cast<const RangeState*>(state)->columns) return ranges_of_columns(call, x, bits);
  if (x.rank < 1) return "x must have at least one dimension";
  int64_t dims[kMaxRank];
  memcpy(dims, x.dims, sizeof(dims));
  const int64_t length = dims[x.rank - 1], rows = product(dims, 0, x.rank - 1);
  dims[x.rank - 1] = 1;
  float* scale = static_cast<float*>(call.output(0, dims, x.rank));
  uint8_t* zero = static_cast<uint8_t*>(call.output(1, dims, x.rank));
  const int64_t together = length > kGrain ? 1 : kGrain / (length ? length : 1);
  parallel(call, ceil_div(rows, together), 0, [&](int64_t item, void*) {
    int64_t end = (item + 1) * together < rows ? (item + 1) * together : rows;
    for (int64_t row = item * together; row < end; ++row) {
      Affine a = row_range(static_cast<const float*>(x.data) + row * length, length, bits);
      scale[row] = a.scale;
      zero[row] = static_cast<uint8_t>(a.zero);
    }
  });
  return nullptr;
}

const Op kOps[] = {
    {"onnxptq",
     "UniformQuantizeLinear",
     {{"x", kFloat, false}, {"scale", kFloat, false}, {"zero", kUint8, false}},
     {{"codes", kUint8, false}},
     create,
     quantize,
     "bits=4 | float[3,5,37]~normal float[]~scale uint8[]=7\n"
     "bits=7 | float[2,40,9]~normal float[40,1]~scale uint8[40,1]~uint:127\n"
     "bits=8 | float[6,70]~normal float[70]~scale uint8[]=128"},
    {"onnxptq",
     "UniformDequantizeLinear",
     {{"codes", kUint8, false}, {"scale", kFloat, false}, {"zero", kUint8, false}},
     {{"y", kFloat, false}},
     create,
     dequantize,
     "bits=6 | uint8[3,5,37]~uint:63 float[]~scale uint8[]=31\n"
     "bits=3 | uint8[4,33]~uint:7 float[4,1]~scale uint8[4,1]~uint:7"},
    {"onnxptq",
     "RowRange",
     {{"x", kFloat, false}},
     {{"scale", kFloat, false}, {"zero", kUint8, false}},
     create_range,
     row_ranges,
     "bits=8 | float[5,67]~normal\nbits=4 axis=-2 | float[2,5,37]~normal\nbits=2 | float[3,2,4]~normal"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(uniform, onnxptq::kOps)
