// What ranks tell each other before a resharding, as the fuzzer draws it: read within its bytes, written as it was
// read, and compared, whatever the others say.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "resharding/statement.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace merak;
  std::vector<std::byte> bytes(kStatementBytes);
  std::vector<Statement> statements;
  for (std::size_t at = 0; at < size; at += kStatementBytes) {
    std::memset(bytes.data(), 0, bytes.size());
    std::memcpy(bytes.data(), data + at, std::min(kStatementBytes, size - at));
    statements.push_back(parse_statement(bytes.data()));
    if (statements.back().problem.size() > kProblemBytes) std::abort();
    std::vector<std::byte> again(kStatementBytes);
    write(statements.back(), again.data());
    if (parse_statement(again.data()).hash != statements.back().hash) std::abort();
  }
  const std::string text = disagreement(statements);
  bool differ = false;
  for (const Statement& one : statements) differ = differ || !one.problem.empty() || one.hash != statements[0].hash;
  if (differ == text.empty()) std::abort();
  return 0;
}
