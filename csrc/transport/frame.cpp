#include "transport/frame.h"

#include <bit>
#include <cstring>

#include "transport/errors.h"

namespace merak {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are little-endian");

constexpr std::uint32_t kMagic = 0x4b52454d;  // "MERK"
constexpr std::uint8_t kVersion = 1;

struct Wire {
  std::uint32_t magic;
  std::uint8_t version;
  std::uint8_t kind;
  std::uint8_t operation;
  std::uint8_t dtype;
  std::uint8_t reduction;
  std::uint8_t point_to_point;
  std::uint8_t eager;
  std::uint8_t reserved;
  std::int32_t root;
  std::uint32_t tag;
  std::uint32_t message;
  std::uint64_t sequence;
  std::uint64_t signature_bytes;
  std::uint64_t message_bytes;
  std::uint64_t offset;
  std::uint32_t payload;
  std::uint32_t padding;
};
static_assert(sizeof(Wire) == kHeaderBytes);

void require(bool holds, const char* what) {
  if (!holds) throw MismatchError(std::string("a frame arrived whose ") + what);
}

void check_lengths(const Wire& wire) {
  const auto kind = static_cast<FrameKind>(wire.kind);
  const std::uint32_t most = kind == FrameKind::kData    ? kLargestPayload
                             : kind == FrameKind::kAbort ? kLongestReason
                                                         : 0;
  require(wire.payload <= most, "payload is longer than its kind allows");
  if (kind == FrameKind::kData)
    require(wire.offset <= wire.message_bytes && wire.payload <= wire.message_bytes - wire.offset,
            "payload does not lie within its message");
}

}  // namespace

void write_header(const Frame& frame, std::span<std::byte, kHeaderBytes> to) {
  const Wire wire = {.magic = kMagic,
                     .version = kVersion,
                     .kind = static_cast<std::uint8_t>(frame.kind),
                     .operation = static_cast<std::uint8_t>(frame.signature.kind),
                     .dtype = static_cast<std::uint8_t>(frame.signature.dtype),
                     .reduction = static_cast<std::uint8_t>(frame.signature.reduction),
                     .point_to_point = static_cast<std::uint8_t>(frame.id.point_to_point),
                     .eager = frame.eager,
                     .reserved = 0,
                     .root = frame.signature.root,
                     .tag = frame.id.tag,
                     .message = frame.message,
                     .sequence = frame.id.sequence,
                     .signature_bytes = frame.signature.bytes,
                     .message_bytes = frame.message_bytes,
                     .offset = frame.offset,
                     .payload = frame.payload,
                     .padding = 0};
  std::memcpy(to.data(), &wire, sizeof wire);
}

Frame parse_header(std::span<const std::byte, kHeaderBytes> from) {
  Wire wire;
  std::memcpy(&wire, from.data(), sizeof wire);
  require(wire.magic == kMagic, "first bytes are not merak's: something else is speaking on this connection");
  require(wire.version == kVersion, "version differs: all ranks must run the same merak");
  require(wire.kind >= 1 && wire.kind <= static_cast<std::uint8_t>(FrameKind::kRefuse), "kind is unknown");
  require(wire.operation < kOperationKinds, "operation is unknown");
  require(wire.dtype < kDTypes, "dtype is unknown");
  require(wire.reduction < kReductions, "reduction is unknown");
  require(wire.point_to_point <= 1 && wire.eager <= 1 && wire.reserved == 0 && wire.padding == 0, "flags are unknown");
  check_lengths(wire);
  return {.kind = static_cast<FrameKind>(wire.kind),
          .eager = wire.eager == 1,
          .id = {wire.point_to_point, wire.tag, wire.sequence},
          .signature = {static_cast<OperationKind>(wire.operation), static_cast<DType>(wire.dtype),
                        static_cast<Reduction>(wire.reduction), wire.root, wire.signature_bytes},
          .message = wire.message,
          .payload = wire.payload,
          .message_bytes = wire.message_bytes,
          .offset = wire.offset};
}

}  // namespace merak
