#pragma once
// Which rows a rank has, in few bytes. Of three forms the shortest is taken:
//
//   whole       the bitmap, a bit a row
//   two levels  a bit for each block of 64 rows, set where the block has any; then the 64 bits of each such block
//   gaps        from each row to the next, in bytes of seven bits, the lowest first, the eighth bit set but in the last
//
// What is decoded came from another rank, and is checked.

#include <cstddef>
#include <span>
#include <vector>

#include "sparse/bitmap.h"

namespace merak {

// Of several tables, one after the other, each with its length before it.
std::vector<std::byte> encode_presences(const std::vector<Bitmap>& present);
// Takes them from the front of `bytes`. `bits`: of each table. Throws as decode_presence() does.
std::vector<Bitmap> take_presences(std::span<const std::byte>& bytes, const std::vector<std::size_t>& bits);

std::vector<std::byte> encode_presence(const Bitmap& present);

// Throws MismatchError where the bytes are no set of numbers below `bits`.
Bitmap decode_presence(std::span<const std::byte> bytes, std::size_t bits);

}  // namespace merak
