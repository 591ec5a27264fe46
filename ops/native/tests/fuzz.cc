#include "fuzz.h"

#include <unistd.h>

#include <csignal>
#include <set>

#include "lines.h"

extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace onnxptq::test {
namespace {

constexpr unsigned kPatience = 60;  // seconds that a node may take
std::string current;                // told if the process dies

void tell() {
  current += "\n";
  if (write(2, current.data(), current.size()) < 0) return;
}

void die(int signal_number) {
  tell();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

template <typename T>
const T& one_of(Random& random, const std::vector<T>& all) {
  return all[std::uniform_int_distribution<size_t>(0, all.size() - 1)(random)];
}

int below(Random& random, int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); }

int64_t some_integer(Random& random) {
  static const std::vector<int64_t> kSome = {
      0,         1,         2,         3,         4,         7,         8,         9,         16,
      64,        -1,        -2,        -100,      255,       256,       32768,     65536,     1 << 20,
      INT32_MAX, INT32_MIN, 1LL << 31, 1LL << 32, 1LL << 40, 1LL << 62, INT64_MAX, INT64_MIN, INT64_MAX - 3};
  return one_of(random, kSome);
}

void change_attribute(Case* node, Random& random) {
  static const std::vector<std::string> kWords = {"",
                                                  "uniform",
                                                  "token",
                                                  "row",
                                                  "dual_region",
                                                  "log_base",
                                                  "table",
                                                  "gelu",
                                                  "relu",
                                                  "none",
                                                  "none ",
                                                  "softmax",
                                                  "Uniform",
                                                  "outlier_retained",
                                                  std::string(3000, 'x'),
                                                  "%s%n%d"};
  static const std::vector<std::string> kNames = {
      "bits",  "x_bits", "w_bits", "w_group",     "K",    "N",        "axis",     "group",         "shape",
      "scale", "heads",  "p_bits", "transpose_b", "pads", "epilogue", "x_scheme", "softmax_scheme"};
  std::string name = one_of(random, kNames);
  if (!node->attributes.empty() && below(random, 8)) {
    auto at = node->attributes.begin();
    std::advance(at, below(random, static_cast<int>(node->attributes.size())));
    name = at->first;
  }
  ort::OpAttribute& a = node->attributes[name];
  switch (below(random, 8)) {
    case 0:
      node->attributes.erase(name);
      return;
    case 1:
      a = {ort::OpAttribute::kFloats, {}, {one_of<float>(random, {0, -1, 0.3f, 1e30f, INFINITY, NAN})}, ""};
      return;
    case 2:
      a = {ort::OpAttribute::kString, {}, {}, one_of(random, kWords)};
      return;
    case 3:
      a = {ort::OpAttribute::kInts, {}, {}, ""};
      for (int n = below(random, 15); n > 0; --n)
        a.ints.push_back(below(random, 2) ? below(random, 9) : some_integer(random));
      return;
    case 4:
      if (a.kind == ort::OpAttribute::kString) {
        a.text = one_of(random, kWords);
        return;
      }
      [[fallthrough]];
    default:
      if (a.ints.empty()) a = {ort::OpAttribute::kInts, {0}, {}, ""};
      int64_t& value = a.ints[static_cast<size_t>(below(random, static_cast<int>(a.ints.size())))];
      const int64_t near =
          static_cast<int64_t>(static_cast<uint64_t>(value) + static_cast<uint64_t>(below(random, 5)) - 2);
      value = below(random, 2) ? some_integer(random) : near;
  }
}

void reshape(Input* input, Random& random) {
  std::vector<int64_t>& dims = input->value.shape.dims;
  const std::vector<int64_t> before = dims;
  const size_t place = static_cast<size_t>(below(random, static_cast<int>(dims.size()) + 1));
  switch (below(random, 7)) {
    case 0:
      dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(place), below(random, 3));
      break;
    case 1:
      dims.clear();
      break;
    case 2:
      dims.assign(static_cast<size_t>(below(random, 15)), 1);
      break;
    case 3:
      if (place < dims.size()) dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(place));
      break;
    case 4:
      if (place < dims.size()) dims[place] = one_of<int64_t>(random, {0, 1, 2, 15, 16, 17, 255, 256, 257, 1000});
      break;
    default:
      if (place < dims.size()) dims[place] += below(random, 3) - 1;
  }
  if (count_of(dims) < 0) dims = before;
}

void change_input(Case* node, const Op& op, Random& random) {
  if (node->inputs.empty()) return;
  const size_t index = static_cast<size_t>(below(random, static_cast<int>(node->inputs.size())));
  Input& input = node->inputs[index];
  static const std::vector<std::string> kKinds = {"normal", "odd",    "unit",  "scale",   "=0",
                                                  "=-1",    "=1e-45", "=3e38", "uint:200"};
  switch (below(random, 6)) {
    case 0:
      input.present = !input.present;
      if (input.present && input.value.shape.type == 0) input.value.shape.type = kFloat;
      break;
    case 1:
      input.constant = !input.constant;
      return;
    case 2:
      if (index < kMaxInputs && op.inputs[index].type != kAny) return;
      input.value.shape.type =
          one_of<int>(random, {kFloat, kUint8, kInt8, kUint16, kInt64, kDouble, kInt4, kUint4, 9, 6});
      break;
    case 3:
      node->inputs.resize(static_cast<size_t>(below(random, static_cast<int>(node->inputs.size()) + 1)));
      return;
    default:
      reshape(&input, random);
  }
  std::string kind = one_of(random, kKinds);
  if (input.value.shape.type != kFloat && kind[0] != '=') kind = "uint:255";
  if (kind[0] == '=' && input.value.shape.type != kFloat && input.value.shape.type != kDouble) kind = "=1";
  fill(&input.value, kind, random);
}

