#include "cases.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

namespace onnxptq::test {
namespace {

const struct {
  const char* name;
  int type;
} kTypes[] = {{"float", kFloat},   {"uint8", kUint8}, {"int8", kInt8}, {"uint16", kUint16}, {"int64", kInt64},
              {"double", kDouble}, {"uint4", kUint4}, {"int4", kInt4}, {"int32", 6},        {"bool", 9}};

template <typename T>
void put(Value* value, const std::vector<double>& numbers) {
  T* to = reinterpret_cast<T*>(value->bytes.data());
  for (size_t i = 0; i < numbers.size(); ++i) to[i] = static_cast<T>(numbers[i]);
}

}  // namespace

int64_t Case::integer(const char* name, int64_t otherwise) const {
  auto a = attributes.find(name);
  return a == attributes.end() ? otherwise : a->second.ints.at(0);
}
float Case::number(const char* name, float otherwise) const {
  auto a = attributes.find(name);
  return a == attributes.end() ? otherwise : a->second.floats.at(0);
}
std::string Case::text(const char* name, const char* otherwise) const {
  auto a = attributes.find(name);
  return a == attributes.end() ? otherwise : a->second.text;
}
std::vector<int64_t> Case::integers(const char* name) const {
  auto a = attributes.find(name);
  return a == attributes.end() ? std::vector<int64_t>() : a->second.ints;
}

void fill(Value* value, const std::string& kind, Random& random) {
  const int type = value->shape.type;
  const size_t n = static_cast<size_t>(count_of(value->shape.dims));
  value->bytes = std::vector<char>(bytes_of(type, static_cast<int64_t>(n)));
  std::vector<double> v(n);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> unit;
  auto whole = [&](int64_t low, int64_t high) {
    return static_cast<double>(std::uniform_int_distribution<int64_t>(low, high)(random));
  };
  const size_t colon = kind.find(':');
  const int64_t most = colon == std::string::npos ? 0 : std::stoll(kind.substr(colon + 1));
  if (kind[0] == '=') {
    std::fill(v.begin(), v.end(), std::stod(kind.substr(1)));
  } else if (kind == "normal" || kind == "odd") {
    static const double kOdd[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 0.5, 1.5, -2.5};
    for (double& d : v)
      d = kind == "odd" && whole(0, 9) == 0 ? kOdd[static_cast<size_t>(whole(0, 11))] : normal(random);
  } else if (kind == "unit") {
    for (double& d : v) d = std::pow(unit(random), 3);
  } else if (kind == "scale") {
    for (double& d : v) d = 0.01 + 0.09 * unit(random);
  } else if (kind.substr(0, 4) == "uint") {
    for (double& d : v) d = whole(0, most);
  } else if (kind.substr(0, 3) == "int") {
    for (double& d : v) d = whole(-most - 1, most);
  } else if (kind == "ascending" && type == kInt8) {
    std::set<double> distinct;
    while (distinct.size() < std::min<size_t>(n, 256)) distinct.insert(whole(-128, 127));
    std::copy_n(distinct.begin(), std::min<size_t>(n, 256), v.begin());
  } else if (kind == "levels") {
    for (double& d : v) d = whole(0, 127);
    std::sort(v.begin(), v.end());
  } else if (kind == "ascending") {
    double at = 0;
    for (double& d : v) d = at += 0.05 + 0.1 * unit(random);
  } else if (kind == "centred") {
    for (double& d : v) d = normal(random);
    std::sort(v.begin(), v.end());
  } else if (kind == "descending" || kind == "table") {
    const double shift = unit(random);
    for (size_t i = 0; i < n; ++i) v[i] = std::exp2(-(static_cast<double>(i) + shift) / 2);
    if (kind == "table" && n) v[n - 1] = 0;
  } else {
    fprintf(stderr, "no values are called %s\n", kind.c_str());
    exit(1);
  }
  switch (type) {
    case kFloat:
      return put<float>(value, v);
    case kUint8:
    case 9:
      return put<uint8_t>(value, v);
    case kInt8:
      return put<int8_t>(value, v);
    case kUint16:
      return put<uint16_t>(value, v);
    case kInt64:
      return put<int64_t>(value, v);
    case kDouble:
      return put<double>(value, v);
    case kInt4:
    case kUint4:
      for (size_t i = 0; i < n; ++i)
        value->bytes[i / 2] = static_cast<char>(value->bytes[i / 2] | (static_cast<int>(v[i]) & 15) << i % 2 * 4);
      return;
    default:
      return put<int32_t>(value, v);
  }
}

Case parse(const std::string& line, Random& random) {
  Case node;
  std::istringstream words(line);
  std::string word;
  bool inputs = false;
  while (words >> word) {
    if (word == "|") {
      inputs = true;
    } else if (!inputs) {
      const size_t at = word.find('=');
      const std::string text = word.substr(at + 1);
      ort::OpAttribute a;
      if (text.find_first_not_of("-0123456789,") == std::string::npos) {
        std::istringstream numbers(text);
        for (std::string number; std::getline(numbers, number, ',');) a.ints.push_back(std::stoll(number));
      } else if (text.find_first_not_of("-+.e0123456789") == std::string::npos) {
        a.kind = ort::OpAttribute::kFloats;
        a.floats.push_back(std::stof(text));
      } else {
        a.kind = ort::OpAttribute::kString;
        a.text = text;
      }
      node.attributes[word.substr(0, at)] = a;
    } else {
      Input input;
      input.present = word != "-";
      if (input.present) {
        const size_t open = word.find('['), close = word.find(']');
        for (const auto& t : kTypes)
          if (word.substr(0, open) == t.name) input.value.shape.type = t.type;
        std::istringstream dims(word.substr(open + 1, close - open - 1));
        for (std::string d; std::getline(dims, d, ',');) input.value.shape.dims.push_back(std::stoll(d));
        size_t from = close + 1;
        if (word[from] == '!') input.constant = true, ++from;
        if (word[from] == '~') ++from;
        fill(&input.value, word.substr(from), random);
      }
      node.inputs.push_back(std::move(input));
    }
  }
  return node;
}

std::string show(const Case& node) {
  std::ostringstream out;
  for (const auto& [name, a] : node.attributes) {
    out << name << "=" << a.text;
    for (size_t i = 0; i < a.ints.size(); ++i) out << (i ? "," : "") << a.ints[i];
    for (size_t i = 0; i < a.floats.size(); ++i) out << (i ? "," : "") << a.floats[i];
    out << " ";
  }
  out << "|";
  for (const Input& input : node.inputs) {
    out << " ";
    if (!input.present) out << "-";
    if (!input.present) continue;
    std::string name = std::to_string(input.value.shape.type);
    for (const auto& t : kTypes)
      if (input.value.shape.type == t.type) name = t.name;
    out << name << "[";
    for (size_t i = 0; i < input.value.shape.dims.size(); ++i) out << (i ? "," : "") << input.value.shape.dims[i];
    out << "]" << (input.constant ? "!" : "");
  }
  return out.str();
}

std::vector<std::string> lines_of(const char* examples) {
  std::vector<std::string> lines;
  std::istringstream all(examples ? examples : "");
  for (std::string line; std::getline(all, line);)
    if (!line.empty()) lines.push_back(line);
  return lines;
}

}  // namespace onnxptq::test
