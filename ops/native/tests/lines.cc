#include "lines.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace onnxptq::test {
namespace {

using Lines = std::vector<std::string>;

__attribute__((format(printf, 1, 2))) std::string text(const char* format, ...) {
  char line[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  return line;
}

int largest(int bits) { return (1 << bits) - 1; }

// Inputs p0, p1, p2 of a scheme.
std::string parameters(const std::string& scheme, int bits) {
  if (scheme == "uniform") return text("float[]~scale uint8[]=%d", largest(bits) / 3);
  if (scheme == "dual_region") return "float[]=0.013 float[]=0.21 float[]=0.1";
  if (scheme == "whole_dual_region") return "float[]=0.0125 float[]=0.1 float[]=0.09";
  if (scheme == "gelu_dual_region") return "float[]=0.0071 float[]=0.13 float[]=0";
  if (scheme == "log_base") return text("float[%d]~table float[%d]~descending", 1 << bits, largest(bits));
  if (scheme == "table") return text("int8[%d]~ascending float[]=0.05 float[%d]~centred", 1 << bits, largest(bits));
  if (scheme == "outlier_retained") return text("float[3]~ascending float[4]~scale uint8[4]~uint:%d", largest(bits));
  return "";
}

std::string stored_weight(int bits, const char* shape, int count) {
  if (bits == 8) return text("int8[%s]!~int:127", shape);
  if (bits == 4) return text("int4[%s]!~int:7", shape);
  return text("uint8[%d]!~uint:255", (count + 7) / 8 * bits);
}

// The pair of ops of one scheme.
Lines pair(const std::string& scheme, bool quantizes, const char* extra = "") {
  Lines lines;
  const char* name = scheme == "gelu_dual_region" ? "form=gelu" : scheme == "dual_region" ? "form=softmax" : "";
  for (int bits = 2; bits <= 8; ++bits) {
    const std::string rest = parameters(scheme, bits);
    for (const char* dims : {"", "1", "17", "3,0,5", "5,1,67", "70001"}) {
      if (quantizes)
        lines.push_back(text("bits=%d %s %s | float[%s]~odd %s", bits, name, extra, dims, rest.c_str()));
      else if (scheme != "outlier_retained")
        lines.push_back(text("bits=%d %s | uint8[%s]~uint:%d %s", bits, name, dims, largest(bits), rest.c_str()));
      else
        lines.push_back(text("bits=%d | uint%d[%s]~uint:%d %s", bits, bits > 6 ? 16 : 8, dims, 4 * largest(bits) + 3,
                             rest.c_str()));
    }
  }
  return lines;
}

Lines linear_codes(bool quantizes) {
  Lines lines;
  static const char* const kShapes[][3] = {{"", "", ""},          {"0,4", "4", ""},           {"3,5,37", "37", "37"},
                                           {"3,5,37", "5,1", ""}, {"3,5,37", "3,1,37", "1"},  {"3,5,37", "", "5,37"},
                                           {"70001", "1", "1"},   {"2,40000", "2,1", "40000"}};
  for (int bits = 2; bits <= 8; ++bits)
    for (const auto& s : kShapes)
      lines.push_back(text(quantizes ? "bits=%d | float[%s]~odd float[%s]~scale uint8[%s]~uint:%d"
                                     : "bits=%d | uint8[%s]~uint:255 float[%s]~normal uint8[%s]~uint:%d",
                           bits, s[0], s[1], s[2], largest(bits)));
  // Quotients that are exact ties, and scales whose reciprocal is not a normal number.
  for (const char* scale : {"0.5", "0.25", "1e-38", "1e-42", "3e38", "0"})
    if (quantizes) lines.push_back(text("bits=8 | float[999]~odd float[]=%s uint8[]=100", scale));
  return lines;
}

Lines linear() {
  Lines lines;
  static const struct {
    const char *lead, *epilogue;
    int k, n;
    bool bias;
  } kShapes[] = {{"1,", "none", 1, 1, true},     {"3,13,", "relu", 70, 37, true}, {"", "gelu", 33, 32, true},
                 {"25,", "none", 64, 65, false}, {"0,3,", "none", 5, 7, true},    {"7,", "gelu", 131, 3, true}};
  for (const char* scheme : {"uniform", "token", "dual_region", "whole_dual_region", "gelu_dual_region", "log_base",
                             "table", "outlier_retained"}) {
    const std::string name = scheme, plain = name.find("dual") == std::string::npos ? name : "dual_region";
    for (int x_bits = 2; x_bits <= 8; ++x_bits) {
      for (int w_bits : {2, 4, 6, 8}) {
        const auto& s = kShapes[(x_bits + w_bits) % 6];
        const int group = (x_bits + w_bits / 2) % 3 ? 0 : 24;
        const int scales = group ? (s.k + group - 1) / group : 0;
        const std::string per = group ? text("%d,%d", scales, s.n) : text("%d", s.n);
        const char* values = name == "token" ? "normal" : plain == "dual_region" || name == "log_base" ? "unit" : "odd";
        lines.push_back(
            text("x_bits=%d w_bits=%d x_scheme=%s x_form=%s w_group=%d epilogue=%s K=%d N=%d | float[%s%d]~%s %s "
                 "float[%s]!~scale int8[%s]!~int:%d %s %s",
                 x_bits, w_bits, plain.c_str(), name == "gelu_dual_region" ? "gelu" : "softmax", group, s.epilogue, s.k,
                 s.n, s.lead, s.k, name == "gelu_dual_region" ? "normal" : values,
                 stored_weight(w_bits, text("%d,%d", s.k, s.n).c_str(), s.k * s.n).c_str(), per.c_str(), per.c_str(),
                 largest(w_bits) / 4, s.bias ? text("float[%d]~normal", s.n).c_str() : "-",
                 parameters(name, x_bits).c_str()));
      }
    }
  }
  for (int w_bits : {3, 5, 7, 8})
    lines.push_back(
        text("x_bits=0 w_bits=%d epilogue=gelu K=70 N=33 | float[2,7,70]~normal %s float[33]~scale int8[33]~int:%d",
             w_bits, stored_weight(w_bits, "70,33", 2310).c_str(), largest(w_bits) / 4));
  // The greatest codes there are, summed over many k: 16-bit and 32-bit sums must not overflow.
  for (int bits : {4, 6, 8})
    lines.push_back(
        text("x_bits=%d w_bits=8 K=40000 N=3 | float[2,40000]=9 int8[40000,3]!=-128 float[3]!~scale int8[3]!=127 - "
             "float[]=0.01 uint8[]=0",
             bits));
  return lines;
}

Lines convolution() {
  Lines lines;
  static const struct {
    const char *attributes, *x, *shape;
    int outs, count;
  } kShapes[] = {
      {"kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 group=1 shape=7,5,3,3", "2,5,9,11", "7,5,3,3", 7, 315},
      {"kernel_shape=2,2 strides=2,2 pads=0,0,0,0 dilations=1,1 group=1 shape=9,3,2,2", "1,3,8,6", "9,3,2,2", 9, 108},
      {"kernel_shape=3,3 strides=2,1 pads=2,0,1,1 dilations=1,2 group=1 shape=3,2,3,3", "2,2,9,9", "3,2,3,3", 3, 54},
      {"kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 group=6 shape=6,1,3,3", "1,6,7,7", "6,1,3,3", 6, 54},
      {"kernel_shape=1,1 strides=1,1 pads=0,0,0,0 dilations=1,1 group=2 shape=8,5,1,1", "2,10,5,5", "8,5,1,1", 8, 40},
      {"kernel_shape=5 strides=2 pads=2,1 dilations=1 group=1 shape=4,3,5", "2,3,21", "4,3,5", 4, 60},
      {"kernel_shape=4,4 strides=4,4 pads=0,0,0,0 dilations=1,1 group=1 shape=33,3,4,4", "1,3,16,12", "33,3,4,4", 33,
       1584},
      {"kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 group=1 shape=2,3,3,3", "0,3,5,5", "2,3,3,3", 2, 54}};
  int turn = 0;
  for (const auto& s : kShapes)
    for (int x_bits : {0, 3, 4, 6, 8})
      for (const char* scheme : {"uniform", "table"}) {
        const int w_bits = turn % 4 * 2 + 2;
        static const char* const kEpilogues[] = {"none", "relu", "gelu"};
        lines.push_back(text(
            "x_bits=%d w_bits=%d x_scheme=%s epilogue=%s %s | float[%s]~normal %s float[%d]!~scale int8[%d]!~int:%d "
            "%s %s",
            x_bits, w_bits, x_bits ? scheme : "uniform", kEpilogues[turn % 3], s.attributes, s.x,
            stored_weight(w_bits, s.shape, s.count).c_str(), s.outs, s.outs, largest(w_bits) / 4,
            turn % 2 ? text("float[%d]~normal", s.outs).c_str() : "-",
            x_bits ? parameters(scheme, x_bits).c_str() : ""));
        ++turn;
      }
  return lines;
}

Lines matmul() {
  Lines lines;
  for (int bits : {0, 2, 4, 6, 8}) {
    const int most = largest(bits ? bits : 8);
    lines.push_back(
        text("a_bits=%d b_bits=%d a_scheme=uniform b_scheme=uniform | float[2,3,13,21]~odd float[2,3,21,17]~normal "
             "float[]~scale uint8[]~uint:%d float[3,1,1]~scale uint8[3,1,1]~uint:%d",
             bits ? bits : 8, bits ? bits : 8, most, most));
    lines.push_back(
        text("a_bits=%d b_bits=%d a_scheme=token b_scheme=token transpose_b=1 | float[3,1,13,33]~normal "
             "float[2,17,33]~normal",
             bits, bits));
    lines.push_back(
        text("a_bits=8 b_bits=%d a_scheme=token b_scheme=uniform | float[5,70]~normal float[70,40]~normal - - "
             "float[1,40]~scale "
             "uint8[1,40]~uint:%d",
             bits, most));
    lines.push_back(text(
        "a_bits=%d b_bits=8 a_scheme=uniform b_scheme=uniform transpose_b=1 | float[4,1,9]~normal float[4,6,9]~normal "
        "float[4,1,1]~scale - float[]~scale uint8[]=7",
        bits));
    lines.push_back(text(
        "a_bits=%d b_bits=%d a_scheme=token b_scheme=token transpose_b=1 | float[0,3,8]~normal float[0,4,8]~normal",
        bits, bits));
  }
  return lines;
}

Lines attention() {
  Lines lines;
  for (const char* scheme : {"uniform", "row", "dual_region", "log_base", "table"})
    for (int bits : {3, 4, 6, 8})
      for (int norm : {0, 1}) {
        std::string p = parameters(scheme, bits);
        if (!strcmp(scheme, "uniform")) p = text("float[]=%.9g", 1.0 / largest(bits));
        if (!strcmp(scheme, "table"))
          p = text("int8[%d]~levels float[]=0.004 float[%d]~ascending", 1 << bits, largest(bits));
        // Static scales of each kind and added terms; then ranges of rows, and relative positions.
        lines.push_back(text(
            "q_bits=%d k_bits=%d v_bits=%d p_bits=%d qk_scheme=uniform softmax_scheme=%s softmax_norm=%d scale=0.177 "
            "heads=3 | float[2,3,19,32]~normal float[2,3,37,32]~normal float[2,3,37,40]~normal float[2,1,1,37]~normal "
            "float[3,19,37]~normal - - float[3]~scale uint8[3]~uint:%d float[]~scale uint8[]=%d float[3,40]~scale "
            "uint8[3,40]~uint:%d %s",
            bits, bits, bits, bits, scheme, norm, largest(bits), largest(bits) / 2, largest(bits), p.c_str()));
        lines.push_back(
            text("q_bits=%d k_bits=%d v_bits=8 p_bits=%d qk_scheme=token softmax_scheme=%s softmax_norm=%d scale=0.25 "
                 "heads=2 | "
                 "float[4,35,16]~normal float[4,35,16]~normal float[4,35,16]~normal - - float[4,35,5]~normal "
                 "float[4,35,7]~normal - - - - float[2]~scale uint8[2]=128 %s",
                 bits, bits, bits, scheme, norm, p.c_str()));
        lines.push_back(
            text("q_bits=%d k_bits=%d v_bits=%d p_bits=%d qk_scheme=token v_scheme=token softmax_scheme=%s "
                 "softmax_norm=%d scale=0.25 | float[3,21,16]~normal float[3,37,16]~normal float[3,37,19]~normal "
                 "- - - - - - - - - - %s",
                 bits, bits, bits, bits, scheme, norm, p.c_str()));
      }
  lines.push_back(
      "q_bits=0 k_bits=0 v_bits=0 p_bits=0 scale=0.25 | float[2,1,9,16]~normal float[2,1,700,16]~normal "
      "float[2,1,700,3]~normal");
  lines.push_back(
      "q_bits=8 k_bits=8 v_bits=8 p_bits=0 qk_scheme=token scale=0.25 | float[2,9,16]~normal float[2,7,16]~normal "
      "float[2,7,3]~normal "
      "float[1,7]=-inf - - - - - - - float[]~scale uint8[]=9");
  lines.push_back(
      "q_bits=4 k_bits=4 v_bits=4 p_bits=4 qk_scheme=token softmax_scheme=row scale=0.25 | float[0,9,16]~normal "
      "float[0,7,16]~normal "
      "float[0,7,3]~normal - - - - - - - - float[]~scale uint8[]=7");
  return lines;
}

Lines observers(const std::string& op) {
  Lines lines;
  for (const char* dims : {"5", "0,3", "70,33", "3,40,50", "2,600,333", "1", "300000"})
    for (const char* values : {"normal", "odd"}) {
      if (op == "onnxptq.calib.Range") {
        lines.push_back(text("axis=-1 | float[%s]~%s", dims, values));
        for (int axis : {-1, 0}) lines.push_back(text("axis=%d per_channel=1 | float[%s]~%s", axis, dims, values));
      } else if (op == "onnxptq.calib.Histogram") {
        for (int bins : {2, 256, 2048, 65536}) lines.push_back(text("bins=%d | float[%s]~%s", bins, dims, values));
      } else {
        for (int rows : {1, 7, 5000}) lines.push_back(text("rows=%d seed=11 | float[%s]~%s", rows, dims, values));
      }
    }
  return lines;
}

Lines weights() {
  Lines lines;
  for (int bits = 2; bits <= 8; ++bits) {
    const int most = largest(bits) / 3;
    for (int axis : {0, 1, -3})
      lines.push_back(text("bits=%d axis=%d shape=13,9,3,2 | %s float[%d]~scale int8[%d]~int:%d", bits, axis,
                           stored_weight(bits, "13,9,3,2", 702).c_str(), axis ? 9 : 13, axis ? 9 : 13, most));
    lines.push_back(text("bits=%d axis=1 group=16 shape=200,301 | %s float[13,301]~scale int8[13,301]~int:%d", bits,
                         stored_weight(bits, "200,301", 60200).c_str(), most));
    lines.push_back(text("bits=%d axis=0 shape=0,5 | %s float[0]~scale int8[0]~int:3", bits,
                         stored_weight(bits, "0,5", 0).c_str()));
  }
  return lines;
}

}  // namespace

std::vector<std::string> more_lines(const std::string& op) {
  if (op == "onnxptq.UniformQuantizeLinear") return linear_codes(true);
  if (op == "onnxptq.UniformDequantizeLinear") return linear_codes(false);
  if (op == "onnxptq.QLinear") return linear();
  if (op == "onnxptq.QConv") return convolution();
  if (op == "onnxptq.QMatMul") return matmul();
  if (op == "onnxptq.QAttention") return attention();
  if (op == "onnxptq.DequantizeWeight") return weights();
  if (op.find(".calib.") != std::string::npos) return observers(op);
  static const struct {
    const char *op, *scheme, *extra;
  } kPairs[] = {{"DualRegion", "dual_region", ""},
                {"DualRegion", "gelu_dual_region", ""},
                {"LogBase", "log_base", ""},
                {"Table", "table", ""},
                {"OutlierRetained", "outlier_retained", "groups=4"}};
  Lines lines;
  for (const auto& p : kPairs)
    for (bool quantizes : {true, false})
      if (op == std::string("onnxptq.") + p.op + (quantizes ? "QuantizeLinear" : "DequantizeLinear"))
        for (const std::string& line : pair(p.scheme, quantizes, quantizes ? p.extra : "")) lines.push_back(line);
  if (op == "onnxptq.RowRange")
    for (int bits = 2; bits <= 8; ++bits)
      for (const char* dims : {"7,64", "2,3,1", "0,5", "33", "2,40001"})
        for (const char* values : {"normal", "odd", "unit", "=0", "=1e-40"})
          for (int axis : {-1, -2})
            if (axis == -1 || strchr(dims, ','))
              lines.push_back(
                  text("bits=%d axis=%d | float[%s]%s%s", bits, axis, dims, values[0] == '=' ? "" : "~", values));
  return lines;
}

}  // namespace onnxptq::test
