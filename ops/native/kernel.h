// All that a kernel file may see: what an op is, and what it may ask of its host (ONNX Runtime, or the unit test).
//
// Kernel files are compiled once per instruction set. Nothing here or in them may become an external inline function or
// a template with external linkage: the linker keeps one copy, perhaps the AVX-512 one, for everybody. Hence plain
// structs, abstract classes (calls only, no vtable is emitted here) and anonymous namespaces.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace onnxptq {

enum Type : int {
  kAny = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt64 = 7,
  kDouble = 11,
  kUint4 = 21,
  kInt4 = 22
};

constexpr int kMaxRank = 12;

struct Tensor {
  const void* data;  // null: the optional input is absent, or the tensor is empty
  bool present;
  Type type;
  int rank;
  int64_t dims[kMaxRank];
  int64_t count;
};

// nullptr is success; else one sentence about what is wrong, to be returned as it is.
using Error = const char*;

class Messenger {
 public:
  virtual Error fail(const char* format, ...) __attribute__((format(printf, 2, 3))) = 0;

 protected:
  ~Messenger() = default;
};

class Attributes {
 public:
  // False where the node has no attribute of that name and type.
  virtual bool get_int(const char* name, int64_t* value) = 0;

 protected:
  ~Attributes() = default;
};

// What a kernel may ask when it is created.
class Node : public Messenger, public Attributes {
 public:
  virtual bool get_float(const char* name, float* value) = 0;
  virtual bool get_string(const char* name, char* out, size_t capacity) = 0;
  virtual int get_ints(const char* name, int64_t* out, int capacity) = 0;  // how many, or -1
  virtual Tensor constant(size_t index) = 0;  // absent unless it is a constant of the graph
  virtual void* keep(
      size_t bytes) = 0;  // zeroed, 64-byte aligned, lives as long as the kernel; null when out of memory

 protected:
  ~Node() = default;
};

// What a kernel may ask when it runs. Only `scratch` may be used inside `parallel`.
class Call : public Messenger {
 public:
  virtual Tensor input(size_t index) = 0;
  virtual void* output(size_t index, const int64_t* dims, int rank) = 0;  // null for an empty output
  virtual void* temporary(size_t bytes) = 0;                              // 64-byte aligned, until the call ends
  // Runs body(user, i, scratch) for every i < count on the runtime's threads; scratch is this thread's own and 64-byte
  // aligned. False when out of memory.
  virtual bool parallel(int64_t count, size_t scratch, void (*body)(void*, int64_t, void*), void* user) = 0;

 protected:
  ~Call() = default;
};

struct Port {
  const char* name;
  Type type;
  bool optional;
};

constexpr int kMaxInputs = 16;

struct Op {
  const char* domain;
  const char* name;
  Port inputs[kMaxInputs];  // ends at the first without a name
  Port outputs[4];
  Error (*create)(Node&, void** state);
  Error (*run)(const void* state, Call&);
  // Nodes to test, time and fuzz with, one a line: "attribute=value ... | type[dims]~values ... ", see tests/cases.h.
  const char* examples;
  // Only where the first output's type is kAny: what it is. Its shape is then that of the first input.
  Type (*output_type)(Attributes&) = nullptr;
};

struct Family {
  const Op* ops;
  size_t count;
};

#define ONNXPTQ_CAT_(a, b, c) a##_##b##_##c
#define ONNXPTQ_CAT(a, b, c) ONNXPTQ_CAT_(a, b, c)
// Ends every kernel file: the function by which the registry finds its ops.
#define ONNXPTQ_FAMILY(family, ops) \
  extern "C" onnxptq::Family ONNXPTQ_CAT(onnxptq, family, ONNXPTQ_ISA)() { return {ops, sizeof(ops) / sizeof(ops[0])}; }

}  // namespace onnxptq
