#include "data/sort_values.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "data/philox.h"

namespace merak::data {
namespace {

constexpr int kDigitBits = 11;
constexpr std::size_t kDigits = 1 << kDigitBits;

struct Entry {
  std::uint64_t key;
  std::uint32_t position;
} __attribute__((packed));

std::uint64_t sortable(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value == 0 ? 0.0 : value);  // -0 is 0
  return bits >> 63 != 0 ? ~bits : bits | std::uint64_t{1} << 63;
}

// One pass: from `from` to `to` by the digit that `digit_of` gives. False, and nothing is done, if all have the same.
template <class DigitOf>
bool pass(const std::vector<Entry>& from, std::vector<Entry>& to, DigitOf digit_of) {
  std::array<std::size_t, kDigits> next{};
  for (const Entry& entry : from) ++next[digit_of(entry)];
  if (next[digit_of(from[0])] == from.size()) return false;
  std::size_t begin = 0;
  for (std::size_t& place : next) begin += std::exchange(place, begin);
  for (const Entry& entry : from) to[next[digit_of(entry)]++] = entry;
  return true;
}

std::vector<Entry> entries_of(const double* values, std::size_t count) {
  std::vector<Entry> entries(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (std::isnan(values[i]))
      throw std::invalid_argument("the value of sample " + std::to_string(i) + " is not a number (NaN)");
    entries[i] = {sortable(values[i]), static_cast<std::uint32_t>(i)};
  }
  return entries;
}

}  // namespace

std::vector<std::uint32_t> ascending_order(const double* values, std::size_t count, std::uint64_t seed) {
  if (count > std::numeric_limits<std::uint32_t>::max())
    throw std::invalid_argument("more than 2^32 samples cannot be ordered: split the data set");
  if (count == 0) return {};
  std::vector<Entry> entries = entries_of(values, count), others(count);
  const std::uint64_t key = stream_key(seed, Purpose::kTies);
  const auto random_digit = [key](const Entry& entry) {
    return philox(key, entry.position, 0).words[0] >> (32 - kDigitBits);
  };
  if (pass(entries, others, random_digit)) entries.swap(others);
  for (int shift = 0; shift < 64; shift += kDigitBits)
    if (pass(entries, others, [shift](const Entry& entry) { return entry.key >> shift & (kDigits - 1); }))
      entries.swap(others);
  others = {};
  std::vector<std::uint32_t> order(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = entries[i].position;
  return order;
}

}  // namespace merak::data
