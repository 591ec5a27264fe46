// QConv: epilogue(convolution(decode(encode(x)), decode(w)) + bias), multiplied in integers.
//
// Weights are the left operand and pixels the columns, so that results are written as they lie in memory. Channels come
// in blocks of four; a block's codes of one pixel fill one 32-bit word (two where products are wide, four where they
// are float). x is encoded once into a padded image of such words, from which a panel's columns are gathered tap by
// tap; where there is only one tap, x is encoded straight into the panels. Depthwise convolutions go another way: codes
// and their sums are small whole numbers there, so floats hold them exactly.
//
// Ranges at run time (scheme token) are as fine as one sum allows: of each pixel where there is only one tap, of each
// channel of a depthwise convolution, else of each sample.
#include "gemm_float.h"
#include "product.h"

namespace onnxptq {
namespace {

constexpr int kChannels = 4;    // of a block
constexpr int kAlone = 0;       // words of a block that is one channel, as floats
constexpr int kMostTaps = 256;  // of a depthwise kernel: products of 8 bits by 8 that a float can sum

// The range of a table's whole numbers, zero among them.
inline int least(const Table& t) { return t.least < 0 ? t.least : 0; }
inline int span(const Table& t) { return (t.most > 0 ? t.most : 0) - least(t); }

struct State {
  int x_bits, w_bits, epilogue, highest;
  SchemeKind scheme;
  bool gelu, as_float;  // form of dual_region; whether products are float
  int spatial;
  int64_t outputs, channels, groups;  // outputs of all groups, channels of one
  int64_t kernel[2], strides[2], dilations[2], before[2], after[2];
  Packed* w;  // of each group, on the left; null where weights are not constant

