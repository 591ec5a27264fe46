#include "reference.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace onnxptq::test {
namespace {

using Dims = std::vector<int64_t>;
using Floats = std::vector<float>;
using Ints = std::vector<int>;

constexpr float kLargest = 3.4028235e38f, kSmallest = 1.17549435e-38f;

Floats floats(const Value& value) {
  const float* from = reinterpret_cast<const float*>(value.bytes.data());
  return Floats(from, from + value.bytes.size() / 4);
}

// Stored whole numbers, whatever their type.
Ints ints(const Value& value) {
  Ints v(static_cast<size_t>(count_of(value.shape.dims)));
  const char* b = value.bytes.data();
  for (size_t i = 0; i < v.size(); ++i) {
    switch (value.shape.type) {
      case kInt8:
        v[i] = static_cast<int8_t>(b[i]);
        break;
      case kUint16:
        v[i] = reinterpret_cast<const uint16_t*>(b)[i];
        break;
      case kInt4:
        v[i] = (((b[i / 2] >> i % 2 * 4) & 15) ^ 8) - 8;
        break;
      default:
        v[i] = static_cast<uint8_t>(b[i]);
    }
  }
  return v;
}

// Stored weight codes of `bits` bits, signed.
Ints weight_codes(const Value& value, int bits, int64_t count) {
  if (value.shape.type != kUint8) return ints(value);
  Ints v(static_cast<size_t>(count));
  for (size_t i = 0; i < v.size(); ++i) {
    int code = 0;
    for (int j = 0; j < bits; ++j) {
      const size_t bit = i * static_cast<size_t>(bits) + static_cast<size_t>(j);
      code |= ((value.bytes[bit / 8] >> bit % 8) & 1) << j;
    }
    v[i] = code - (1 << (bits - 1));
  }
  return v;
}

template <typename T>
Value made(Type type, const Dims& dims, const std::vector<T>& values) {
  Value value;
  value.shape = {type, dims};
  value.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) memcpy(value.bytes.data(), values.data(), value.bytes.size());
  return value;
}

template <typename T>
std::vector<T> as(const Ints& v) {
  return std::vector<T>(v.begin(), v.end());
}

// Where element `flat` of `dims` lies in a tensor that broadcasts against them.
size_t broadcast(int64_t flat, const Dims& dims, const Dims& small) {
  int64_t at = 0, step = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    const int64_t place = flat % dims[dims.size() - 1 - i];
    flat /= dims[dims.size() - 1 - i];
    if (i < small.size() && small[small.size() - 1 - i] != 1) at += place * step, step *= small[small.size() - 1 - i];
  }
  return static_cast<size_t>(at);
}

int64_t product(const Dims& dims, size_t from, size_t to) {
  int64_t n = 1;
  for (size_t i = from; i < to; ++i) n *= dims[i];
  return n;
}

int affine_code(float x, float scale, float zero, int bits) {
  const float n = static_cast<float>((1 << bits) - 1), q = x / scale;
  if (std::isnan(q)) return 0;
  return static_cast<int>(std::min(std::max(std::nearbyint(q) + zero, 0.0f), n));
}

struct Affine {
  float scale, zero;
};

// `count` numbers that lie `step` apart.
Floats strided(const Floats& x, int64_t from, int64_t count, int64_t step) {
  Floats y;
  for (int64_t i = 0; i < count; ++i) y.push_back(x[static_cast<size_t>(from + i * step)]);
  return y;
}

Affine row_range(const float* x, int64_t count, int bits) {
  float low = 0, high = 0;
  const float n = static_cast<float>((1 << bits) - 1);
  for (int64_t i = 0; i < count; ++i) {
    const float v = std::isnan(x[i]) ? 0 : std::min(std::max(x[i], -kLargest), kLargest);
    low = std::min(low, v), high = std::max(high, v);
  }
  const float scale = std::max(high / n - low / n, kSmallest);
  return {scale, std::min(std::max(std::nearbyint(-low / scale), 0.0f), n)};
}

// A way to write floats as codes, read from the inputs of an op from `first` on.
struct Scheme {
  std::string name;
  int bits;
  bool gelu = false;
  Floats f[3];
  Ints whole[3];

