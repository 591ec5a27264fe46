// The bridge between ONNX Runtime and the kernels: registration, attributes, tensors, threads, errors.
#include <cstdarg>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "ort_abi.h"
#include "registry.h"

#if defined(_WIN32)
#define ONNXPTQ_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNXPTQ_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnxptq {
namespace {

constexpr size_t kAlign = 64;

struct FreeAligned {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t(kAlign)); }
};
using Block = std::unique_ptr<void, FreeAligned>;

Block allocate(size_t bytes) { return Block(::operator new(bytes, std::align_val_t(kAlign), std::nothrow)); }

const ort::Api* api = nullptr;

// This thread's scratch memory; it only grows.
void* scratch(size_t bytes) {
  thread_local Block block;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    block.reset();
    block = allocate(bytes);
    capacity = block ? bytes : 0;
  }
  return block ? block.get() : nullptr;
}

class Message {
 public:
  Error set(const char* format, va_list args) {
    vsnprintf(text_, sizeof(text_), format, args);
    return text_;
  }

 private:
  char text_[512] = "";
};

std::string take_message(ort::Status* status) {
  std::string text = reinterpret_cast<const char* (*)(const ort::Status*)>(api->slot[2])(status);
  ort::ReleaseStatus::call(api, status);
  return text;
}

ort::Status* invalid(const std::string& text) {
  return ort::CreateStatus::call(api, ort::kInvalidArgument, text.c_str());
}

ort::Status* read(const ort::Value* value, Tensor* out) {
  *out = Tensor{};
  if (!value) return nullptr;
  ort::Shape* shape = nullptr;
  if (ort::Status* s = ort::TypeAndShape::call(api, value, &shape)) return s;
  int type = 0;
  size_t rank = 0, count = 0;
  ort::Status* s = ort::ElementType::call(api, shape, &type);
  if (!s) s = ort::DimensionsCount::call(api, shape, &rank);
  if (!s) s = ort::ElementCount::call(api, shape, &count);
  if (!s && rank > kMaxRank)
    s = invalid("a tensor of " + std::to_string(rank) + " dimensions; at most 12 are supported");
  if (!s) s = ort::Dimensions::call(api, shape, out->dims, rank);
  ort::ReleaseShape::call(api, shape);
  void* data = nullptr;
  if (!s) s = ort::TensorData::call(api, const_cast<ort::Value*>(value), &data);
  if (s) return s;
  out->data = count ? data : nullptr;
  out->present = true;
  out->type = static_cast<Type>(type);
  out->rank = static_cast<int>(rank);
  out->count = static_cast<int64_t>(count);
  return nullptr;
}

// One node of one session.
struct Kernel {
  const Op* op;
  std::string name;
  void* state = nullptr;
  std::vector<Block> kept;
};

class OrtNode final : public Node {
 public:
  OrtNode(const ort::KernelInfo* info, Kernel* kernel) : info_(info), kernel_(kernel) {}

  Error fail(const char* format, ...) override {
    va_list args;
    va_start(args, format);
    Error text = message_.set(format, args);
    va_end(args);
    return text;
  }
  bool get_int(const char* name, int64_t* value) override {
    return found(name, ort::AttributeInt::call(api, info_, name, value));
  }
  bool get_float(const char* name, float* value) override {
    return found(name, ort::AttributeFloat::call(api, info_, name, value));
  }
  bool get_string(const char* name, char* out, size_t capacity) override {
    size_t size = 0;
    if (!found(name, ort::AttributeString::call(api, info_, name, nullptr, &size))) return false;
    std::string text(size, '\0');
    if (!found(name, ort::AttributeString::call(api, info_, name, text.data(), &size))) return false;
    snprintf(out, capacity, "%s", text.c_str());
    return true;
  }
  int get_ints(const char* name, int64_t* out, int capacity) override {
    size_t size = 0;
    if (!found(name, ort::AttributeInts::call(api, info_, name, nullptr, &size))) return -1;
    std::vector<int64_t> values(size);
    if (size && !found(name, ort::AttributeInts::call(api, info_, name, values.data(), &size))) return -1;
    for (size_t i = 0; i < size && i < static_cast<size_t>(capacity); ++i) out[i] = values[i];
    return static_cast<int>(size);
  }
  Tensor constant(size_t index) override {
    Tensor out{};
    size_t count = 0;
    if (ort::Status* s = ort::InfoInputCount::call(api, info_, &count)) take_message(s), count = 0;
    if (index >= count) return out;
    int is_constant = 0;
    const ort::Value* value = nullptr;
    ort::Status* s = ort::ConstantInput::call(api, info_, index, &is_constant, &value);
    if (!s && is_constant && value) s = read(value, &out);
    if (s) take_message(s), out = Tensor{};
    return out;
  }
  void* keep(size_t bytes) override {
    Block block = allocate(bytes ? bytes : 1);
    if (!block) return nullptr;
    memset(block.get(), 0, bytes);
    kernel_->kept.push_back(std::move(block));
    return kernel_->kept.back().get();
  }
  const std::string& wrong() const { return wrong_; }