  int64_t per_group() const { return outputs / groups; }
  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t blocks() const { return ceil_div(channels, kChannels); }
  bool depthwise() const { return channels == 1 && taps() <= kMostTaps; }
  // Whether there is one tap on every pixel.
  bool direct() const {
    bool yes = true;
    for (int i = 0; i < 2; ++i) yes &= kernel[i] == 1 && strides[i] == 1 && !before[i] && !after[i];
    return yes;
  }
  bool by_pixel() const { return scheme == kToken && x_bits && groups == 1 && channels > 1 && direct(); }
  bool by_channel() const { return scheme == kToken && x_bits && groups > 1 && depthwise(); }
  int words(const Packed& p) const { return as_float ? kChannels : kChannels / p.product.per_step(); }
};

enum Input { kX, kCodes, kScale, kZero, kBias, kP0, kP1, kP2 };

// Reads a list of one value a dimension; `out` is preset for the first of two where there is only one.
Error read_list(Node& node, const char* name, int64_t least, const State& s, int64_t* out) {
  constexpr int64_t kMost = 1 << 24;
  int64_t values[2];
  if (node.get_ints(name, values, 2) != s.spatial) return node.fail("%s must hold %d values", name, s.spatial);
  for (int i = 0; i < s.spatial; ++i) {
    if (values[i] < least || values[i] > kMost)
      return node.fail("%s holds %lld; it must be at least %lld and at most %lld", name,
                       static_cast<long long>(values[i]), static_cast<long long>(least), static_cast<long long>(kMost));
    out[i + 2 - s.spatial] = values[i];
  }
  return nullptr;
}

Error read_geometry(Node& node, State* s) {
  int64_t shape[4], pads[4];
  const int rank = node.get_ints("shape", shape, 4);
  if (rank != 3 && rank != 4) return "attribute shape must give the weight's 3 or 4 dimensions";
  s->spatial = rank - 2;
  for (int i = 0; i < 2; ++i) s->kernel[i] = s->strides[i] = s->dilations[i] = 1;
  Error error = read_list(node, "kernel_shape", 1, *s, s->kernel);
  if (!error) error = read_list(node, "strides", 1, *s, s->strides);
  if (!error) error = read_list(node, "dilations", 1, *s, s->dilations);
  if (error) return error;
  if (node.get_ints("pads", pads, 4) != 2 * s->spatial) return node.fail("pads must hold %d values", 2 * s->spatial);
  for (int i = 0; i < s->spatial; ++i) {
    if (pads[i] < 0 || pads[i + s->spatial] < 0 || pads[i] > 1 << 24 || pads[i + s->spatial] > 1 << 24)
      return "pads must not be negative, or beyond 16777216";
    s->before[i + 2 - s->spatial] = pads[i], s->after[i + 2 - s->spatial] = pads[i + s->spatial];
    if (shape[i + 2] != s->kernel[i + 2 - s->spatial]) return "kernel_shape must equal the end of shape";
  }
  s->outputs = shape[0], s->channels = shape[1], s->groups = get_int(node, "group", 1);
  if (s->outputs < 1 || s->channels < 1 || s->groups < 1 || s->outputs % s->groups)
    return node.fail("%lld outputs of %lld channels do not make %lld groups", static_cast<long long>(s->outputs),
                     static_cast<long long>(s->channels), static_cast<long long>(s->groups));
  int64_t count;
  if (__builtin_mul_overflow(s->outputs, s->channels, &count) ||
      __builtin_mul_overflow(count, s->taps() * kChannels, &count) || count > int64_t{1} << 40)
    return "the weight's shape is too large";
  return nullptr;
}

// Packs the weights of each group. The depth runs over blocks of channels, taps, channels of a block.
template <typename Allocate>
Error pack_weights(Messenger& to, const State& s, const Tensor& codes, const Tensor& scale, const Tensor& zero,
                   Allocate allocate, Packed** out) {
  const int64_t n = s.per_group(), taps = s.taps(), row = s.channels * taps, depth = s.blocks() * kChannels * taps;
  if (Error error = check_codes(to, codes, s.w_bits, s.outputs * row)) return error;
  if (scale.count != s.outputs || zero.count != s.outputs || scale.type != kFloat || zero.type != kInt8)
    return to.fail("w_scale %s and w_zero %s must hold %lld floats and int8s", show(scale).text, show(zero).text,
                   static_cast<long long>(s.outputs));
  int most = 0;  // of all codes: groups share one kind of product
  Packed* packed = static_cast<Packed*>(allocate(sizeof(Packed) * static_cast<size_t>(s.groups)));
  int8_t* given = static_cast<int8_t*>(malloc(static_cast<size_t>(row)));
  int8_t* turned = static_cast<int8_t*>(malloc(static_cast<size_t>(depth * n)));
  Error error = packed && given && turned ? nullptr : "out of memory";
  for (int64_t o = 0; o < s.outputs && !error; ++o) {
    unpack(codes, s.w_bits, o * row, row, given);
    for (int64_t i = 0; i < row; ++i) most = std::abs(given[i]) > most ? std::abs(given[i]) : most;
  }
  for (int64_t o = 0; o < s.outputs; ++o) {
    const int z = static_cast<const int8_t*>(zero.data)[o];
    most = std::abs(z) > most ? std::abs(z) : most;
  }
  for (int64_t g = 0; g < s.groups && !error; ++g) {
    const int8_t* zeros = static_cast<const int8_t*>(zero.data) + g * n;
    for (int64_t o = 0; o < n; ++o) {
      unpack(codes, s.w_bits, (g * n + o) * row, row, given);
      for (int64_t c = 0; c < s.blocks() * kChannels; ++c)
        for (int64_t tap = 0; tap < taps; ++tap)
          turned[((c / kChannels * taps + tap) * kChannels + c % kChannels) * n + o] =
              c < s.channels ? given[c * taps + tap] : zeros[o];
    }
    Tensor w{}, scales = scale, zeros_of_group = zero;
    w.data = turned, w.present = true, w.type = kInt8, w.count = depth * n;
    scales.data = static_cast<const float*>(scale.data) + g * n, scales.count = n;
    zeros_of_group.data = zeros, zeros_of_group.count = n;
    error = pack<kRows>(to, w, scales, zeros_of_group, 8, s.as_float ? 0 : s.highest, depth, n, 0, allocate, &packed[g],
                        most);
  }
  free(given), free(turned);
  *out = packed;
  return error;
}

Error create(Node& node, void** state) {
  State* s = static_cast<State*>(node.keep(sizeof(State)));
  if (!s) return "out of memory";
  *state = s;
  Error error = nullptr;
  if (!read_bits(node, "x_bits", 0, &s->x_bits, &error) || !read_bits(node, "w_bits", 2, &s->w_bits, &error))
    return error;
  char text[32] = "uniform", form[16] = "softmax";
  node.get_string("x_scheme", text, sizeof(text));
  if (!scheme_named(text, &s->scheme) || s->scheme == kRow) return node.fail("x_scheme = %s is not known here", text);
  node.get_string("x_form", form, sizeof(form));
  s->gelu = !strcmp(form, "gelu");
  if (!s->gelu && strcmp(form, "softmax")) return node.fail("x_form = %s; it must be softmax or gelu", form);
  if ((error = read_epilogue(node, true, &s->epilogue)) || (error = read_geometry(node, s))) return error;
  s->as_float = s->x_bits == 0 || (s->scheme != kUniform && s->scheme != kTable && s->scheme != kToken);
  s->highest = s->scheme == kTable ? 255 : (1 << s->x_bits) - 1;
  if (s->scheme == kTable && !s->as_float) {
    Table t;
    const Parameters given = {{node.constant(kP0), node.constant(kP1), node.constant(kP2)}};
    if (given.p[0].present && given.p[1].present && given.p[2].present) {
      if ((error = t.read(node, given, s->x_bits))) return error;
      s->highest = span(t);
    }
  }
  Tensor codes = node.constant(kCodes), scale = node.constant(kScale), zero = node.constant(kZero);
  if (codes.present && scale.present && zero.present)
    error = pack_weights(node, *s, codes, scale, zero, [&](size_t bytes) { return node.keep(bytes); }, &s->w);
  return error;
}

// One call: sizes, and where everything lies.
struct Job {
  const State& s;
  const Packed* w;
  const float *x, *bias;
  float* y;
  int64_t batch, in[2], padded[2], out[2], pixels;
  bool direct;     // one tap on every pixel: no image
  int32_t* image;  // [batch][groups][planes][padded]
  int64_t planes, plane;
  float scale;  // of x, with its zero point; 1 and 0 where products are float
  int zero;
};

inline void store_words(int32_t* to, I words, int n) {
  if (n == kLanes)
    store(to, words);
  else
    store(reinterpret_cast<float*>(to), floats(words), n);
}

// Encodes n <= kLanes pixels of up to four channels that lie `stride` apart; `apart` is between the words of a block.
template <int words, typename Code>
inline void encode_block(const float* x, int64_t stride, int channels, int n, Code code, int32_t* to, int64_t apart) {
  I c[kChannels];
  ONNXPTQ_UNROLL
  for (int i = 0; i < kChannels; ++i)
    c[i] = i >= channels ? set(0) : code(n == kLanes ? load(x + i * stride) : load(x + i * stride, n));
  if (words == kAlone) {
    store_words(to, c[0], n);
  } else if (words == 1) {
    store_words(to, c[0] | c[1] << 8 | c[2] << 16 | c[3] << 24, n);
  } else if (words == 2) {
    store_words(to, c[0] | c[1] << 16, n);
    store_words(to + apart, c[2] | c[3] << 16, n);
  } else {
    ONNXPTQ_UNROLL
    for (int i = 0; i < kChannels; ++i) store_words(to + i * apart, c[i], n);
  }
}

inline int channels_of(const State& s, int64_t block) {
  return s.channels - block * kChannels < kChannels ? static_cast<int>(s.channels - block * kChannels) : kChannels;
}

// One block of channels of the image, its border filled with the code of zero. `group` counts over the batch too.
template <int words, typename Code>
void encode_image(const Job& job, int64_t group, int64_t block, Code code, int32_t* to) {
  const State& s = job.s;
  const float* x = job.x + (group * s.channels + block * kChannels) * job.in[0] * job.in[1];
  const int channels = channels_of(s, block);
  int32_t border[kChannels] = {};
  if (words == 1 || words == 2)
    for (int i = 0; i < channels; ++i)
      border[i * words / kChannels] |= static_cast<int32_t>(static_cast<uint32_t>(job.zero) << i * words * 8 % 32);
  const int64_t gap = s.before[1] + s.after[1], top = s.before[0] * job.padded[1] + s.before[1];
  const int64_t rows = gap ? job.in[0] : 1, width = gap ? job.in[1] : job.in[0] * job.in[1];
  for (int i = 0; i < (words == kAlone ? 1 : words); ++i) {
    int32_t* plane = to + i * job.plane;
    auto fill = [&](int64_t from, int64_t until) {
      for (int64_t j = from; j < until; ++j) plane[j] = border[i];
    };
    fill(0, top);
    for (int64_t row = 0; row + 1 < rows; ++row)
      fill(top + row * job.padded[1] + width, top + (row + 1) * job.padded[1]);
    fill(job.in[0] ? top + job.in[0] * job.padded[1] - gap : top, job.plane);
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < width; j += kLanes)
      encode_block<words>(x + row * width + j, job.in[0] * job.in[1], channels,
                          width - j < kLanes ? static_cast<int>(width - j) : kLanes, code,
                          to + top + row * job.padded[1] + j, job.plane);
}

// Encodes `count` pixels of all channels of a group straight into panels of `steps` words.
template <int words, typename Code>
void encode_panels(const Job& job, int64_t group, int64_t from, int64_t count, int64_t steps, Code code,
                   int32_t* panels) {
  const State& s = job.s;
  for (int64_t block = 0; block < s.blocks(); ++block) {
    const float* x = job.x + (group * s.channels + block * kChannels) * job.pixels + from;
    for (int64_t j = 0; j < count; j += kLanes)
      encode_block<words>(x + j, job.pixels, channels_of(s, block),
                          count - j < kLanes ? static_cast<int>(count - j) : kLanes, code,
                          panels + (j / kColumns * steps + block * words) * kColumns + j % kColumns, kColumns);
  }
}

// The same with a range of each pixel, which goes to `scales` and `zeros`.
template <int words>
void encode_panels_by_pixel(const Job& job, int64_t batch, int64_t from, int64_t count, int64_t steps, int32_t* panels,
                            float* scales, int32_t* zeros) {
  const State& s = job.s;
  const float* x = job.x + batch * s.channels * job.pixels + from;
  for (int64_t j = 0; j < count; j += kLanes) {
    const int n = count - j < kLanes ? static_cast<int>(count - j) : kLanes;
    Affine found[kLanes] = {};
    column_ranges(x + j, s.channels, job.pixels, n, s.x_bits, found);
    for (int i = 0; i < kLanes; ++i) scales[j + i] = i < n ? found[i].scale : 1.0f, zeros[j + i] = found[i].zero;
    const F scale = load(scales + j);
    const I zero = load(zeros + j);
    for (int64_t block = 0; block < s.blocks(); ++block)
      encode_block<words>(
          x + block * kChannels * job.pixels + j, job.pixels, channels_of(s, block), n,
          [&](F v) { return encode(v, scale, zero, s.x_bits); },
          panels + (j / kColumns * steps + block * words) * kColumns + j % kColumns, kColumns);
  }
}

// Copies the words of the pixels [from, from + count) under every tap into one panel.
template <int words>
void gather_panel(const Job& job, int64_t group, int64_t from, int64_t count, int32_t* panel) {
  const State& s = job.s;
  int64_t at[kColumns];
  struct {
    int64_t at;
    int first, vectors;
  } runs[kColumns];
  int n = 0;
  for (int64_t j = 0; j < count; ++j) {
    at[j] = (from + j) / job.out[1] * s.strides[0] * job.padded[1] + (from + j) % job.out[1] * s.strides[1];
    if (n && at[j] - runs[n - 1].at == j - runs[n - 1].first) continue;
    runs[n++] = {at[j], static_cast<int>(j), 0};
  }
  for (int i = 0; i < n; ++i)
    runs[i].vectors = static_cast<int>(ceil_div((i + 1 < n ? runs[i + 1].first : count) - runs[i].first, kLanes));
  const int32_t* image = job.image + group * job.planes * job.plane;
  for (int64_t block = 0; block < s.blocks(); ++block) {
    for (int64_t tap = 0; tap < s.taps(); ++tap) {
      const int64_t shift = tap / s.kernel[1] * s.dilations[0] * job.padded[1] + tap % s.kernel[1] * s.dilations[1];
      for (int i = 0; i < words; ++i, panel += kColumns) {
        const int32_t* plane = image + (block * words + i) * job.plane + shift;
        if (n > kColumns / 2) {
          for (int64_t j = 0; j < count; ++j) panel[j] = plane[at[j]];
          continue;
        }
        // Runs are copied in whole vectors: what is too much is overwritten by the next run, the next step, or nobody.
        for (int r = 0; r < n; ++r)
          for (int v = 0; v < runs[r].vectors; ++v)
            store(panel + runs[r].first + v * kLanes, load(plane + runs[r].at + v * kLanes));
      }
    }
  }
}

// Sums of the codes of one group of the depth, for every column of a panel.
inline void sum_codes(const int32_t* panel, int64_t steps, bool wide, int32_t* sums) {
  for (int j = 0; j < kColumns; j += kLanes) {
    I total = set(0);
    for (int64_t k = 0; k < steps; ++k) {
      const I word = load(panel + k * kColumns + j);
      total += wide ? (word & 0xffff) + (word >> 16)
                    : (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24 & 255);
    }
    store(sums + j, total);
  }
}

// Writes one vector of results, n values of it.
template <int epilogue>
inline void put(float* y, F value, int n) {
  if (n >= kLanes)
    store(y, finish<epilogue>(value));
  else
    store(y, finish<epilogue>(value), n);
}

// One tile: outputs [row, row + rows) of group g and up to kColumns pixels. `sums` is [w.groups][kColumns]; `scales`
// and `zeros` are of each pixel, where pixels have their own.
template <int epilogue, bool corrected, bool by_pixel = false>
void multiply_tile(const Job& job, const Packed& w, int64_t output, int64_t row, int rows, const int32_t* panel,
                   const int32_t* sums, float* y, int64_t valid, const float* scales = nullptr,
                   const int32_t* zeros = nullptr) {
  alignas(64) int32_t c[kRows * kColumns];
  alignas(64) float partial[kRows * kColumns];
  const char* left = w.panels + row / kRows * w.panel_bytes();
  int64_t step = 0;
  for (int64_t g = 0; g < w.groups; ++g) {
    const int64_t steps = w.product.steps(w.depth(g)), last = g + 1 == w.groups;
    tile<true>(w.product, left + step * kRows * 4, panel + step * kColumns, steps, rows, c, false);
    for (int r = 0; r < rows; ++r) {
      const int64_t o = g * w.columns + row + r;
      const F scale = set(job.scale * w.scale[o]), bias = set(job.bias ? job.bias[output + row + r] : 0.0f);
      const I offset = set(job.zero * w.minus_sum[o]), zero = set(w.minus_zero[o]);
      for (int j = 0; j < valid; j += kLanes) {
        I sum = load(c + r * kColumns + j) + (by_pixel ? load(zeros + j) * set(w.minus_sum[o]) : offset);
        if (corrected) sum += load(sums + g * kColumns + j) * zero;
        float* held = partial + r * kColumns + j;
        const F factor = by_pixel ? load(scales + j) * set(w.scale[o]) : scale;
        const F value = fma(to_float(sum), factor, g ? load(held) : bias);
        if (last)
          put<epilogue>(y + r * job.pixels + j, value, static_cast<int>(valid - j));
        else
          store(held, value);
      }
    }
    step += steps;
  }
}

// Decodes the weights of `count` k from `step` on, of one panel, to [count][kRows].
inline void decode_left(const Packed& w, int64_t row, int64_t group, int64_t step, int64_t count, float* out) {
  const int32_t* words = reinterpret_cast<const int32_t*>(w.panels + row / kRows * w.panel_bytes()) + step * kRows;
  for (int r = 0; r < kRows; r += kLanes) {
    const int n = kRows - r < kLanes ? kRows - r : kLanes;
    const int64_t at = group * w.columns + row + r;
    const F scale = load(w.scale + at, n);
    const I zero = load(w.minus_zero + at, n);
    for (int64_t i = 0; i < count; i += 4) {
      const I word = load(words + i / 4 * kRows + r, n);
      const I code[4] = {(word << 24) >> 24, (word << 16) >> 24, (word << 8) >> 24, word >> 24};
      for (int e = 0; e < 4; ++e) store(out + (i + e) * kRows + r, to_float(code[e] + zero) * scale, n);
    }
  }
}

// Outputs [row, row + rows) and all pixels of a block, in float. `c` is [panels][kRows][kColumns].
template <int epilogue>
void multiply_floats(const Job& job, const Packed& w, int64_t output, int64_t row, int rows, const int32_t* panels,
                     int64_t count, float* c, float* y) {
  alignas(64) float left[kPieceDepth * kRows];
  const int64_t n = ceil_div(count, kColumns);
  memset(c, 0, static_cast<size_t>(n) * kRows * kColumns * sizeof(float));
  int64_t step = 0;
  for (int64_t g = 0; g < w.groups; ++g) {
    for (int64_t k = 0; k < w.depth(g); k += kPieceDepth, step += kPieceDepth / 4) {
      const int64_t now = w.depth(g) - k < kPieceDepth ? w.depth(g) - k : kPieceDepth;
      decode_left(w, row, g, step, now, left);
      for (int64_t p = 0; p < n; ++p)
        tile_float(left, reinterpret_cast<const float*>(panels) + (p * w.k + g * w.group + k) * kColumns, now, rows,
                   c + p * kRows * kColumns);
    }
  }
  for (int r = 0; r < rows; ++r) {
    const F bias = set(job.bias ? job.bias[output + row + r] : 0.0f);
    for (int64_t j = 0; j < count; j += kLanes)
      put<epilogue>(y + r * job.pixels + j, load(c + (j / kColumns * kRows + r) * kColumns + j % kColumns) + bias,
                    static_cast<int>(count - j < kLanes ? count - j : kLanes));
  }
}

template <int words, int epilogue, typename Code>
bool convolve(Call& call, const Job& job, Code code) {
  const State& s = job.s;
  constexpr bool as_float = words == kChannels;
  if (!job.direct && !parallel(call, job.batch * s.groups * s.blocks(), 0, [&](int64_t item, void*) {
        encode_image<words>(job, item / s.blocks(), item % s.blocks(), code,
                            job.image + (item / s.blocks() * job.planes + item % s.blocks() * words) * job.plane);
      }))
    return false;
  // Tasks: groups, blocks of pixels, and where there are few of those, pieces of the outputs.
  const int64_t steps = s.blocks() * words * s.taps(), groups = job.batch * s.groups, rows = s.per_group();
  const int64_t panels = ceil_div(job.pixels, kColumns), row_panels = ceil_div(rows, kRows);
  const int64_t tile_cost = steps * (kChannels / words) * kRows * kColumns;
  int64_t size = kBlockBytes / (steps * kColumns * 4);
  const int64_t fair = panels * groups / kTasks, least = kTaskProducts / (tile_cost * row_panels);
  if (size > fair) size = fair > least ? fair : least < size ? least : size;
  size = size < 1 ? 1 : size < panels ? size : panels;
  const int64_t blocks = ceil_div(panels, size);
  int64_t pieces = kTasks / (groups * blocks);
  const int64_t worth = row_panels * tile_cost * size / kTaskProducts;
  if (pieces > worth) pieces = worth;
  if (pieces > row_panels / 4) pieces = row_panels / 4;
  if (pieces < 1) pieces = 1;
  const int64_t depths = job.w->groups;
  const size_t left = static_cast<size_t>(as_float ? size * kRows : size * depths) * kColumns * 4;
  const bool by_pixel = s.by_pixel();
  const size_t right = static_cast<size_t>(size * steps * kColumns * 4) + sizeof(I);
  const size_t bytes = left + right + (by_pixel ? static_cast<size_t>(size * kColumns) * 8 : 0);
  return parallel(call, groups * blocks * pieces, bytes, [&](int64_t item, void* memory) {
    const int64_t piece = item % pieces, block = item / pieces % blocks, group = item / pieces / blocks;
    const int64_t from = block * size * kColumns, g = group % s.groups;
    const int64_t count = job.pixels - from < size * kColumns ? job.pixels - from : size * kColumns;
    const Packed& w = job.w[g];
    int32_t* sums = static_cast<int32_t*>(memory);
    int32_t* columns = sums + left / 4;
    float* scales = reinterpret_cast<float*>(sums + (left + right) / 4);
    int32_t* zeros = sums + (left + right) / 4 + size * kColumns;
    if (by_pixel) {
      if constexpr (!as_float) encode_panels_by_pixel<words>(job, group, from, count, steps, columns, scales, zeros);
    } else if (job.direct) {
      encode_panels<words>(job, group, from, count, steps, code, columns);
    }
    for (int64_t j = 0; j < count; j += kColumns) {
      int32_t* panel = columns + j * steps;
      if (!job.direct) gather_panel<words>(job, group, from + j, count - j < kColumns ? count - j : kColumns, panel);
      if (as_float || w.centered) continue;
      for (int64_t d = 0, step = 0; d < depths; step += w.product.steps(w.depth(d)), ++d)
        sum_codes(panel + step * kColumns, w.product.steps(w.depth(d)), words == 2, sums + (j * depths + d * kColumns));
    }
    for (int64_t p = piece * row_panels / pieces; p < (piece + 1) * row_panels / pieces; ++p) {
      const int64_t row = p * kRows, output = g * rows;
      const int some = rows - row < kRows ? static_cast<int>(rows - row) : kRows;
      float* y = job.y + (group * rows + row) * job.pixels + from;
      if (as_float) {
        multiply_floats<epilogue>(job, w, output, row, some, columns, count, reinterpret_cast<float*>(sums), y);
        continue;
      }
      for (int64_t j = 0; j < count; j += kColumns) {
        const int64_t valid = count - j < kColumns ? count - j : kColumns;
        const int32_t *panel = columns + j * steps, *sum = sums + j * depths;
        if (by_pixel && w.centered)
          multiply_tile<epilogue, false, true>(job, w, output, row, some, panel, nullptr, y + j, valid, scales + j,
                                               zeros + j);
        else if (by_pixel)
          multiply_tile<epilogue, true, true>(job, w, output, row, some, panel, sum, y + j, valid, scales + j,
                                              zeros + j);
        else if (w.centered)
          multiply_tile<epilogue, false>(job, w, output, row, some, panel, nullptr, y + j, valid);
        else
          multiply_tile<epilogue, true>(job, w, output, row, some, panel, sum, y + j, valid);
      }
    }
  });
}

// Sums of all taps for `count` vectors of neighbouring pixels.
template <int count>
inline void sum_taps(const float* from, const int64_t* shifts, const float* weights, int64_t taps, F* sum) {
  F total[count];
  ONNXPTQ_UNROLL
  for (int i = 0; i < count; ++i) total[i] = set(0.0f);
  for (int64_t t = 0; t < taps; ++t) {
    const F weight = set(weights[t]);
    ONNXPTQ_UNROLL
    for (int i = 0; i < count; ++i) total[i] = fma(load(from + shifts[t] + i * kLanes), weight, total[i]);
  }
  ONNXPTQ_UNROLL
  for (int i = 0; i < count; ++i) sum[i] = total[i];
}

// One channel a group: every tap of a vector of pixels, for one output after the other. Sums of codes are exact.
template <int epilogue, typename Code>
bool convolve_alone(Call& call, const Job& job, Code code) {
  const State& s = job.s;
  constexpr int kAcross = 4;
  const int64_t taps = s.taps(), outputs = s.per_group();
  const int64_t step = job.out[1] > 1 ? s.strides[1] : 1;
  const size_t words = static_cast<size_t>(job.plane + kLanes * step);
  int32_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<int32_t>(i * step);
  const I index = load(lanes);
  return parallel(call, job.batch * s.groups, words * 4, [&](int64_t item, void* memory) {
    float weights[kMostTaps];
    int64_t shifts[kMostTaps];
    for (int64_t t = 0; t < taps; ++t)
      shifts[t] = t / s.kernel[1] * s.dilations[0] * job.padded[1] + t % s.kernel[1] * s.dilations[1];
    int32_t* codes = static_cast<int32_t*>(memory);
    const float* image = reinterpret_cast<const float*>(codes);
    float x_scale = job.scale;
    if (s.by_channel()) {
      const int64_t inside = job.in[0] * job.in[1];
      const Affine a = row_range(job.x + item * inside, inside, s.x_bits);
      const Uniform coder = uniform(a.scale, a.zero, s.x_bits);
      x_scale = a.scale;
      encode_image<kAlone>(job, item, 0, [&](F x) { return bits(to_float(encode(coder, x) - set(a.zero))); }, codes);
    } else {
      encode_image<kAlone>(job, item, 0, code, codes);
    }
    const Packed& w = job.w[item % s.groups];
    for (int64_t o = 0; o < outputs; ++o) {
      const char* panel = w.panels + o / kRows * w.panel_bytes() + o % kRows * 4;
      for (int64_t t = 0; t < taps; ++t) {
        int32_t word;
        memcpy(&word, panel + t * (kChannels / w.product.per_step()) * kRows * 4, 4);
        weights[t] = static_cast<float>((w.product.wide ? static_cast<int16_t>(word) : static_cast<int8_t>(word)) +
                                        w.minus_zero[o]);
      }
      const F scale = set(x_scale * w.scale[o]);
      const F bias = set(job.bias ? job.bias[item % s.groups * outputs + o] : 0.0f);
      float* y = job.y + (item * outputs + o) * job.pixels;
      for (int64_t row = 0; row < job.out[0]; ++row) {
        const float* from = image + row * s.strides[0] * job.padded[1];
        float* to = y + row * job.out[1];
        int64_t j = 0;
        for (; step == 1 && j + kAcross * kLanes <= job.out[1]; j += kAcross * kLanes) {
          F sum[kAcross];
          sum_taps<kAcross>(from + j, shifts, weights, taps, sum);
          for (int i = 0; i < kAcross; ++i) put<epilogue>(to + j + i * kLanes, fma(sum[i], scale, bias), kLanes);
        }
        for (; j < job.out[1]; j += kLanes) {
          F sum = set(0.0f);
          if (step == 1)
            sum_taps<1>(from + j, shifts, weights, taps, &sum);
          else
            for (int64_t t = 0; t < taps; ++t)
              sum = fma(gather(from + j * step + shifts[t], index), set(weights[t]), sum);
          const int64_t rest = job.out[1] - j;
          put<epilogue>(to + j, fma(sum, scale, bias), static_cast<int>(rest < kLanes ? rest : kLanes));
        }
      }
    }
  });
}

template <int words, int epilogue, typename Code>
bool convolve_as(Call& call, const Job& job, Code code) {
  if constexpr (words == kAlone)
    return convolve_alone<epilogue>(call, job, code);
  else
    return convolve<words, epilogue>(call, job, code);
}

template <int words, typename Code>
Error convolve_then(Call& call, const Job& job, Code code) {
  const bool ok = job.s.epilogue == kGelu   ? convolve_as<words, kGelu>(call, job, code)
                  : job.s.epilogue == kRelu ? convolve_as<words, kRelu>(call, job, code)
                                            : convolve_as<words, kNone>(call, job, code);
  return ok ? nullptr : "out of memory";
}

// Codes are whole numbers.
template <typename Code>
Error convolve_codes(Call& call, const Job& job, Code code) {
  if (job.s.depthwise())
    return convolve_then<kAlone>(call, job, [&](F x) { return bits(to_float(code(x) - set(job.zero))); });
  return job.w->product.wide ? convolve_then<2>(call, job, code) : convolve_then<1>(call, job, code);
}

// Values are floats, whatever scheme they went through.
template <typename Value>
Error convolve_values(Call& call, const Job& job, Value value) {
  auto code = [&](F x) { return bits(value(x)); };
  return job.s.depthwise() ? convolve_then<kAlone>(call, job, code) : convolve_then<kChannels>(call, job, code);
}

template <typename Scheme, typename... Options>
Error convolve_decoded(Call& call, const Job& job, const Parameters& given, Options... options) {
  Scheme scheme;
  if (Error error = scheme.read(call, given, job.s.x_bits, options...)) return error;
  return convolve_values(call, job, [&](F x) { return scheme.value(scheme.code(x)); });
}

// The range of a whole sample: extrema of its channels first, so that threads share the work.
bool sample_range(Call& call, const Job& job, float* ends, Affine* out) {
  const int64_t inside = job.in[0] * job.in[1], planes = job.s.channels * job.s.groups;
  if (!parallel(call, planes, 0, [&](int64_t item, void*) {
        Extrema e;
        const float* x = job.x + item * inside;
        walk(inside, [&](int64_t i) { e.fold(load(x + i)); }, [&](int64_t i, int part) { e.fold(load(x + i, part)); });
        ends[2 * item] = lowest(e.lows()), ends[2 * item + 1] = highest(e.highs());
      }))
    return false;
  float low = 0.0f, high = 0.0f;
  for (int64_t i = 0; i < planes; ++i) {
    low = ends[2 * i] < low ? ends[2 * i] : low;
    high = ends[2 * i + 1] > high ? ends[2 * i + 1] : high;
  }
  *out = affine(low, high, job.s.x_bits);
  return true;
}

// Ranges at run time. Pixels and channels find their own where they are encoded; samples go one by one.
Error convolve_token(Call& call, Job& job) {
  const State& s = job.s;
  if (s.by_pixel() || s.by_channel()) return convolve_codes(call, job, [](F) { return set(0); });
  float* ends = static_cast<float*>(call.temporary(static_cast<size_t>(s.channels * s.groups) * 8));
  if (!ends) return "out of memory";
  const int64_t samples = job.batch;
  job.batch = 1;
  for (int64_t b = 0; b < samples; ++b) {
    Affine a;
    if (!sample_range(call, job, ends, &a)) return "out of memory";
    job.scale = a.scale, job.zero = a.zero;
    const Uniform coder = uniform(a.scale, a.zero, s.x_bits);
    if (Error error = convolve_codes(call, job, [&](F x) { return encode(coder, x); })) return error;
    job.x += s.channels * s.groups * job.in[0] * job.in[1], job.y += s.outputs * job.pixels;
  }
  return nullptr;
}

Error convolve_any(Call& call, Job& job) {
  const State& s = job.s;
  const Parameters given = {{call.input(kP0), call.input(kP1), call.input(kP2)}};
  if (s.x_bits == 0) return convolve_values(call, job, [](F x) { return x; });
  if (s.scheme == kToken) return convolve_token(call, job);
  if (s.scheme == kLogBase) return convolve_decoded<LogBase>(call, job, given);
  if (s.scheme == kOutlierRetained) return convolve_decoded<OutlierRetained>(call, job, given);
  if (s.scheme == kDualRegion) return convolve_decoded<DualRegion>(call, job, given, s.gelu);
  if (s.scheme == kTable) {
    Table t;
    if (Error error = t.read(call, given, s.x_bits)) return error;
    if (span(t) > s.highest) return "the table's values changed";
    job.scale = t.scale_number, job.zero = -least(t);
    return convolve_codes(call, job, [&](F x) { return t.level(t.code(x)) - set(least(t)); });
  }
  Given u;
  if (Error error = read_uniform(call, given, &u)) return error;
  if (u.zero > s.highest) return call.fail("zero = %d is no code of %d bits", u.zero, s.x_bits);
  job.scale = u.scale, job.zero = u.zero;
  const Uniform coder = uniform(u.scale, u.zero, s.x_bits);
  return convolve_codes(call, job, [&](F x) { return encode(coder, x); });
}

Error run(const void* state, Call& call) {
  const State& s = *static_cast<const State*>(state);
  const Tensor x = call.input(kX), bias = call.input(kBias);
  if (x.rank != s.spatial + 2 || x.dims[1] != s.channels * s.groups)
    return call.fail("x %s must have %d dimensions, the second of them %lld", show(x).text, s.spatial + 2,
                     static_cast<long long>(s.channels * s.groups));
  if (bias.present && bias.count != s.outputs)
    return call.fail("bias %s must hold %lld values", show(bias).text, static_cast<long long>(s.outputs));
  Job job{s,
          s.w,
          static_cast<const float*>(x.data),
          static_cast<const float*>(bias.data),
          nullptr,
          x.dims[0],
          {},
          {},
          {},
          1,
          true,
          nullptr,
          0,
          1,
          1.0f,
          0};
  int64_t dims[4] = {x.dims[0], s.outputs};
  for (int i = 0; i < 2; ++i) {
    job.in[i] = i + s.spatial < 2 ? 1 : x.dims[i + s.spatial];
    job.padded[i] = job.in[i] + s.before[i] + s.after[i];
    const int64_t reach = (s.kernel[i] - 1) * s.dilations[i] + 1;
    if (job.padded[i] < reach)
      return call.fail("x %s is smaller than the kernel, which reaches over %lld", show(x).text,
                       static_cast<long long>(reach));
    job.out[i] = (job.padded[i] - reach) / s.strides[i] + 1;
    if (i + s.spatial >= 2) dims[i + s.spatial] = job.out[i];
    job.pixels *= job.out[i], job.plane *= job.padded[i];
    job.direct &= s.kernel[i] == 1 && s.strides[i] == 1 && job.padded[i] == job.in[i];
  }
  job.y = static_cast<float*>(call.output(0, dims, x.rank));
  if (job.batch == 0 || !job.y) return nullptr;
  Packed* fresh = nullptr;
  if (!s.w) {
    if (Error error = pack_weights(
            call, s, call.input(kCodes), call.input(kScale), call.input(kZero),
            [&](size_t bytes) { return call.temporary(bytes); }, &fresh))
      return error;
    job.w = fresh;
  }
  if (!job.direct && !s.depthwise()) {
    job.planes = s.blocks() * s.words(job.w[0]);
    size_t words;
    if (__builtin_mul_overflow(static_cast<size_t>(job.batch * s.groups * job.planes), job.plane, &words) ||
        words > size_t{1} << 48)
      return "out of memory";
    job.image = static_cast<int32_t*>(call.temporary((words + 2 * kColumns) * 4));
    if (!job.image) return "out of memory";
    memset(job.image + words, 0, 2 * kColumns * 4);
  }
  return convolve_any(call, job);
}

const Op kOps[] = {
    {"onnxptq",
     "QConv",
     {{"x", kFloat, false},
      {"w_codes", kAny, false},
      {"w_scale", kFloat, false},
      {"w_zero", kInt8, false},
      {"bias", kFloat, true},
      {"p0", kAny, true},
      {"p1", kAny, true},
      {"p2", kAny, true}},
     {{"y", kFloat, false}},
     create,
     run,
     "x_bits=8 w_bits=8 x_scheme=uniform shape=16,24,3,3 kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 "
     "group=1 | float[2,24,9,8]~normal int8[16,24,3,3]~int:127 float[16]~scale int8[16]~int:9 float[16]~normal "
     "float[]~scale uint8[]=128\n"
     "x_bits=8 w_bits=8 x_scheme=token shape=40,24,1,1 kernel_shape=1,1 strides=1,1 pads=0,0,0,0 dilations=1,1 "
     "group=1 | float[2,24,9,8]~normal int8[40,24,1,1]~int:127 float[40]~scale int8[40]~int:9 float[40]~normal\n"
     "x_bits=8 w_bits=8 x_scheme=token shape=24,1,3,3 kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 "
     "group=24 | float[2,24,9,8]~normal int8[24,1,3,3]~int:127 float[24]~scale int8[24]~int:9 float[24]~normal\n"
     "x_bits=8 w_bits=8 x_scheme=token shape=16,24,3,3 kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 "
     "group=1 | float[2,24,9,8]~normal int8[16,24,3,3]~int:127 float[16]~scale int8[16]~int:9 float[16]~normal"},
};

}  // namespace
}  // namespace onnxptq

ONNXPTQ_FAMILY(qconv, onnxptq::kOps)