  Scheme(const Case& node, const std::string& name_, int bits_, size_t first, bool gelu_)
      : name(name_), bits(bits_), gelu(gelu_) {
    for (size_t i = 0; i < 3; ++i) {
      if (!node.has(first + i)) continue;
      const Value& value = node.inputs[first + i].value;
      if (value.shape.type == kFloat)
        f[i] = floats(value);
      else
        whole[i] = ints(value);
    }
  }
  int group(float x) const {
    int g = 0;
    for (float t : f[0]) g += t < std::fabs(x);
    return g;
  }
  int code(float x) const {
    const int half = 1 << (bits - 1);
    if (std::isnan(x)) return 0;
    if (name == "uniform") return affine_code(x, f[0][0], whole[1].empty() ? 0 : static_cast<float>(whole[1][0]), bits);
    if (name == "dual_region") {
      if (x >= f[2][0]) return half + affine_code(x, f[1][0], 0, bits - 1);
      if (!gelu) return affine_code(x, f[0][0], 0, bits - 1);
      return static_cast<int>(
          std::min(std::max(std::nearbyint(x / f[0][0]) + static_cast<float>(half), 0.0f), static_cast<float>(half)));
    }
    if (name == "log_base")
      return static_cast<int>(std::count_if(f[1].begin(), f[1].end(), [&](float e) { return e >= x; }));
    if (name == "table")
      return static_cast<int>(std::count_if(f[2].begin(), f[2].end(), [&](float e) { return e <= x; }));
    const int g = group(x);
    const size_t at = static_cast<size_t>(g);
    return g << bits | affine_code(x, f[1][at], static_cast<float>(whole[2][at]), bits);
  }
  float value(int code) const {
    const int half = 1 << (bits - 1);
    const size_t at = static_cast<size_t>(code);
    if (name == "uniform") return static_cast<float>(code - (whole[1].empty() ? 0 : whole[1][0])) * f[0][0];
    if (name == "dual_region")
      return code >= half ? static_cast<float>(code - half) * f[1][0]
                          : static_cast<float>(code - (gelu ? half : 0)) * f[0][0];
    if (name == "log_base") return f[0][at];
    if (name == "table") return static_cast<float>(whole[0][at]) * f[1][0];
    const size_t g = static_cast<size_t>(code >> bits);
    if (g >= f[1].size()) return 0;
    return static_cast<float>((code & ((1 << bits) - 1)) - whole[2][g]) * f[1][g];
  }
};

double finished(double y, const std::string& epilogue) {
  if (epilogue == "relu") return std::max(y, 0.0);
  if (epilogue == "gelu") return 0.5 * y * (1 + std::erf(y * std::sqrt(0.5)));
  return y;
}

// Values as they are after coding and decoding; `row` is the length of rows with a range of their own.
Floats coded(const Case& node, const std::string& scheme, int bits, size_t first, bool gelu, const Floats& x,
             int64_t row) {
  Floats y = x;
  if (bits == 0) return y;
  if (scheme == "token") {
    for (size_t at = 0; at < x.size(); at += static_cast<size_t>(row)) {
      const Affine a = row_range(x.data() + at, row, bits);
      for (size_t i = at; i < at + static_cast<size_t>(row); ++i)
        y[i] = (static_cast<float>(affine_code(x[i], a.scale, a.zero, bits)) - a.zero) * a.scale;
    }
    return y;
  }
  const Scheme s(node, scheme, bits, first, gelu);
  for (float& v : y) v = s.value(s.code(v));
  return y;
}

// UniformQuantizeLinear and the like: codes of every element.
Expected quantize(const Case& node, const std::string& scheme) {
  const Value& x = node.inputs[0].value;
  const int bits = static_cast<int>(node.integer("bits"));
  const Scheme s(node, scheme, bits, 1, node.text("form", "softmax") == "gelu");
  Ints codes;
  for (float v : floats(x)) codes.push_back(s.code(v));
  int index_bits = 0;
  while (scheme == "outlier_retained" && size_t{1} << index_bits < s.f[1].size()) ++index_bits;
  if (bits + index_bits > 8) return {{made(kUint16, x.shape.dims, as<uint16_t>(codes))}};
  return {{made(kUint8, x.shape.dims, as<uint8_t>(codes))}};
}

Expected dequantize(const Case& node, const std::string& scheme) {
  const Value& codes = node.inputs[0].value;
  const Scheme s(node, scheme, static_cast<int>(node.integer("bits")), 1, node.text("form", "softmax") == "gelu");
  Floats y;
  for (int code : ints(codes)) y.push_back(s.value(code));
  return {{made(kFloat, codes.shape.dims, y)}};
}

