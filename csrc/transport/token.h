#pragma once
// A group's token: 32 random bytes that rank 0 makes and shares through the rendezvous. Who does not know it cannot
// connect to the group.

#include <array>
#include <cstddef>

namespace merak {

using Token = std::array<std::byte, 32>;

// From the kernel's random numbers. Throws NetworkError when it has none to give.
Token random_token();

// Takes the same time wherever the two differ, so that a token cannot be guessed byte by byte.
bool equal_in_constant_time(const Token& a, const Token& b);

}  // namespace merak
