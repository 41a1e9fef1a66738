// Addresses as another rank may publish them: rejected, or the same again after a round through text.

#include <cstdlib>
#include <stdexcept>

#include "transport/socket_address.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using merak::SocketAddress;
  try {
    const std::string text = SocketAddress::parse({reinterpret_cast<const char*>(data), size}).text();
    if (SocketAddress::parse(text).text() != text) std::abort();
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