Expected quantize_linear(const Case& node) {
  const Value &x = node.inputs[0].value, &scale = node.inputs[1].value, &zero = node.inputs[2].value;
  const Floats v = floats(x), s = floats(scale);
  const Ints z = ints(zero);
  std::vector<uint8_t> codes;
  for (size_t i = 0; i < v.size(); ++i) {
    const size_t si = broadcast(static_cast<int64_t>(i), x.shape.dims, scale.shape.dims),
                 zi = broadcast(static_cast<int64_t>(i), x.shape.dims, zero.shape.dims);
    codes.push_back(static_cast<uint8_t>(
        affine_code(v[i], s[si], static_cast<float>(z[zi]), static_cast<int>(node.integer("bits")))));
  }
  return {{made(kUint8, x.shape.dims, codes)}};
}

Expected dequantize_linear(const Case& node) {
  const Value &x = node.inputs[0].value, &scale = node.inputs[1].value, &zero = node.inputs[2].value;
  const Ints v = ints(x), z = ints(zero);
  const Floats s = floats(scale);
  Floats y;
  for (size_t i = 0; i < v.size(); ++i)
    y.push_back(static_cast<float>(v[i] - z[broadcast(static_cast<int64_t>(i), x.shape.dims, zero.shape.dims)]) *
                s[broadcast(static_cast<int64_t>(i), x.shape.dims, scale.shape.dims)]);
  return {{made(kFloat, x.shape.dims, y)}};
}

Expected row_ranges(const Case& node) {
  const Value& x = node.inputs[0].value;
  const Floats v = floats(x);
  Dims dims = x.shape.dims;
  const bool columns = node.integer("axis", -1) == -2;
  const size_t axis = dims.size() - (columns ? 2 : 1);
  const int64_t length = dims[axis], step = columns ? dims.back() : 1;
  dims[axis] = 1;
  Floats scale;
  std::vector<uint8_t> zero;
  for (int64_t i = 0; i < count_of(dims); ++i) {
    const Floats line = strided(v, i / step * step * length + i % step, length, step);
    const Affine a = row_range(line.data(), length, static_cast<int>(node.integer("bits")));
    scale.push_back(a.scale), zero.push_back(static_cast<uint8_t>(a.zero));
  }
  return {{made(kFloat, dims, scale), made(kUint8, dims, zero)}};
}

// Weights as floats: of a matrix [rows, cols] in groups of rows, or with one scale for each place along `axis`.
Floats weight(const Case& node, size_t first, int bits, const Dims& dims, size_t axis, int64_t group) {
  const Ints codes = weight_codes(node.inputs[first].value, bits, count_of(dims));
  const Floats scale = floats(node.inputs[first + 1].value);
  const Ints zero = ints(node.inputs[first + 2].value);
  const int64_t inner = product(dims, axis + 1, dims.size());
  Floats w;
  for (size_t i = 0; i < codes.size(); ++i) {
    int64_t at = static_cast<int64_t>(i) / inner % dims[axis];
    if (group) at += static_cast<int64_t>(i) / dims[1] / group * dims[1];
    w.push_back(static_cast<float>(codes[i] - zero[static_cast<size_t>(at)]) * scale[static_cast<size_t>(at)]);
  }
  return w;
}

Expected dequantize_weight(const Case& node) {
  const Dims dims = node.integers("shape");
  int64_t axis = node.integer("axis");
  if (axis < 0) axis += static_cast<int64_t>(dims.size());
  return {{made(kFloat, dims,
                weight(node, 0, static_cast<int>(node.integer("bits")), dims, static_cast<size_t>(axis),
                       node.integer("group")))}};
}

