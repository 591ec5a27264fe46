// More nodes than the examples of an op: every width, scheme and epilogue, ragged shapes, empty tensors, odd values.
#pragma once
#include <string>
#include <vector>

namespace onnxptq::test {

std::vector<std::string> more_lines(const std::string& op);

}  // namespace onnxptq::test
