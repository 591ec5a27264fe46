// A runtime small enough for a unit test: the slots of ONNX Runtime's C ABI that the library uses, over plain structs.
// The library is registered into it as into the real one, so its host is tested too, and under sanitizers.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "../ort_abi.h"
#include "../registry.h"

namespace onnxptq::ort {

struct Shape {
  int type = 0;
  std::vector<int64_t> dims;
};

// A tensor. Its bytes are on the heap and no more than it needs: a sanitizer sees every step beyond them.
struct Value {
  Shape shape;
  std::vector<char> bytes;
};

struct OpAttribute {
  enum Kind { kInts, kFloats, kString } kind = kInts;
  std::vector<int64_t> ints;
  std::vector<float> floats;
  std::string text;
};

}  // namespace onnxptq::ort

namespace onnxptq::test {

using ort::Value;
using Attributes = std::map<std::string, ort::OpAttribute>;

struct Input {
  bool present = false, constant = false;
  Value value;
};

// Of a tensor of this type; -1 where they are more than a test may ask for, or a dimension is negative.
int64_t count_of(const std::vector<int64_t>& dims);
size_t bytes_of(int type, int64_t count);

// "op name" of both sides and the table's own description of it.
struct Registered {
  const ort::CustomOp* custom;
  const Op* op;
};

// Every op of one instruction set, by "domain.name", as RegisterCustomOps hands it over.
std::map<std::string, Registered> load(const std::string& isa);

// A node whose kernel was created and may be run; `error` is what the library said.
class Session {
 public:
  Session(const Registered& op, const Attributes& attributes, const std::vector<Input>& inputs);
  ~Session();
  Session(const Session&) = delete;
  bool run(const std::vector<Input>& inputs, int threads, std::vector<Value>* outputs);
  std::string error;

 private:
  const Registered op_;
  const Attributes& attributes_;
  void* kernel_ = nullptr;
};

}  // namespace onnxptq::test
