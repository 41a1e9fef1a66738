#pragma once
// What travels on a link: frames, each a fixed 64-byte header and, for some kinds, a payload.
//
//   data      a part of one message of an operation. A *message* is what one send step carries; its frames come in
//             order, but frames of different messages may alternate, so that an urgent one overtakes.
//   grant     "the first `message` messages of this operation may come": its memory is ready here.
//   announce  "a message of this point-to-point operation waits for a grant": a receive from any source finds it so.
//   credit    `message_bytes` bytes of eager messages were taken up here; as many more may be on their way.
//   refuse    this rank was asked for this collective, but with arguments that make no sense: it takes no part in it.
//   abort     this group has failed; the payload says why, for people.
//   goodbye   this rank has destroyed the group and will send nothing more.
//
// A header is untrusted: parse_header checks everything that can be checked without knowing the operation, and bounds
// every length. Integers are little-endian.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "transport/signature.h"

namespace merak {

enum class FrameKind : std::uint8_t { kData = 1, kGrant, kAnnounce, kCredit, kAbort, kGoodbye, kRefuse };

// Names one operation between two ranks of a group. Collectives count in the order in which each rank starts them;
// point-to-point messages count by (sender, receiver, tag).
struct OperationId {
  std::uint32_t point_to_point = 0;  // 0: a collective, 1: a send and its receive
  std::uint32_t tag = 0;             // of a send and its receive
  std::uint64_t sequence = 0;

  auto operator<=>(const OperationId&) const = default;
};

inline constexpr std::size_t kHeaderBytes = 64;
inline constexpr std::size_t kLargestPayload = 256 * 1024;
inline constexpr std::size_t kLongestReason = 4096;

struct Frame {
  FrameKind kind = FrameKind::kGoodbye;
  bool eager = false;  // data: sent without a grant
  OperationId id = {};
  Signature signature = {};
  std::uint32_t message = 0;  // data: its index among this operation's messages to this peer; grant: how many may come
  std::uint32_t payload = 0;  // bytes that follow the header
  std::uint64_t message_bytes = 0;  // data, announce: of the whole message; grant: of all messages; credit: bytes
  std::uint64_t offset = 0;         // data: where in its message the payload lies

  bool operator==(const Frame&) const = default;
};

void write_header(const Frame& frame, std::span<std::byte, kHeaderBytes> to);

// Throws MismatchError, naming what is wrong with the header.
Frame parse_header(std::span<const std::byte, kHeaderBytes> from);

}  // namespace merak
