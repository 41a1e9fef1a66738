#pragma once
// The handshake of a TCP connection. The rank that connects sends a *hello*; the listening process answers with a
// *welcome* and hands the connection to the rank named in it, or answers with a refusal and closes.
//
// Of two ranks the higher one connects. A lower rank that says hello is *waiting* for that: it gets no answer, but its
// connection is kept open as long as the higher rank is in the group, so that the end of it shows the lower rank that
// it waits in vain.
//
//   hello   magic, version, the group's token, from which rank, to which rank of the group   (48 bytes)
//   answer  magic, version, what became of it                                                (12 bytes)
//
// Whoever does not know the token gets no answer: the connection just ends. Both parsers read untrusted bytes.
// Integers are little-endian.

#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/errors.h"
#include "transport/token.h"

namespace merak {

inline constexpr std::size_t kHelloBytes = 48;
inline constexpr std::size_t kAnswerBytes = 12;

struct Hello {
  Token token{};
  std::uint32_t from = 0, to = 0;

  bool operator==(const Hello&) const = default;
};

enum class Answer : std::uint32_t {
  kWelcome = 1,
  kOtherVersion,  // the listener speaks another version of this protocol
  kNoSuchRank,    // `from` is not another rank of the group
  kConnected,     // `from` has a connection to `to` already
};

// A merak with which this one cannot talk.
struct OtherVersion : MismatchError {
  using MismatchError::MismatchError;
};

void write_hello(const Hello& hello, std::span<std::byte, kHelloBytes> to);
void write_answer(Answer answer, std::span<std::byte, kAnswerBytes> to);

// Whether the first bytes of what may become a hello (any number of them, from the first on) are merak's.
bool may_be_hello(std::span<const std::byte> from);

// Throw MismatchError when something else than merak speaks, OtherVersion when another version of it does.
Hello parse_hello(std::span<const std::byte, kHelloBytes> from);
Answer parse_answer(std::span<const std::byte, kAnswerBytes> from);

// What an answer other than kWelcome means for the rank that said hello.
const char* describe(Answer refusal);

}  // namespace merak