Expected linear(const Case& node) {
  const int64_t k = node.integer("K"), n = node.integer("N");
  Dims dims = node.inputs[0].value.shape.dims;
  const Floats x = coded(node, node.text("x_scheme", "uniform"), static_cast<int>(node.integer("x_bits")), 5,
                         node.text("x_form", "softmax") == "gelu", floats(node.inputs[0].value), k);
  const Floats w = weight(node, 1, static_cast<int>(node.integer("w_bits")), {k, n}, 1, node.integer("w_group"));
  const Floats bias = node.has(4) ? floats(node.inputs[4].value) : Floats(static_cast<size_t>(n));
  dims.back() = n;
  Floats y;
  for (int64_t i = 0; i < count_of(dims); ++i) {
    const int64_t row = i / n, column = i % n;
    double sum = bias[static_cast<size_t>(column)];
    for (int64_t j = 0; j < k; ++j)
      sum += static_cast<double>(x[static_cast<size_t>(row * k + j)]) * w[static_cast<size_t>(j * n + column)];
    y.push_back(static_cast<float>(finished(sum, node.text("epilogue", "none"))));
  }
  double least = node.text("epilogue", "none") == "gelu" ? 0.1 : 0;
  for (float one : bias) least = std::max<double>(least, std::fabs(one));  // which the product may all but cancel
  return {{made(kFloat, dims, y)}, Agreement::kProduct, least};
}

// Images by ranges of their own: of each pixel, of each plane of `places` pixels, or of each sample.
Floats coded_images(const Case& node, int bits, const Dims& in, int64_t places, bool by_pixel, bool by_plane) {
  Floats x = floats(node.inputs[0].value);
  if (!by_pixel) return coded(node, "token", bits, 5, false, x, by_plane ? places : in[1] * places);
  for (int64_t b = 0; b < in[0]; ++b)
    for (int64_t p = 0; p < places; ++p) {
      const int64_t first = b * in[1] * places + p;
      const Floats pixel = coded(node, "token", bits, 5, false, strided(x, first, in[1], places), in[1]);
      for (int64_t c = 0; c < in[1]; ++c) x[static_cast<size_t>(first + c * places)] = pixel[static_cast<size_t>(c)];
    }
  return x;
}

Expected convolution(const Case& node) {
  const Dims shape = node.integers("shape"), in = node.inputs[0].value.shape.dims;
  const size_t spatial = shape.size() - 2;
  auto two = [&](const char* name, int64_t otherwise) {
    Dims d = node.integers(name);
    if (d.empty()) d.assign(spatial, otherwise);
    return spatial == 1 ? Dims{otherwise, d[0]} : d;
  };
  const Dims strides = two("strides", 1), dilations = two("dilations", 1);
  Dims pads = node.integers("pads");
  if (pads.empty()) pads.assign(2 * spatial, 0);
  if (spatial == 1) pads = {0, pads[0], 0, pads[1]};
  const int64_t groups = node.integer("group", 1), outs = shape[0], per = shape[1];
  const int64_t height = spatial == 1 ? 1 : in[2], width = in.back();
  const int64_t kh = spatial == 1 ? 1 : shape[2], kw = shape.back();
  const int64_t oh = (height + pads[0] + pads[2] - dilations[0] * (kh - 1) - 1) / strides[0] + 1;
  const int64_t ow = (width + pads[1] + pads[3] - dilations[1] * (kw - 1) - 1) / strides[1] + 1;
  const std::string scheme = node.text("x_scheme", "uniform");
  const int bits = static_cast<int>(node.integer("x_bits"));
  const bool one = kh * kw == 1 && strides == Dims{1, 1} && pads == Dims{0, 0, 0, 0};
  const Floats x = scheme == "token" ? coded_images(node, bits, in, height * width, one && groups == 1 && per > 1,
                                                    groups > 1 && per == 1 && kh * kw <= 256)
                                     : coded(node, scheme, bits, 5, false, floats(node.inputs[0].value), 1);
  const Floats w = weight(node, 1, static_cast<int>(node.integer("w_bits")), shape, 0, 0);
  const Floats bias = node.has(4) ? floats(node.inputs[4].value) : Floats(static_cast<size_t>(outs));
  Floats y;
  for (int64_t b = 0; b < in[0]; ++b)
    for (int64_t o = 0; o < outs; ++o)
      for (int64_t r = 0; r < oh; ++r)
        for (int64_t c = 0; c < ow; ++c) {
          double sum = bias[static_cast<size_t>(o)];
          for (int64_t i = 0; i < per; ++i)
            for (int64_t u = 0; u < kh; ++u)
              for (int64_t v = 0; v < kw; ++v) {
                const int64_t yy = r * strides[0] - pads[0] + u * dilations[0];
                const int64_t xx = c * strides[1] - pads[1] + v * dilations[1];
                if (yy < 0 || yy >= height || xx < 0 || xx >= width) continue;
                const int64_t channel = o / (outs / groups) * per + i;
                sum += static_cast<double>(x[static_cast<size_t>(((b * in[1] + channel) * height + yy) * width + xx)]) *
                       w[static_cast<size_t>(((o * per + i) * kh + u) * kw + v)];
              }
          y.push_back(static_cast<float>(finished(sum, node.text("epilogue", "none"))));
        }
  Dims dims = {in[0], outs};
  if (spatial == 2) dims.push_back(oh);
  dims.push_back(ow);
  return {{made(kFloat, dims, y)}, Agreement::kProduct};
}

