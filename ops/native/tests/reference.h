// What every op must give, written for reading: scalar loops, products in double.
#pragma once
#include "cases.h"

namespace onnxptq::test {

enum class Agreement {
  kExact,    // bit for bit
  kProduct,  // within 1e-5 of the greatest value
  kSum,      // of doubles: 1e-12
  kSoftmax   // two softmaxes differ in the last bit and a code may flip: 60 dB, 99 % within 1e-5 of the greatest
};

struct Expected {
  std::vector<Value> outputs;
  Agreement agreement = Agreement::kExact;
  double least = 0;  // that counts as the greatest value: GELU's far tail and a product beside its bias may be
                     // differences of nearly equal numbers
};

// False where the op is not known here.
bool reference(const std::string& op, const Case& node, Expected* expected);

// An empty text, or how the results differ.
std::string difference(const Expected& expected, const std::vector<Value>& outputs);

}  // namespace onnxptq::test
