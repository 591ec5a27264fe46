// The part of ONNX Runtime's C ABI that this library uses. The API is a table of functions that only grows at its end,
// so a slot number is a stable fact; asking for version 17 works with every runtime since 1.17.
#pragma once
#include <cstddef>
#include <cstdint>

namespace onnxptq::ort {

constexpr uint32_t kVersion = 17;

struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct Shape;
struct Allocator;
struct MemoryInfo;
struct InferContext;
struct OpAttribute;

struct Api {
  void* slot[512];
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// One slot of the table with its signature: `Slot<86, const KernelInfo*, const char*, int64_t*>::call(api, ...)`.
template <int index, typename... Args>
struct Slot {
  static Status* call(const Api* api, Args... args) {
    return reinterpret_cast<Status* (*)(Args...)>(api->slot[index])(args...);
  }
};
template <int index, typename... Args>
struct VoidSlot {
  static void call(const Api* api, Args... args) { reinterpret_cast<void (*)(Args...)>(api->slot[index])(args...); }
};

using CreateStatus = Slot<0, int, const char*>;
using ReleaseStatus = VoidSlot<93, Status*>;
using CreateDomain = Slot<26, const char*, Domain**>;
using DomainAdd = Slot<27, Domain*, const struct CustomOp*>;
using AddDomain = Slot<28, SessionOptions*, Domain*>;
using ReleaseDomain = VoidSlot<101, Domain*>;
using AttributeFloat = Slot<85, const KernelInfo*, const char*, float*>;
using AttributeInt = Slot<86, const KernelInfo*, const char*, int64_t*>;
using AttributeString = Slot<87, const KernelInfo*, const char*, char*, size_t*>;
using AttributeInts = Slot<163, const KernelInfo*, const char*, int64_t*, size_t*>;
using InfoInputCount = Slot<230, const KernelInfo*, size_t*>;
using NodeName = Slot<244, const KernelInfo*, char*, size_t*>;
using ConstantInput = Slot<249, const KernelInfo*, size_t, int*, const Value**>;
using InputCount = Slot<88, const KernelContext*, size_t*>;
using Input = Slot<90, const KernelContext*, size_t, const Value**>;
using Output = Slot<91, KernelContext*, size_t, const int64_t*, size_t, Value**>;
using ContextAllocator = Slot<253, const KernelContext*, const MemoryInfo*, Allocator**>;
using ParallelFor = Slot<274, const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*>;
using TypeAndShape = Slot<65, const Value*, Shape**>;
using ElementType = Slot<60, const Shape*, int*>;
using DimensionsCount = Slot<61, const Shape*, size_t*>;
using Dimensions = Slot<62, const Shape*, int64_t*, size_t>;
using ElementCount = Slot<64, const Shape*, size_t*>;
using ReleaseShape = VoidSlot<99, Shape*>;
using TensorData = Slot<51, Value*, void**>;
using CpuMemoryInfo = Slot<69, int, int, MemoryInfo**>;
using ReleaseMemoryInfo = VoidSlot<94, MemoryInfo*>;
using Alloc = Slot<75, Allocator*, size_t, void**>;
using Free = Slot<76, Allocator*, void*>;
using ReleaseAllocator = VoidSlot<132, Allocator*>;

using InferInput = Slot<268, const InferContext*, size_t, Shape**>;
using InferAttribute = Slot<269, const InferContext*, const char*, const OpAttribute**>;
using InferSetOutput = Slot<270, const InferContext*, size_t, const Shape*>;
using ReadAttribute = Slot<272, const OpAttribute*, int, void*, size_t, size_t*>;
using CreateShape = Slot<57, Shape**>;
using SetElementType = Slot<58, Shape*, int>;
using SetDimensions = Slot<59, Shape*, const int64_t*, size_t>;

enum Code { kFail = 1, kInvalidArgument = 2 };

// What the runtime calls for one op type; 176 bytes on 64-bit systems. Old entry points stay null.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy_kernel)(void*);
  int (*input_characteristic)(const CustomOp*, size_t);
  int (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory_type)(const CustomOp*, size_t);
  int (*variadic_input_min)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_min)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_shapes)(const CustomOp*, InferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 176, "the runtime reads this struct by offset");

}  // namespace onnxptq::ort
