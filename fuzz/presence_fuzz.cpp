// What another rank announces of its rows: any bytes are refused, or are a set that comes back.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "sparse/presence.h"
#include "transport/errors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::size_t bits = data[0] + 256u * data[1];
  try {
    const auto bytes = std::as_bytes(std::span(data + 2, size - 2));
    const merak::Bitmap present = merak::decode_presence(bytes, bits);
    if (merak::decode_presence(merak::encode_presence(present), bits) != present) std::abort();
  } catch (const merak::MismatchError&) {
  }
  return 0;
}
