#include "runtime.h"

#include <atomic>
#include <cstdlib>
#include <thread>

extern "C" onnxptq::ort::Status* RegisterCustomOps(onnxptq::ort::SessionOptions*, const onnxptq::ort::ApiBase*);

namespace onnxptq::ort {

struct Status {
  int code;
  std::string text;
};
struct Domain {
  std::string name;
  std::vector<const CustomOp*> ops;
};
struct SessionOptions {
  std::vector<Domain*> domains;
};
struct KernelInfo {
  const test::Attributes* attributes;
  const std::vector<test::Input>* inputs;
};
struct KernelContext {
  const std::vector<test::Input>* inputs;
  std::vector<Value>* outputs;
  int threads;
};
struct InferContext {
  const test::Attributes* attributes;
  Shape input, output;
};
struct Allocator {};
struct MemoryInfo {};

}  // namespace onnxptq::ort

namespace onnxptq::test {

constexpr int64_t kMostElements = 1 << 22;  // of a test's tensor: a greater one is "out of memory"

int64_t count_of(const std::vector<int64_t>& dims) {
  int64_t count = 1;
  bool empty = false;
  for (int64_t d : dims) {
    if (d < 0) return -1;
    empty |= d == 0;
  }
  if (empty) return 0;
  for (int64_t d : dims) {
    if (d > kMostElements / count) return -1;
    count *= d;
  }
  return count;
}

size_t bytes_of(int type, int64_t count) {
  const size_t n = static_cast<size_t>(count);
  switch (type) {
    case kInt4:
    case kUint4:
      return (n + 1) / 2;
    case kUint8:
    case kInt8:
    case 9:
      return n;
    case kUint16:
    case 5:
    case 10:
      return 2 * n;
    case kInt64:
    case kDouble:
      return 8 * n;
    default:
      return 4 * n;
  }
}

namespace {

using ort::Status;

Status* failure(const std::string& text) { return new Status{ort::kFail, text}; }

Status* attribute(const Attributes& all, const char* name, ort::OpAttribute::Kind kind, size_t exactly,
                  const ort::OpAttribute** out) {
  auto found = all.find(name);
  if (found == all.end()) return failure("No attribute with this name is defined.");
  const ort::OpAttribute& a = found->second;
  if (a.kind != kind || (exactly && (a.ints.size() + a.floats.size()) != exactly))
    return failure("Attribute is expected to have another type.");
  *out = &a;
  return nullptr;
}

Status* write_text(const std::string& text, char* out, size_t* size) {
  if (out && *size < text.size() + 1) return failure("Result buffer is not large enough");
  *size = text.size() + 1;
  if (out) memcpy(out, text.c_str(), text.size() + 1);
  return nullptr;
}

void parallel_for(size_t total, void (*body)(void*, size_t), void* user, int threads) {
  std::atomic<size_t> next{0};
  auto work = [&] {
    // Last first: nothing may depend on the order.
    for (size_t i; (i = next++) < total;) body(user, total - 1 - i);
  };
  if (threads < 2) {
    for (size_t i = 0; i < total; ++i) body(user, i);
    return;
  }
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
}

ort::Api make_api() {
  ort::Api api{};
  auto set = [&](int slot, auto function) { api.slot[slot] = reinterpret_cast<void*>(+function); };
  set(0, [](int code, const char* text) { return new Status{code, text}; });
  set(2, [](const Status* s) { return s->text.c_str(); });
  set(93, [](Status* s) { delete s; });
  set(26, [](const char* name, ort::Domain** out) -> Status* {
    *out = new ort::Domain{name, {}};
    return nullptr;
  });
  set(27, [](ort::Domain* domain, const ort::CustomOp* op) -> Status* {
    domain->ops.push_back(op);
    return nullptr;
  });
  set(28, [](ort::SessionOptions* options, ort::Domain* domain) -> Status* {
    options->domains.push_back(domain);
    return nullptr;
  });
  set(101, [](ort::Domain* domain) { delete domain; });
  set(85, [](const ort::KernelInfo* info, const char* name, float* out) -> Status* {
    const ort::OpAttribute* a;
    Status* s = attribute(*info->attributes, name, ort::OpAttribute::kFloats, 1, &a);
    if (!s) *out = a->floats[0];
    return s;
  });
  set(86, [](const ort::KernelInfo* info, const char* name, int64_t* out) -> Status* {
    const ort::OpAttribute* a;
    Status* s = attribute(*info->attributes, name, ort::OpAttribute::kInts, 1, &a);
    if (!s) *out = a->ints[0];
    return s;
  });
  set(87, [](const ort::KernelInfo* info, const char* name, char* out, size_t* size) -> Status* {
    const ort::OpAttribute* a;
    Status* s = attribute(*info->attributes, name, ort::OpAttribute::kString, 0, &a);
    return s ? s : write_text(a->text, out, size);
  });
  set(163, [](const ort::KernelInfo* info, const char* name, int64_t* out, size_t* size) -> Status* {
    const ort::OpAttribute* a;
    Status* s = attribute(*info->attributes, name, ort::OpAttribute::kInts, 0, &a);
    if (s) return s;
    if (out && *size < a->ints.size()) return failure("Result buffer is not large enough");
    *size = a->ints.size();
    if (out) std::copy(a->ints.begin(), a->ints.end(), out);
    return nullptr;
  });
  set(230, [](const ort::KernelInfo* info, size_t* out) -> Status* {
    *out = info->inputs->size();
    return nullptr;
  });
  set(244, [](const ort::KernelInfo*, char* out, size_t* size) { return write_text("node", out, size); });
  set(249, [](const ort::KernelInfo* info, size_t index, int* constant, const Value** out) -> Status* {
    const Input& input = info->inputs->at(index);
    *constant = input.present && input.constant;
    *out = *constant ? &input.value : nullptr;
    return nullptr;
  });
  set(88, [](const ort::KernelContext* context, size_t* out) -> Status* {
    *out = context->inputs->size();
    return nullptr;
  });
  set(90, [](const ort::KernelContext* context, size_t index, const Value** out) -> Status* {
    const Input& input = context->inputs->at(index);
    *out = input.present ? &input.value : nullptr;
    return nullptr;
  });
  set(91, [](ort::KernelContext* context, size_t index, const int64_t* dims, size_t rank, Value** out) -> Status* {
    Value& value = context->outputs->at(index);
    value.shape.dims.assign(dims, dims + rank);
    const int64_t count = count_of(value.shape.dims);
    if (count < 0) return failure("an output of this shape cannot be made");
    value.bytes.assign(bytes_of(value.shape.type, count), '\x55');
    value.bytes.shrink_to_fit();
    *out = &value;
    return nullptr;
  });
  set(253, [](const ort::KernelContext*, const ort::MemoryInfo*, ort::Allocator** out) -> Status* {
    *out = new ort::Allocator;
    return nullptr;
  });
  set(274,
      [](const ort::KernelContext* context, void (*body)(void*, size_t), size_t total, size_t, void* user) -> Status* {
        parallel_for(total, body, user, context->threads);
        return nullptr;
      });
  set(65, [](const Value* value, ort::Shape** out) -> Status* {
    *out = new ort::Shape(value->shape);
    return nullptr;
  });
  set(60, [](const ort::Shape* shape, int* out) -> Status* {
    *out = shape->type;
    return nullptr;
  });
  set(61, [](const ort::Shape* shape, size_t* out) -> Status* {
    *out = shape->dims.size();
    return nullptr;
  });
  set(62, [](const ort::Shape* shape, int64_t* out, size_t rank) -> Status* {
    for (size_t i = 0; i < rank && i < shape->dims.size(); ++i) out[i] = shape->dims[i];
    return nullptr;
  });
  set(64, [](const ort::Shape* shape, size_t* out) -> Status* {
    *out = static_cast<size_t>(count_of(shape->dims));
    return nullptr;
  });
  set(99, [](ort::Shape* shape) { delete shape; });
  set(51, [](Value* value, void** out) -> Status* {
    *out = value->bytes.data();
    return nullptr;
  });
  set(69, [](int, int, ort::MemoryInfo** out) -> Status* {
    *out = new ort::MemoryInfo;
    return nullptr;
  });
  set(94, [](ort::MemoryInfo* memory) { delete memory; });
  set(132, [](ort::Allocator* allocator) { delete allocator; });
  set(75, [](ort::Allocator*, size_t bytes, void** out) -> Status* {
    *out = bytes < size_t{1} << 30 ? malloc(bytes) : nullptr;
    return *out ? nullptr : failure("out of memory");
  });
  set(76, [](ort::Allocator*, void* p) -> Status* {
    free(p);
    return nullptr;
  });
  set(268, [](const ort::InferContext* context, size_t, ort::Shape** out) -> Status* {
    *out = const_cast<ort::Shape*>(&context->input);
    return nullptr;
  });
  set(269, [](const ort::InferContext* context, const char* name, const ort::OpAttribute** out) -> Status* {
    auto found = context->attributes->find(name);
    if (found == context->attributes->end()) return failure("no such attribute");
    *out = &found->second;
    return nullptr;
  });
  set(272, [](const ort::OpAttribute* a, int kind, void* out, size_t bytes, size_t* written) -> Status* {
    if (kind != 1 || a->kind != ort::OpAttribute::kInts || a->ints.size() != 1 || bytes < 8)
      return failure("another type");
    memcpy(out, a->ints.data(), 8);
    *written = 8;
    return nullptr;
  });
  set(270, [](ort::InferContext* context, size_t, const ort::Shape* shape) -> Status* {
    context->output = *shape;
    return nullptr;
  });
  set(57, [](ort::Shape** out) -> Status* {
    *out = new ort::Shape;
    return nullptr;
  });
  set(58, [](ort::Shape* shape, int type) -> Status* {
    shape->type = type;
    return nullptr;
  });
  set(59, [](ort::Shape* shape, const int64_t* dims, size_t rank) -> Status* {
    shape->dims.assign(dims, dims + rank);
    return nullptr;
  });
  return api;
}

const ort::Api kApi = make_api();

std::string text_of(Status* status) {
  std::string text = status ? status->text : "";
  delete status;
  return text;
}

}  // namespace

std::map<std::string, Registered> load(const std::string& isa) {
  setenv("ONNXPTQ_ISA", isa.c_str(), 1);
  const ort::ApiBase base = {[](uint32_t version) { return version <= ort::kVersion ? &kApi : nullptr; },
                             [] { return "test"; }};
  ort::SessionOptions options;
  std::string error = text_of(RegisterCustomOps(&options, &base));
  std::map<std::string, Registered> ops;
  if (!error.empty()) {
    fprintf(stderr, "%s\n", error.c_str());
    exit(1);
  }
  for (const ort::Domain* domain : options.domains)
    for (const ort::CustomOp* op : domain->ops) ops[domain->name + "." + op->name(op)] = {op, nullptr};
  size_t count = 0;
  const Kernels* kernels = all_kernels(&count);
  for (size_t i = 0; i < count; ++i) {
    if (isa != kernels[i].isa) continue;
    Family family = kernels[i].ops();
    for (size_t j = 0; j < family.count; ++j)
      ops.at(std::string(family.ops[j].domain) + "." + family.ops[j].name).op = &family.ops[j];
  }
  return ops;
}

Session::Session(const Registered& op, const Attributes& attributes, const std::vector<Input>& inputs)
    : op_(op), attributes_(attributes) {
  const ort::KernelInfo info{&attributes, &inputs};
  error = text_of(op.custom->create_kernel_v2(op.custom, &kApi, &info, &kernel_));
}

Session::~Session() {
  if (kernel_) op_.custom->destroy_kernel(kernel_);
}

bool Session::run(const std::vector<Input>& inputs, int threads, std::vector<Value>* outputs) {
  outputs->assign(op_.custom->output_count(op_.custom), {});
  for (size_t i = 0; i < outputs->size(); ++i) (*outputs)[i].shape.type = op_.custom->output_type(op_.custom, i);
  if (op_.custom->infer_shapes) {
    ort::InferContext infer{&attributes_, inputs[0].value.shape, {}};
    error = text_of(op_.custom->infer_shapes(op_.custom, &infer));
    (*outputs)[0].shape.type = infer.output.type;
    if (!error.empty()) return false;
  }
  ort::KernelContext context{&inputs, outputs, threads};
  error = text_of(op_.custom->compute_v2(kernel_, &context));
  return error.empty();
}

}  // namespace onnxptq::test