// An operand of a product as it is after coding: its scale broadcasts against it, or its rows have their own ranges.
Floats operand(const Case& node, size_t input, int bits, const std::string& scheme, size_t scale_input) {
  const Value& value = node.inputs[input].value;
  Floats x = floats(value);
  const Dims& dims = value.shape.dims;
  if (bits == 0) return x;
  if (scheme == "token") return coded(node, "token", bits, 0, false, x, dims.back());
  const Value& scale = node.inputs[scale_input].value;
  const Floats s = floats(scale);
  const bool has_zero = node.has(scale_input + 1);
  const Ints z = has_zero ? ints(node.inputs[scale_input + 1].value) : Ints{0};
  const Dims zero_dims = has_zero ? node.inputs[scale_input + 1].value.shape.dims : Dims();
  for (size_t i = 0; i < x.size(); ++i) {
    const float scale_now = s[broadcast(static_cast<int64_t>(i), dims, scale.shape.dims)];
    const float zero = static_cast<float>(z[broadcast(static_cast<int64_t>(i), dims, zero_dims)]);
    x[i] = (static_cast<float>(affine_code(x[i], scale_now, zero, bits)) - zero) * scale_now;
  }
  return x;
}

Expected matmul(const Case& node) {
  const Dims a_dims = node.inputs[0].value.shape.dims, b_dims = node.inputs[1].value.shape.dims;
  const bool transposed = node.integer("transpose_b") != 0;
  const Floats a = operand(node, 0, static_cast<int>(node.integer("a_bits")), node.text("a_scheme", "uniform"), 2);
  const Floats b = operand(node, 1, static_cast<int>(node.integer("b_bits")), node.text("b_scheme", "uniform"), 4);
  const int64_t m = a_dims[a_dims.size() - 2], k = a_dims.back();
  const int64_t n = transposed ? b_dims[b_dims.size() - 2] : b_dims.back();
  const Dims a_lead(a_dims.begin(), a_dims.end() - 2), b_lead(b_dims.begin(), b_dims.end() - 2);
  Dims lead(std::max(a_lead.size(), b_lead.size()), 1);
  for (size_t i = 0; i < lead.size(); ++i) {
    const int64_t x = i < a_lead.size() ? a_lead[a_lead.size() - 1 - i] : 1;
    const int64_t y = i < b_lead.size() ? b_lead[b_lead.size() - 1 - i] : 1;
    lead[lead.size() - 1 - i] = x == 1 ? y : x;
  }
  Floats y;
  for (int64_t l = 0; l < count_of(lead); ++l) {
    const float* left = a.data() + static_cast<int64_t>(broadcast(l, lead, a_lead)) * m * k;
    const float* right = b.data() + static_cast<int64_t>(broadcast(l, lead, b_lead)) * n * k;
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t at = 0; at < k; ++at)
          sum += static_cast<double>(left[i * k + at]) * (transposed ? right[j * k + at] : right[at * n + j]);
        y.push_back(static_cast<float>(sum));
      }
  }
  Dims dims = lead;
  dims.push_back(m), dims.push_back(n);
  return {{made(kFloat, dims, y)}, Agreement::kProduct};
}

enum AttentionInput : size_t { kV = 2, kMask, kBias, kRelH, kRelW, kQScale, kKScale = 9, kVScale = 11, kFirst = 13 };

