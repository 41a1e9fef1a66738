// The handshake as a stranger may send it: parsers reject or give back what, written again, is the same bytes.

#include <algorithm>
#include <array>
#include <cstdlib>

#include "transport/hello.h"

namespace {

template <std::size_t kBytes, class Parse, class Write>
void check(std::span<const std::byte> input, Parse parse, Write write) {
  if (input.size() < kBytes) return;
  const auto bytes = input.first<kBytes>();
  std::array<std::byte, kBytes> again;
  try {
    write(parse(bytes), again);
  } catch (const merak::MismatchError&) {
    return;
  }
  if (!std::equal(bytes.begin(), bytes.end(), again.begin())) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span input(reinterpret_cast<const std::byte*>(data), size);
  merak::may_be_hello(input);
  check<merak::kHelloBytes>(input, merak::parse_hello, merak::write_hello);
  const auto parse_answer = [](std::span<const std::byte, merak::kAnswerBytes> bytes) {
    const merak::Answer answer = merak::parse_answer(bytes);
    // This one is understood whatever version says it.
    if (answer == merak::Answer::kOtherVersion) throw merak::MismatchError("");
    return answer;
  };
  check<merak::kAnswerBytes>(input, parse_answer, merak::write_answer);
  return 0;
}
