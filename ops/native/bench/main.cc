// Times every op of every instruction set of this machine: the examples, and sizes that models have. Variants are
// interleaved; a figure is the median of its rounds; the ratio is to the portable kernels.
//   onnxptq_bench [PART_OF_OP_NAME]
#include <algorithm>
#include <chrono>
#include <memory>

#include "../tests/cases.h"

namespace onnxptq::test {
namespace {

// Sizes of vision transformers; an op that is not listed is timed on its examples.
const struct {
  const char *op, *line;
} kLines[] = {
    {"onnxptq.UniformQuantizeLinear", "bits=6 | float[1,1024,768]~normal float[]~scale uint8[]=31"},
    {"onnxptq.UniformQuantizeLinear", "bits=4 | float[1,1024,768]~normal float[768]~scale uint8[768]~uint:15"},
    {"onnxptq.UniformDequantizeLinear", "bits=6 | uint8[1,1024,768]~uint:63 float[]~scale uint8[]=31"},
    {"onnxptq.RowRange", "bits=8 | float[1,1024,768]~normal"},
    {"onnxptq.DualRegionQuantizeLinear",
     "bits=4 form=softmax | float[1024,1024]~unit float[]=0.01 float[]=0.14 float[]=0.07"},
    {"onnxptq.LogBaseQuantizeLinear", "bits=4 | float[1024,1024]~unit float[16]~table float[15]~descending"},
    {"onnxptq.TableQuantizeLinear",
     "bits=6 | float[1024,1024]~normal int8[64]~ascending float[]=0.05 float[63]~centred"},
    {"onnxptq.OutlierRetainedQuantizeLinear",
     "bits=6 groups=3 | float[1024,1024]~normal float[2]~ascending float[3]~scale uint8[3]~uint:63"},
    {"onnxptq.QLinear",
     "x_bits=8 w_bits=8 x_scheme=uniform K=768 N=768 | float[256,768]~normal int8[768,768]!~int:127 float[768]!~scale "
     "int8[768]!=0 float[768]~normal float[]~scale uint8[]=128"},
    {"onnxptq.QLinear",
     "x_bits=6 w_bits=6 x_scheme=uniform K=768 N=768 | float[256,768]~normal uint8[442368]!~uint:255 float[768]!~scale "
     "int8[768]!=0 float[768]~normal float[]~scale uint8[]=31"},
    {"onnxptq.QLinear",
     "x_bits=4 w_bits=4 x_scheme=token epilogue=gelu K=768 N=768 | float[256,768]~normal int4[768,768]!~int:7 "
     "float[768]!~scale "
     "int8[768]!=0 float[768]~normal"},
    {"onnxptq.QLinear",
     "x_bits=0 w_bits=8 K=768 N=768 | float[256,768]~normal int8[768,768]!~int:127 float[768]!~scale int8[768]!=0"},
    {"onnxptq.QAttention",
     "q_bits=8 k_bits=8 v_bits=8 p_bits=8 qk_scheme=token softmax_scheme=row scale=0.125 heads=4 | "
     "float[4,512,64]~normal "
     "float[4,512,64]~normal float[4,512,64]~normal - - - - - - - - float[]~scale uint8[]=128"},
    {"onnxptq.QAttention",
     "q_bits=4 k_bits=4 v_bits=4 p_bits=4 qk_scheme=token v_scheme=token softmax_scheme=row scale=0.125 heads=4 | "
     "float[4,512,64]~normal "
     "float[4,512,64]~normal float[4,512,64]~normal"},
    {"onnxptq.QMatMul",
     "a_bits=8 b_bits=8 a_scheme=token b_scheme=token transpose_b=1 | float[4,256,64]~normal float[4,256,64]~normal"},
    {"onnxptq.QConv",
     "x_bits=8 w_bits=8 x_scheme=uniform shape=64,64,3,3 kernel_shape=3,3 strides=1,1 pads=1,1,1,1 dilations=1,1 "
     "group=1 | "
     "float[1,64,32,32]~normal int8[64,64,3,3]!~int:127 float[64]!~scale int8[64]!=0 - float[]~scale uint8[]=128"},
    {"onnxptq.calib.Range", "axis=-1 | float[1024,768]~normal"},
    {"onnxptq.calib.Range", "axis=-1 per_channel=1 | float[1024,768]~normal"},
    {"onnxptq.calib.Histogram", "bins=2048 | float[1024,768]~normal"}};

struct Variant {
  std::string isa;
  std::unique_ptr<Session> session;
  std::vector<double> seconds;

  double median() {
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }
};

void time_line(const std::map<std::string, std::map<std::string, Registered>>& isas,
               const std::vector<std::string>& order, const std::string& op, const std::string& line) {
  constexpr int kRounds = 9;
  using Clock = std::chrono::steady_clock;
  Random random(1);
  const Case node = parse(line, random);
  std::vector<Variant> variants;
  std::vector<Value> outputs;
  for (const std::string& isa : order) {
    variants.push_back({isa, std::make_unique<Session>(isas.at(isa).at(op), node.attributes, node.inputs), {}});
    Session& session = *variants.back().session;
    if (!session.error.empty() || !session.run(node.inputs, 1, &outputs)) {
      printf("%s\n  %s\n", op.c_str(), session.error.c_str());
      return;
    }
  }
  for (int round = 0; round < kRounds; ++round)
    for (Variant& v : variants) {
      const auto start = Clock::now();
      v.session->run(node.inputs, 1, &outputs);
      v.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  printf("%-32s", op.substr(8).c_str());
  const double portable = variants[0].median();
  for (Variant& v : variants) {
    const double now = v.median();
    printf(" %9.1f us %5.2fx%s", now * 1e6, portable / now, &v != &variants[0] && now > portable ? " SLOWER" : "");
  }
  printf("  %s\n", line.substr(0, 90).c_str());
}

int run(const std::string& part) {
  std::map<std::string, std::map<std::string, Registered>> isas;
  std::vector<std::string> order;
  printf("%-32s", "one thread, median of 9");
  for (size_t i = 0; isa_name(i); ++i) {
    if (!cpu_has(isa_name(i))) continue;
    order.push_back(isa_name(i));
    isas[order.back()] = load(order.back());
    printf(" %19s", order.back().c_str());
  }
  printf("\n");
  for (const auto& [name, op] : isas.at(order[0])) {
    if (name.find(part) == std::string::npos) continue;
    bool listed = false;
    for (const auto& l : kLines)
      if (name == l.op) time_line(isas, order, name, l.line), listed = true;
    if (listed) continue;
    for (const std::string& line : lines_of(op.op->examples)) time_line(isas, order, name, line);
  }
  return 0;
}

}  // namespace
}  // namespace onnxptq::test

int main(int count, char** words) { return onnxptq::test::run(count > 1 ? words[1] : ""); }