// One of q, k and v after coding. Static scales are told apart by their number: 1, heads, or heads * width. Ranges at
// run time are those of rows, of v those of columns.
Floats attention_operand(const Case& node, size_t input, int bits, const std::string& scheme, size_t scale_input,
                         int64_t heads) {
  const Value& value = node.inputs[input].value;
  Floats x = floats(value);
  const Dims& dims = value.shape.dims;
  const int64_t width = dims.back(), rows = dims[dims.size() - 2];
  if (bits == 0) return x;
  if (scheme == "token" && input == kV) {
    for (int64_t head = 0; head < static_cast<int64_t>(x.size()); head += rows * width)
      for (int64_t c = head; c < head + width; ++c) {
        const Floats column = coded(node, "token", bits, 0, false, strided(x, c, rows, width), rows);
        for (int64_t i = 0; i < rows; ++i) x[static_cast<size_t>(c + i * width)] = column[static_cast<size_t>(i)];
      }
    return x;
  }
  if (scheme == "token") return coded(node, "token", bits, 0, false, x, width);
  const Floats s = floats(node.inputs[scale_input].value);
  const Ints z = node.has(scale_input + 1) ? ints(node.inputs[scale_input + 1].value) : Ints{0};
  auto place = [&](size_t count, int64_t i) {
    const int64_t head = i / width / rows % heads;
    return static_cast<size_t>(count == 1 ? 0 : static_cast<int64_t>(count) == heads ? head : head * width + i % width);
  };
  for (size_t i = 0; i < x.size(); ++i) {
    const float scale = s[place(s.size(), static_cast<int64_t>(i))];
    const float zero = static_cast<float>(z[place(z.size(), static_cast<int64_t>(i))]);
    x[i] = (static_cast<float>(affine_code(x[i], scale, zero, bits)) - zero) * scale;
  }
  return x;
}

Expected attention(const Case& node) {
  const Dims q_dims = node.inputs[0].value.shape.dims, v_dims = node.inputs[2].value.shape.dims;
  const int64_t d = q_dims.back(), dv = v_dims.back(), nq = q_dims[q_dims.size() - 2], nk = v_dims[v_dims.size() - 2];
  const int64_t lead = product(q_dims, 0, q_dims.size() - 2), heads = node.integer("heads", 1);
  const std::string qk = node.text("qk_scheme", "uniform"), soft = node.text("softmax_scheme", "uniform");
  const Floats q = attention_operand(node, 0, static_cast<int>(node.integer("q_bits")), qk, kQScale, heads);
  const Floats k = attention_operand(node, 1, static_cast<int>(node.integer("k_bits")), qk, kKScale, heads);
  const Floats v = attention_operand(node, 2, static_cast<int>(node.integer("v_bits")),
                                     node.text("v_scheme", "uniform"), kVScale, heads);
  const int p_bits = static_cast<int>(node.integer("p_bits"));
  const bool norm = node.integer("softmax_norm") != 0;
  const double scale = static_cast<double>(node.number("scale", 1));
  Dims map_dims = q_dims;
  map_dims.back() = nk;
  Floats added[4];
  Dims added_dims[4];
  for (size_t i = 0; i < 4; ++i)
    if (node.has(kMask + i)) {
      added[i] = floats(node.inputs[kMask + i].value);
      added_dims[i] = node.inputs[kMask + i].value.shape.dims;
    }
  const Scheme scheme(node, soft, p_bits, kFirst, false);
  Floats y;
  std::vector<double> p(static_cast<size_t>(nk));
  for (int64_t row = 0; row < lead * nq; ++row) {
    double top = -static_cast<double>(kLargest), sum = 0, greatest = 0;
    for (int64_t j = 0; j < nk; ++j) {
      double s = 0;
      for (int64_t i = 0; i < d; ++i)
        s += static_cast<double>(q[static_cast<size_t>(row * d + i)]) *
             k[static_cast<size_t>((row / nq * nk + j) * d + i)];
      s *= scale;
      for (size_t i = 0; i < 2; ++i)
        if (!added[i].empty()) s += added[i][broadcast(row * nk + j, map_dims, added_dims[i])];
      if (!added[2].empty()) {
        const int64_t high = added_dims[2].back(), wide = added_dims[3].back();
        s +=
            added[2][static_cast<size_t>(row * high + j / wide)] + added[3][static_cast<size_t>(row * wide + j % wide)];
      }
      p[static_cast<size_t>(j)] = s;
      top = std::max(top, s);
    }
    for (double& s : p) s = std::exp(s - top), sum += s;
    for (double& s : p) {
      if (!norm) s = sum > 0 ? s / sum : 0;
      greatest = std::max(greatest, s);
    }
    const float row_scale = std::max(static_cast<float>(greatest) / static_cast<float>((1 << p_bits) - 1), kSmallest);
    double total = 0;
    for (double& s : p) {
      const float value = static_cast<float>(s);
      if (p_bits)
        s = soft == "row" ? static_cast<float>(affine_code(value, row_scale, 0, p_bits)) * row_scale
                          : scheme.value(scheme.code(value));
      total += s;
    }
    for (int64_t c = 0; c < dv; ++c) {
      double s = 0;
      for (int64_t j = 0; j < nk; ++j)
        s += p[static_cast<size_t>(j)] * v[static_cast<size_t>((row / nq * nk + j) * dv + c)];
      y.push_back(static_cast<float>(norm ? s / (total != 0 ? total : 1) : s));
    }
  }
  Dims dims = q_dims;
  dims.back() = dv;
  return {{made(kFloat, dims, y)}, Agreement::kSoftmax};
}

