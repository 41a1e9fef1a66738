// A frame's header as a broken peer may send it: it is rejected, or it keeps the bounds that frame.h promises and,
// written again, is the same bytes.

#include <algorithm>
#include <array>
#include <cstdlib>

#include "transport/errors.h"
#include "transport/frame.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace merak;
  if (size < kHeaderBytes) return 0;
  const auto bytes = std::span(reinterpret_cast<const std::byte*>(data), size).first<kHeaderBytes>();
  Frame frame;
  try {
    frame = parse_header(bytes);
  } catch (const MismatchError&) {
    return 0;
  }
  if (frame.payload > kLargestPayload) std::abort();
  const bool within = frame.offset <= frame.message_bytes && frame.payload <= frame.message_bytes - frame.offset;
  if (frame.kind == FrameKind::kData && !within) std::abort();
  if (describe(frame.signature).empty()) std::abort();
  std::array<std::byte, kHeaderBytes> again;
  write_header(frame, again);
  if (!std::equal(bytes.begin(), bytes.end(), again.begin())) std::abort();
  return 0;
}
