// Nodes that are wrong: each must be refused with one sentence, or run; never crash.
#pragma once
#include "cases.h"

namespace onnxptq::test {

struct FuzzResult {
  int64_t refused = 0, ran = 0;
  std::vector<std::string> bad;  // errors that are no sentences
};

// `cases` nodes of each op whose name contains `part`: its examples, changed at random.
FuzzResult fuzz(const std::map<std::string, Registered>& ops, const std::string& part, int64_t cases, unsigned seed);

// The same of nodes without elements: every size of every example, and every two of them, set to zero wherever they
// occur among shapes and attributes, or in one input alone.
FuzzResult zero_sizes(const std::map<std::string, Registered>& ops, const std::string& part);

}  // namespace onnxptq::test