Expected range(const Case& node) {
  const Value& x = node.inputs[0].value;
  const Dims& dims = x.shape.dims;
  const bool per_channel = node.integer("per_channel") != 0;
  int64_t axis = node.integer("axis", -1);
  if (axis < 0) axis += static_cast<int64_t>(dims.size());
  const int64_t channels = per_channel ? dims[static_cast<size_t>(axis)] : 1;
  const int64_t inner = per_channel ? product(dims, static_cast<size_t>(axis) + 1, dims.size()) : 1;
  std::vector<double> stats;
  for (int64_t c = 0; c < channels; ++c) stats.insert(stats.end(), {INFINITY, -INFINITY, 0, 0, 0});
  const Floats v = floats(x);
  for (size_t i = 0; i < v.size(); ++i) {
    double* s = stats.data() + 5 * (static_cast<int64_t>(i) / inner % channels);
    const double d = v[i];
    if (!std::isfinite(v[i])) {
      s[4] += 1;
      continue;
    }
    s[0] = std::min(s[0], d), s[1] = std::max(s[1], d), s[2] += d, s[3] += d * d;
  }
  return {{made(kDouble, per_channel ? Dims{channels, 5} : Dims{5}, stats)}, Agreement::kSum};
}

Expected histogram(const Case& node) {
  const int64_t bins = node.integer("bins", 2048);
  const Floats v = floats(node.inputs[0].value);
  double low = INFINITY, high = -INFINITY, top = 0, good = 0;
  for (float f : v) {
    if (!std::isfinite(f)) continue;
    low = std::min<double>(low, f), high = std::max<double>(high, f), top = std::max<double>(top, std::fabs(f));
    good += 1;
  }
  int e = -60;
  while (std::ldexp(1.0, e) <= top) ++e;
  std::vector<int64_t> counts(static_cast<size_t>(bins));
  for (float f : v)
    if (std::isfinite(f))
      ++counts[static_cast<size_t>(static_cast<int64_t>(std::floor(static_cast<double>(f) * std::ldexp(1.0, -e) *
                                                                   static_cast<double>(bins / 2))) +
                                   bins / 2)];
  return {{made(kInt64, {bins}, counts),
           made(kDouble, {5},
                std::vector<double>{low, high, static_cast<double>(e), good, static_cast<double>(v.size()) - good})}};
}

Expected sample_rows(const Case& node) {
  const Value& x = node.inputs[0].value;
  const int64_t length = x.shape.dims.back(), n = product(x.shape.dims, 0, x.shape.dims.size() - 1);
  const int64_t rows = std::min(node.integer("rows"), n);
  const Floats v = floats(x);
  Floats y;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t first = i * n / rows, size = (i + 1) * n / rows - first;
    uint64_t z = static_cast<uint64_t>(node.integer("seed")) + static_cast<uint64_t>(i) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    const int64_t row = first + static_cast<int64_t>(z % static_cast<uint64_t>(size));
    y.insert(y.end(), v.begin() + row * length, v.begin() + (row + 1) * length);
  }
  return {{made(kFloat, {rows, length}, y)}};
}

