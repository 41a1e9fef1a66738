#include "transport/hello.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace merak {
namespace {

static_assert(std::endian::native == std::endian::little, "the handshake is little-endian");

// Two magics, so that a connection that the kernel made to itself (it can happen on one host, where the port that
// nobody listens on any more is picked as the local port) does not pass for an answer.
constexpr std::uint32_t kHelloMagic = 0x484b524d;   // "MRKH"
constexpr std::uint32_t kAnswerMagic = 0x414b524d;  // "MRKA"
constexpr std::uint32_t kVersion = 1;

struct HelloWire {
  std::uint32_t magic;
  std::uint32_t version;
  Token token;
  std::uint32_t from;
  std::uint32_t to;
};
static_assert(sizeof(HelloWire) == kHelloBytes);

struct AnswerWire {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t answer;
};
static_assert(sizeof(AnswerWire) == kAnswerBytes);

void check_start(std::uint32_t magic, std::uint32_t expected_magic, std::uint32_t version) {
  if (magic != expected_magic) throw MismatchError("something else than merak speaks on this connection");
  if (version != kVersion)
    throw OtherVersion("the other end runs another version of merak: install the same one on all hosts");
}

}  // namespace

void write_hello(const Hello& hello, std::span<std::byte, kHelloBytes> to) {
  const HelloWire wire = {kHelloMagic, kVersion, hello.token, hello.from, hello.to};
  std::memcpy(to.data(), &wire, sizeof wire);
}

void write_answer(Answer answer, std::span<std::byte, kAnswerBytes> to) {
  const AnswerWire wire = {kAnswerMagic, kVersion, static_cast<std::uint32_t>(answer)};
  std::memcpy(to.data(), &wire, sizeof wire);
}

bool may_be_hello(std::span<const std::byte> from) {
  return from.empty() || std::memcmp(from.data(), &kHelloMagic, std::min(from.size(), sizeof kHelloMagic)) == 0;
}

Hello parse_hello(std::span<const std::byte, kHelloBytes> from) {
  HelloWire wire;
  std::memcpy(&wire, from.data(), sizeof wire);
  check_start(wire.magic, kHelloMagic, wire.version);
  return {wire.token, wire.from, wire.to};
}

Answer parse_answer(std::span<const std::byte, kAnswerBytes> from) {
  AnswerWire wire;
  std::memcpy(&wire, from.data(), sizeof wire);
  if (wire.magic == kAnswerMagic && wire.answer == static_cast<std::uint32_t>(Answer::kOtherVersion))
    return Answer::kOtherVersion;  // said by a version whose other answers may mean something else
  check_start(wire.magic, kAnswerMagic, wire.version);
  if (wire.answer < static_cast<std::uint32_t>(Answer::kWelcome) ||
      wire.answer > static_cast<std::uint32_t>(Answer::kConnected))
    throw MismatchError("the answer to a hello is unknown");
  return static_cast<Answer>(wire.answer);
}

const char* describe(Answer refusal) {
  switch (refusal) {
    case Answer::kWelcome:
      return "welcome";
    case Answer::kOtherVersion:
      return "it runs another version of merak: install the same one on all hosts";
    case Answer::kNoSuchRank:
      return "it expects no connection from this rank: the ranks disagree about the group";
    case Answer::kConnected:
      return "it has a connection from this rank already: two processes claim to be the same rank";
  }
  return "";
}

}  // namespace merak