 private:
  bool found(const char* name, ort::Status* status) {
    if (!status) return true;
    // The runtime has one error code for "no such attribute" and "of another type"; only the text tells.
    if (take_message(status).find("type") != std::string::npos)
      wrong_ = std::string("attribute ") + name + " has the wrong type";
    return false;
  }

  const ort::KernelInfo* info_;
  Kernel* kernel_;
  Message message_;
  std::string wrong_;
};

class OrtCall final : public Call {
 public:
  explicit OrtCall(ort::KernelContext* context) : context_(context) {}
  ~OrtCall() {
    for (void* p : temporaries_)
      if (ort::Status* s = ort::Free::call(api, allocator_, p)) ort::ReleaseStatus::call(api, s);
    // It shares the session's arena, and would keep all its memory when the session is gone.
    if (allocator_) ort::ReleaseAllocator::call(api, allocator_);
    if (memory_) ort::ReleaseMemoryInfo::call(api, memory_);
  }
  ort::Status* read_inputs() {
    size_t count = 0;
    if (ort::Status* s = ort::InputCount::call(api, context_, &count)) return s;
    for (size_t i = 0; i < count && i < kMaxInputs; ++i) {
      const ort::Value* value = nullptr;
      if (ort::Status* s = ort::Input::call(api, context_, i, &value)) return s;
      if (ort::Status* s = read(value, &inputs_[i])) return s;
    }
    return nullptr;
  }

  Error fail(const char* format, ...) override {
    va_list args;
    va_start(args, format);
    Error text = message_.set(format, args);
    va_end(args);
    return text;
  }
  Tensor input(size_t index) override { return inputs_[index]; }
  void* output(size_t index, const int64_t* dims, int rank) override {
    ort::Value* value = nullptr;
    ort::Status* s = ort::Output::call(api, context_, index, dims, static_cast<size_t>(rank), &value);
    void* data = nullptr;
    if (!s && value) s = ort::TensorData::call(api, value, &data);
    if (s && !status_)
      status_ = s;
    else if (s)
      ort::ReleaseStatus::call(api, s);
    return data;
  }
  void* temporary(size_t bytes) override {
    ort::Status* s = nullptr;
    if (!allocator_) {
      s = ort::CpuMemoryInfo::call(api, 0, 0, &memory_);
      if (!s) s = ort::ContextAllocator::call(api, context_, memory_, &allocator_);
    }
    void* data = nullptr;
    if (!s) s = ort::Alloc::call(api, allocator_, bytes + kAlign, &data);
    if (s) {
      ort::ReleaseStatus::call(api, s);
      return nullptr;
    }
    temporaries_.push_back(data);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(data) + kAlign - 1) / kAlign * kAlign);
  }
  bool parallel(int64_t count, size_t bytes, void (*body)(void*, int64_t, void*), void* user) override {
    struct Work {
      void (*body)(void*, int64_t, void*);
      void* user;
      size_t bytes;
      bool failed;
    } work{body, user, bytes, false};
    auto step = [](void* p, size_t i) {
      Work* w = static_cast<Work*>(p);
      void* memory = w->bytes ? scratch(w->bytes) : nullptr;
      if (w->bytes && !memory)
        __atomic_store_n(&w->failed, true, __ATOMIC_RELAXED);
      else
        w->body(w->user, static_cast<int64_t>(i), memory);
    };
    if (count == 1) {
      step(&work, 0);
    } else if (count > 1) {
      ort::Status* s = ort::ParallelFor::call(api, context_, step, static_cast<size_t>(count), 0, &work);
      if (s) ort::ReleaseStatus::call(api, s), work.failed = true;
    }
    return !work.failed;
  }
  ort::Status* take_status() {
    ort::Status* s = status_;
    status_ = nullptr;
    return s;
  }

 private:
  ort::KernelContext* context_;
  Tensor inputs_[kMaxInputs] = {};
  Message message_;
  ort::MemoryInfo* memory_ = nullptr;
  ort::Allocator* allocator_ = nullptr;
  std::vector<void*> temporaries_;
  ort::Status* status_ = nullptr;
};

