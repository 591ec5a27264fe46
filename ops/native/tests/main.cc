// The kernels' own test, without any framework: every op of every instruction set of this machine against scalar
// references, against the portable kernels, with one and two threads; then nodes that are wrong in random ways.
//   onnxptq_tests [--isa NAME] [--op PART_OF_NAME] [--fuzz CASES] [--seed N]
#include <cstdlib>

#include "fuzz.h"
#include "lines.h"
#include "reference.h"

namespace onnxptq::test {
namespace {

int failures = 0;

void failed(const std::string& isa, const std::string& op, const std::string& line, const std::string& why) {
  if (++failures <= 40) printf("FAILED %s %s\n  %s\n  %s\n", isa.c_str(), op.c_str(), line.c_str(), why.c_str());
}

// One line of one op. `portable` keeps the outputs of the first instruction set.
void check(const std::string& isa, const std::string& name, const Registered& op, const std::string& line,
           unsigned seed, std::map<std::string, std::vector<Value>>* portable) {
  Random random(seed);
  const Case node = parse(line, random);
  Expected expected;
  if (!reference(name, node, &expected)) return failed(isa, name, line, "there is no reference for this op");
  Session session(op, node.attributes, node.inputs);
  if (!session.error.empty()) return failed(isa, name, line, session.error);
  std::vector<Value> one, two;
  if (!session.run(node.inputs, 1, &one) || !session.run(node.inputs, 2, &two))
    return failed(isa, name, line, session.error);
  std::string why = difference(expected, one);
  if (!why.empty()) return failed(isa, name, line, why);
  for (size_t i = 0; i < one.size(); ++i)
    if (one[i].bytes != two[i].bytes) return failed(isa, name, line, "two threads give other bytes than one");
  auto [place, is_first] = portable->try_emplace(name + line + std::to_string(seed), one);
  if (is_first) return;
  expected.outputs = place->second;
  why = difference(expected, one);
  if (!why.empty()) failed(isa, name, line, "against portable: " + why);
}

void tell(const std::string& isa, const char* what, const FuzzResult& result) {
  printf("%s: %lld %s, %lld refused with a sentence, %lld ran\n", isa.c_str(),
         static_cast<long long>(result.refused + result.ran), what, static_cast<long long>(result.refused),
         static_cast<long long>(result.ran));
  for (const std::string& bad : result.bad) failed(isa, what, "", bad);
}

int run(int count, char** words) {
  std::string only_isa, only_op;
  int64_t cases = 0, seed = 1;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string option = words[i], value = words[i + 1];
    if (option == "--isa") only_isa = value;
    if (option == "--op") only_op = value;
    if (option == "--fuzz") cases = std::stoll(value);
    if (option == "--seed") seed = std::stoll(value);
  }
  std::map<std::string, std::vector<Value>> portable;
  for (size_t i = 0; isa_name(i); ++i) {
    const std::string isa = isa_name(i);
    if (!only_isa.empty() && isa != only_isa) continue;
    if (!cpu_has(isa.c_str())) {
      printf("%s: not on this machine\n", isa.c_str());
      continue;
    }
    size_t checked = 0;
    const auto ops = load(isa);
    for (const auto& [name, op] : ops) {
      if (name.find(only_op) == std::string::npos) continue;
      std::vector<std::string> lines = lines_of(op.op->examples);
      if (lines.empty()) failed(isa, name, "", "the op has no examples");
      for (const std::string& line : more_lines(name)) lines.push_back(line);
      for (const std::string& line : lines)
        check(isa, name, op, line, static_cast<unsigned>(seed + 7 * ++checked), &portable);
    }
    printf("%s: %zu nodes of %zu ops\n", isa.c_str(), checked, ops.size());
    tell(isa, "nodes without elements", zero_sizes(ops, only_op));
    if (cases) tell(isa, "malformed nodes", fuzz(ops, only_op, cases, static_cast<unsigned>(seed)));
  }
  printf(failures ? "%d FAILED\n" : "all passed\n", failures);
  return failures != 0;
}

}  // namespace
}  // namespace onnxptq::test

int main(int count, char** words) { return onnxptq::test::run(count, words); }
