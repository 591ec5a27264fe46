// Nodes written as one line: "attribute=value ... | type[dims]~values ...", the values being one of
//   normal, odd (with NaN, infinities, denormals, ties), unit (0 to 1), scale (0.01 to 0.1), uint:N (0..N),
//   int:N (-N-1..N), levels (ascending, 0..127), ascending (from 0.05 up; int8: distinct), centred (ascending
//   around 0), descending (by constant factors), table (descending, but zero at the end), =NUMBER (all the same);
//   "-" stands for an absent input and "type[dims]!~values" for a constant of the graph.
#pragma once
#include <random>

#include "runtime.h"

namespace onnxptq::test {

using Random = std::mt19937;

struct Case {
  Attributes attributes;
  std::vector<Input> inputs;

  int64_t integer(const char* name, int64_t otherwise = 0) const;
  float number(const char* name, float otherwise) const;
  std::string text(const char* name, const char* otherwise) const;
  std::vector<int64_t> integers(const char* name) const;
  bool has(size_t input) const { return input < inputs.size() && inputs[input].present; }
};

Case parse(const std::string& line, Random& random);

// The node again, as a line, but for its values.
std::string show(const Case& node);

std::vector<std::string> lines_of(const char* examples);

// Fills a tensor of known type and shape.
void fill(Value* value, const std::string& kind, Random& random);

}  // namespace onnxptq::test