// An op as the runtime sees it.
struct Bound : ort::CustomOp {
  const Op* op;
  size_t inputs, outputs;
};

const Bound* bound(const ort::CustomOp* op) { return static_cast<const Bound*>(op); }

std::string where(const Kernel& kernel) {
  return std::string(kernel.op->domain) + "." + kernel.op->name +
         (kernel.name.empty() ? "" : " '" + kernel.name + "'") + ": ";
}

ort::Status* create_kernel(const ort::CustomOp* op, const ort::Api*, const ort::KernelInfo* info, void** out) {
  *out = nullptr;
  try {
    auto kernel = std::make_unique<Kernel>();
    kernel->op = bound(op)->op;
    size_t size = 0;
    if (ort::Status* s = ort::NodeName::call(api, info, nullptr, &size)) {
      ort::ReleaseStatus::call(api, s);
    } else if (size > 1) {
      kernel->name.resize(size);
      if (ort::Status* t = ort::NodeName::call(api, info, kernel->name.data(), &size)) ort::ReleaseStatus::call(api, t);
      kernel->name.resize(strlen(kernel->name.c_str()));
    }
    OrtNode node(info, kernel.get());
    Error error = kernel->op->create(node, &kernel->state);
    if (!node.wrong().empty()) return invalid(where(*kernel) + node.wrong());
    if (error) return invalid(where(*kernel) + error);
    *out = kernel.release();
    return nullptr;
  } catch (const std::exception& e) {
    return ort::CreateStatus::call(api, ort::kFail, e.what());
  }
}

ort::Status* run_kernel(void* state, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(state);
  try {
    OrtCall call(context);
    if (ort::Status* s = call.read_inputs()) return invalid(where(kernel) + take_message(s));
    Error error = kernel.op->run(kernel.state, call);
    if (ort::Status* s = call.take_status()) return s;
    return error ? invalid(where(kernel) + error) : nullptr;
  } catch (const std::exception& e) {
    return ort::CreateStatus::call(api, ort::kFail, e.what());
  }
}

class InferAttributes final : public Attributes {
 public:
  explicit InferAttributes(const ort::InferContext* context) : context_(context) {}
  bool get_int(const char* name, int64_t* value) override {
    constexpr int kInt = 1;
    const ort::OpAttribute* attribute = nullptr;
    size_t size = 0;
    ort::Status* s = ort::InferAttribute::call(api, context_, name, &attribute);
    if (!s && attribute) s = ort::ReadAttribute::call(api, attribute, kInt, value, sizeof(*value), &size);
    if (s) ort::ReleaseStatus::call(api, s);
    return !s && attribute;
  }

 private:
  const ort::InferContext* context_;
};

ort::Status* infer_shapes(const ort::CustomOp* op, ort::InferContext* context) {
  ort::Shape *input = nullptr, *output = nullptr;
  InferAttributes attributes(context);
  size_t rank = 0;
  std::vector<int64_t> dims;
  ort::Status* s = ort::InferInput::call(api, context, 0, &input);
  if (!s) s = ort::DimensionsCount::call(api, input, &rank);
  if (!s) dims.resize(rank), s = ort::Dimensions::call(api, input, dims.data(), rank);
  if (!s) s = ort::CreateShape::call(api, &output);
  if (!s) s = ort::SetElementType::call(api, output, bound(op)->op->output_type(attributes));
  if (!s) s = ort::SetDimensions::call(api, output, dims.data(), rank);
  if (!s) s = ort::InferSetOutput::call(api, context, 0, output);
  if (output) ort::ReleaseShape::call(api, output);
  return s;
}

