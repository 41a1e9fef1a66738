#include "sparse/presence.h"

#include <cstdint>
#include <cstring>

#include "transport/errors.h"

namespace merak {
namespace {

enum class Form : std::uint8_t { kWhole, kTwoLevels, kGaps };

constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

[[noreturn]] void reject() { throw MismatchError("a rank announced rows in a form that makes no sense"); }

std::size_t bytes_of_gap(std::uint64_t gap) { return gap < 128 ? 1 : 1 + bytes_of_gap(gap >> 7); }

Bitmap blocks_of(const Bitmap& present) {
  Bitmap blocks(present.words().size());
  for (std::size_t i = 0; i < present.words().size(); ++i)
    if (present.words()[i] != 0) blocks.set(i);
  return blocks;
}

std::size_t gap_bytes(const std::vector<std::uint32_t>& members) {
  std::size_t bytes = 0;
  std::uint64_t next = 0;
  for (std::uint32_t member : members) {
    bytes += bytes_of_gap(member - next);
    next = std::uint64_t{member} + 1;
  }
  return bytes;
}

void put_words(std::vector<std::byte>& bytes, const std::vector<std::uint64_t>& words) {
  const auto* first = reinterpret_cast<const std::byte*>(words.data());
  bytes.insert(bytes.end(), first, first + words.size() * kWordBytes);
}

void put_gaps(std::vector<std::byte>& bytes, const std::vector<std::uint32_t>& members) {
  std::uint64_t next = 0;
  for (std::uint32_t member : members) {
    std::uint64_t gap = member - next;
    for (; gap >= 128; gap >>= 7) bytes.push_back(static_cast<std::byte>((gap & 127) | 128));
    bytes.push_back(static_cast<std::byte>(gap));
    next = std::uint64_t{member} + 1;
  }
}

// A set of `bits` numbers, from the first of the bytes.
Bitmap take_whole(std::span<const std::byte>& bytes, std::size_t bits) {
  Bitmap present(bits);
  const std::size_t size = present.words().size() * kWordBytes;
  if (bytes.size() < size) reject();
  if (size > 0) std::memcpy(present.data(), bytes.data(), size);
  if (!present.fits()) reject();
  bytes = bytes.subspan(size);
  return present;
}

Bitmap take_two_levels(std::span<const std::byte>& bytes, std::size_t bits) {
  Bitmap present(bits);
  const Bitmap blocks = take_whole(bytes, present.words().size());
  for (std::uint32_t block : blocks.members()) {
    if (bytes.size() < kWordBytes) reject();
    std::memcpy(present.data() + block, bytes.data(), kWordBytes);
    bytes = bytes.subspan(kWordBytes);
  }
  if (!present.fits()) reject();
  return present;
}

Bitmap take_gaps(std::span<const std::byte>& bytes, std::size_t bits) {
  Bitmap present(bits);
  std::uint64_t next = 0;
  while (!bytes.empty()) {
    std::uint64_t gap = 0;
    for (int shift = 0;; shift += 7) {
      if (bytes.empty() || shift > 56) reject();
      const auto byte = static_cast<std::uint64_t>(bytes.front());
      bytes = bytes.subspan(1);
      gap |= (byte & 127) << shift;
      if (byte < 128) break;
    }
    if (gap >= bits - next) reject();
    present.set(next + gap);
    next += gap + 1;
  }
  return present;
}

}  // namespace

std::vector<std::byte> encode_presence(const Bitmap& present) {
  const Bitmap blocks = blocks_of(present);
  const std::vector<std::uint32_t> members = present.members();
  const std::size_t whole = present.words().size() * kWordBytes;
  const std::size_t two_levels = (blocks.words().size() + blocks.count()) * kWordBytes, gaps = gap_bytes(members);
  std::vector<std::byte> bytes;
  const auto begin = [&](Form form, std::size_t size) {
    bytes.reserve(1 + size);
    bytes.push_back(static_cast<std::byte>(form));
  };
  if (whole <= two_levels && whole <= gaps) {
    begin(Form::kWhole, whole);
    put_words(bytes, present.words());
  } else if (two_levels <= gaps) {
    begin(Form::kTwoLevels, two_levels);
    put_words(bytes, blocks.words());
    std::vector<std::uint64_t> words;
    for (std::uint32_t block : blocks.members()) words.push_back(present.words()[block]);
    put_words(bytes, words);
  } else {
    begin(Form::kGaps, gaps);
    put_gaps(bytes, members);
  }
  return bytes;
}

Bitmap decode_presence(std::span<const std::byte> bytes, std::size_t bits) {
  if (bytes.empty()) reject();
  const auto form = static_cast<Form>(bytes.front());
  bytes = bytes.subspan(1);
  if (form > Form::kGaps) reject();
  Bitmap present = form == Form::kWhole       ? take_whole(bytes, bits)
                   : form == Form::kTwoLevels ? take_two_levels(bytes, bits)
                                              : take_gaps(bytes, bits);
  if (!bytes.empty()) reject();
  return present;
}

std::vector<std::byte> encode_presences(const std::vector<Bitmap>& present) {
  std::vector<std::byte> all;
  for (const Bitmap& one : present) {
    const std::vector<std::byte> bytes = encode_presence(one);
    put_words(all, {bytes.size()});
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

std::vector<Bitmap> take_presences(std::span<const std::byte>& bytes, const std::vector<std::size_t>& bits) {
  std::vector<Bitmap> present;
  for (std::size_t one : bits) {
    std::uint64_t size = 0;
    if (bytes.size() < kWordBytes) reject();
    std::memcpy(&size, bytes.data(), kWordBytes);
    bytes = bytes.subspan(kWordBytes);
    if (size > bytes.size()) reject();
    present.push_back(decode_presence(bytes.first(size), one));
    bytes = bytes.subspan(size);
  }
  return present;
}

}  // namespace merak