template <typename T>
std::string compare(const Value& expected, const Value& actual, double relative, double greatest = 0) {
  const T *a = reinterpret_cast<const T*>(expected.bytes.data()), *b = reinterpret_cast<const T*>(actual.bytes.data());
  const size_t n = expected.bytes.size() / sizeof(T);
  for (size_t i = 0; i < n; ++i)
    if (std::isfinite(static_cast<double>(a[i]))) greatest = std::max(greatest, std::fabs(static_cast<double>(a[i])));
  for (size_t i = 0; i < n; ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    const bool same = x == y || (std::isnan(x) && std::isnan(y)) || std::fabs(x - y) <= relative * greatest;
    if (same) continue;
    char text[160];
    snprintf(text, sizeof(text), "element %zu of %zu is %.9g, not %.9g (greatest %.9g)", i, n, y, x, greatest);
    return text;
  }
  return "";
}

std::string compare_softmax(const Value& expected, const Value& actual) {
  const Floats a = floats(expected), b = floats(actual);
  double signal = 0, noise = 0, greatest = 0;
  for (float x : a) greatest = std::max<double>(greatest, std::fabs(x));
  size_t far = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double error = std::isnan(b[i]) ? INFINITY : std::fabs(static_cast<double>(a[i]) - b[i]);
    signal += static_cast<double>(a[i]) * a[i], noise += error * error;
    far += error > 1e-5 * greatest;
  }
  char text[120] = "";
  // Short rows are few, so that one flipped code is more than one in a hundred: one is allowed.
  const size_t width = static_cast<size_t>(expected.shape.dims.back());
  if (!(noise <= signal * 1e-6) || far > std::max(a.size() / 100, width))
    snprintf(text, sizeof(text), "%.1f dB, %zu of %zu outputs differ by more than 1e-5",
             10 * std::log10(signal / noise), far, a.size());
  return text;
}

const std::map<std::string, std::function<Expected(const Case&)>>& references() {
  static const auto* all = [] {
    auto* m = new std::map<std::string, std::function<Expected(const Case&)>>{
        {"onnxptq.UniformQuantizeLinear", quantize_linear},
        {"onnxptq.UniformDequantizeLinear", dequantize_linear},
        {"onnxptq.RowRange", row_ranges},
        {"onnxptq.DequantizeWeight", dequantize_weight},
        {"onnxptq.QLinear", linear},
        {"onnxptq.QConv", convolution},
        {"onnxptq.QMatMul", matmul},
        {"onnxptq.QAttention", attention},
        {"onnxptq.calib.Range", range},
        {"onnxptq.calib.Histogram", histogram},
        {"onnxptq.calib.SampleRows", sample_rows}};
    for (auto [name, scheme] : {std::pair{"DualRegion", "dual_region"},
                                {"LogBase", "log_base"},
                                {"Table", "table"},
                                {"OutlierRetained", "outlier_retained"}}) {
      (*m)[std::string("onnxptq.") + name + "QuantizeLinear"] = [scheme = scheme](const Case& c) {
        return quantize(c, scheme);
      };
      (*m)[std::string("onnxptq.") + name + "DequantizeLinear"] = [scheme = scheme](const Case& c) {
        return dequantize(c, scheme);
      };
    }
    return m;
  }();
  return *all;
}

}  // namespace

bool reference(const std::string& op, const Case& node, Expected* expected) {
  auto found = references().find(op);
  if (found == references().end()) return false;
  *expected = found->second(node);
  return true;
}

std::string difference(const Expected& expected, const std::vector<Value>& outputs) {
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    const Value &a = expected.outputs[i], &b = outputs.at(i);
    std::string text;
    if (a.shape.type != b.shape.type || a.shape.dims != b.shape.dims) {
      text = "another type or shape";
    } else if (expected.agreement == Agreement::kSoftmax) {
      text = compare_softmax(a, b);
    } else if (a.shape.type == kDouble) {
      text = compare<double>(a, b, expected.agreement == Agreement::kSum ? 1e-12 : 0);
    } else if (a.shape.type == kFloat) {
      text = compare<float>(a, b, expected.agreement == Agreement::kProduct ? 1e-5 : 0, expected.least);
    } else if (a.shape.type == kUint8) {
      text = compare<uint8_t>(a, b, 0);
    } else if (a.shape.type == kUint16) {
      text = compare<uint16_t>(a, b, 0);
    } else {
      text = compare<int64_t>(a, b, 0);
    }
    if (!text.empty()) return "output " + std::to_string(i) + ": " + text;
  }
  return "";
}

}  // namespace onnxptq::test