Bound bind(const Op* op) {
  Bound b{};
  b.op = op;
  while (b.inputs < kMaxInputs && op->inputs[b.inputs].name) ++b.inputs;
  while (b.outputs < 4 && op->outputs[b.outputs].name) ++b.outputs;
  b.version = ort::kVersion;
  b.name = [](const ort::CustomOp* o) { return bound(o)->op->name; };
  b.execution_provider = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  b.input_type = [](const ort::CustomOp* o, size_t i) -> int { return bound(o)->op->inputs[i].type; };
  b.input_count = [](const ort::CustomOp* o) { return bound(o)->inputs; };
  b.output_type = [](const ort::CustomOp* o, size_t i) -> int { return bound(o)->op->outputs[i].type; };
  b.output_count = [](const ort::CustomOp* o) { return bound(o)->outputs; };
  b.destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  b.input_characteristic = [](const ort::CustomOp* o, size_t i) -> int { return bound(o)->op->inputs[i].optional; };
  b.output_characteristic = [](const ort::CustomOp*, size_t) { return 0; };
  b.input_memory_type = [](const ort::CustomOp*, size_t) { return 0; };
  b.variadic_input_min = [](const ort::CustomOp*) { return 0; };
  b.variadic_input_homogeneous = [](const ort::CustomOp*) { return 0; };
  b.variadic_output_min = [](const ort::CustomOp*) { return 0; };
  b.variadic_output_homogeneous = [](const ort::CustomOp*) { return 0; };
  b.create_kernel_v2 = create_kernel;
  b.compute_v2 = run_kernel;
  if (op->output_type) b.infer_shapes = infer_shapes;
  b.start_version = [](const ort::CustomOp*) { return 1; };
  b.end_version = [](const ort::CustomOp*) { return 1; };
  return b;
}

// The domains of one instruction set; they must outlive every session that uses them.
struct Library {
  std::deque<Bound> ops;
  std::map<std::string, ort::Domain*> domains;

  ort::Status* build(const char* isa) {
    size_t count = 0;
    const Kernels* kernels = all_kernels(&count);
    for (size_t i = 0; i < count; ++i) {
      if (strcmp(kernels[i].isa, isa)) continue;
      Family family = kernels[i].ops();
      for (size_t j = 0; j < family.count; ++j) {
        ort::Domain*& domain = domains[family.ops[j].domain];
        if (!domain)
          if (ort::Status* s = ort::CreateDomain::call(api, family.ops[j].domain, &domain)) return s;
        ops.push_back(bind(&family.ops[j]));
        if (ort::Status* s = ort::DomainAdd::call(api, domain, &ops.back())) return s;
      }
    }
    return nullptr;
  }
  ~Library() {
    for (auto& [name, domain] : domains)
      if (domain) ort::ReleaseDomain::call(api, domain);
  }
};

std::string known_isas() {
  std::string names;
  for (size_t i = 0; isa_name(i); ++i) names += (i ? ", " : "") + std::string(isa_name(i));
  return names;
}

}  // namespace
}  // namespace onnxptq

// Name of the instruction set that a session registered now would use; null if $ONNXPTQ_ISA is no known name.
ONNXPTQ_EXPORT const char* onnxptq_isa() { return onnxptq::best_isa(getenv("ONNXPTQ_ISA")); }

// Name of the index-th compiled instruction set, worst first; null past the end. `usable` tells whether this CPU has
// it.
ONNXPTQ_EXPORT const char* onnxptq_isa_name(size_t index, int* usable) {
  const char* name = onnxptq::isa_name(index);
  if (usable) *usable = name && onnxptq::cpu_has(name);
  return name;
}

ONNXPTQ_EXPORT onnxptq::ort::Status* RegisterCustomOps(onnxptq::ort::SessionOptions* options,
                                                       const onnxptq::ort::ApiBase* base) {
  using namespace onnxptq;
  static std::mutex mutex;
  static std::map<std::string, Library> libraries;
  std::lock_guard<std::mutex> lock(mutex);
  if (!api) api = base->get_api(ort::kVersion);
  if (!api) {
    const ort::Api* oldest = base->get_api(1);
    return oldest ? ort::CreateStatus::call(oldest, ort::kFail, "onnxptq needs ONNX Runtime 1.17 or later") : nullptr;
  }
  try {
    const char* cap = getenv("ONNXPTQ_ISA");
    const char* isa = best_isa(cap);
    if (!isa) return invalid(std::string("ONNXPTQ_ISA=") + cap + " is not one of " + known_isas());
    auto [place, is_new] = libraries.try_emplace(isa);
    if (is_new) {
      if (ort::Status* s = place->second.build(isa)) {
        libraries.erase(place);
        return s;
      }
    }
    for (auto& [name, domain] : place->second.domains)
      if (ort::Status* s = ort::AddDomain::call(api, options, domain)) return s;
    return nullptr;
  } catch (const std::exception& e) {
    return ort::CreateStatus::call(api, ort::kFail, e.what());
  }
}
