#include "transport/token.h"

#include <sys/random.h>

#include <cerrno>

#include "transport/descriptor.h"
#include "transport/errors.h"

namespace merak {

Token random_token() {
  Token token;
  // A request of up to 256 bytes is answered in full or not at all.
  while (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size()))
    if (errno != EINTR) throw NetworkError("cannot make a group token: getrandom: " + errno_text(errno));
  return token;
}

bool equal_in_constant_time(const Token& a, const Token& b) {
  volatile std::byte difference{0};
  for (std::size_t i = 0; i < a.size(); ++i) difference = difference | (a[i] ^ b[i]);
  return difference == std::byte{0};
}

}  // namespace merak