// What the real runtime sees to before it asks the library.
bool fits_schema(const Case& node, const Op& op) {
  size_t ports = 0;
  while (ports < kMaxInputs && op.inputs[ports].name) ++ports;
  if (node.inputs.size() > ports) return false;
  for (size_t i = 0; i < ports; ++i) {
    if (!node.has(i) && !op.inputs[i].optional) return false;
    if (node.has(i) && op.inputs[i].type != kAny && op.inputs[i].type != node.inputs[i].value.shape.type) return false;
  }
  return true;
}

bool is_sentence(const std::string& error, const std::string& name) {
  if (error.find(name) == std::string::npos || error.size() < name.size() + 12 || error.size() > 800) return false;
  for (char c : error)
    if (static_cast<unsigned char>(c) < ' ') return false;
  return error.find("%s") == std::string::npos || error.find("%s%n%d") != std::string::npos;
}

// Tell which node it was if the process dies, or a node takes too long.
void watch() {
  if (__sanitizer_set_death_callback)
    __sanitizer_set_death_callback(tell);
  else
    for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL}) signal(s, die);
  signal(SIGALRM, die);
}

void attempt(const std::string& name, const Registered& op, const Case& node, FuzzResult* result) {
  current = name + " " + show(node);
  alarm(kPatience);
  Session session(op, node.attributes, node.inputs);
  std::vector<Value> outputs;
  // What the model calls a constant arrives at the call as well.
  if (session.error.empty()) session.run(node.inputs, 1, &outputs);
  alarm(0);
  if (session.error.empty()) {
    ++result->ran;
    return;
  }
  ++result->refused;
  const bool of_runtime = session.error.find("an output of this shape") != std::string::npos;
  if (!of_runtime && !is_sentence(session.error, name) && result->bad.size() < 20)
    result->bad.push_back(current + ": " + session.error);
}

// Examples of an op, but for the large ones.
std::vector<std::string> small_lines(const std::string& name, const Registered& op) {
  std::vector<std::string> lines = lines_of(op.op->examples);
  for (const std::string& line : more_lines(name))
    if (line.find("0000") == std::string::npos && line.find("0001") == std::string::npos) lines.push_back(line);
  return lines;
}

void set_zero(std::vector<int64_t>* numbers, const std::set<int64_t>& sizes) {
  for (int64_t& number : *numbers)
    if (sizes.count(number)) number = 0;
}

void refill(Input* input, Random& random) {
  const bool is_float = input->value.shape.type == kFloat || input->value.shape.type == kDouble;
  fill(&input->value, is_float ? "scale" : "uint:1", random);
}

// Whole nodes in which some sizes are zero, with and without the attributes that name them.
std::vector<Case> emptied(const Case& node, Random& random) {
  std::set<int64_t> sizes;
  for (const Input& input : node.inputs) sizes.insert(input.value.shape.dims.begin(), input.value.shape.dims.end());
  std::vector<std::set<int64_t>> chosen;
  for (int64_t a : sizes)
    for (int64_t b : sizes)
      if (a <= b) chosen.push_back({a, b});
  std::vector<Case> nodes;
  for (const std::set<int64_t>& one : chosen) {
    for (bool attributes : {true, false}) {
      Case other = node;
      for (Input& input : other.inputs) {
        if (!input.present) continue;
        set_zero(&input.value.shape.dims, one);
        refill(&input, random);
      }
      if (attributes)
        for (auto& [name, a] : other.attributes)
          if (name.find("bits") == std::string::npos && name != "w_group") set_zero(&a.ints, one);
      nodes.push_back(std::move(other));
    }
  }
  for (size_t i = 0; i < node.inputs.size(); ++i)
    for (size_t axis = 0; axis < node.inputs[i].value.shape.dims.size(); ++axis) {
      nodes.push_back(node);
      nodes.back().inputs[i].value.shape.dims[axis] = 0;
      refill(&nodes.back().inputs[i], random);
    }
  return nodes;
}

}  // namespace

FuzzResult fuzz(const std::map<std::string, Registered>& ops, const std::string& part, int64_t cases, unsigned seed) {
  watch();
  FuzzResult result;
  for (const auto& [name, op] : ops) {
    if (name.find(part) == std::string::npos) continue;
    const std::vector<std::string> lines = small_lines(name, op);
    for (int64_t i = 0; i < cases;) {
      Random random(seed * 1000003u + static_cast<unsigned>(i) +
                    static_cast<unsigned>(result.ran + result.refused) * 7919u);
      Case node = parse(one_of(random, lines), random);
      for (int n = 1 + below(random, 3); n > 0; --n)
        below(random, 2) ? change_attribute(&node, random) : change_input(&node, *op.op, random);
      if (!fits_schema(node, *op.op)) {
        ++seed;
        continue;
      }
      ++i;
      attempt(name, op, node, &result);
    }
  }
  return result;
}

FuzzResult zero_sizes(const std::map<std::string, Registered>& ops, const std::string& part) {
  watch();
  FuzzResult result;
  Random random(1);
  for (const auto& [name, op] : ops) {
    if (name.find(part) == std::string::npos) continue;
    std::set<std::string> done;
    for (const std::string& line : small_lines(name, op))
      for (const Case& node : emptied(parse(line, random), random))
        if (fits_schema(node, *op.op) && done.insert(show(node)).second) attempt(name, op, node, &result);
  }
  return result;
}

}  // namespace onnxptq::test
