#pragma once
// A set of row numbers, one bit each.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace merak {

class Bitmap {
 public:
  static constexpr std::size_t kWordBits = 64;

  static std::size_t words_for(std::size_t bits) { return (bits + kWordBits - 1) / kWordBits; }

  Bitmap() = default;
  explicit Bitmap(std::size_t bits) : bits_(bits), words_(words_for(bits)) {}

  std::size_t bits() const { return bits_; }
  const std::vector<std::uint64_t>& words() const { return words_; }
  std::uint64_t* data() { return words_.data(); }  // bits beyond bits() must stay zero

  // Whether no bit beyond bits() is set: of words that came from elsewhere.
  bool fits() const { return bits_ % kWordBits == 0 || words_.back() >> bits_ % kWordBits == 0; }

  void set(std::size_t bit) { words_[bit / kWordBits] |= std::uint64_t{1} << bit % kWordBits; }
  void reset(std::size_t bit) { words_[bit / kWordBits] &= ~(std::uint64_t{1} << bit % kWordBits); }
  bool test(std::size_t bit) const { return words_[bit / kWordBits] >> bit % kWordBits & 1; }

  std::size_t count() const {
    std::size_t total = 0;
    for (std::uint64_t word : words_) total += static_cast<std::size_t>(std::popcount(word));
    return total;
  }

  // Needs as many bits.
  Bitmap& operator|=(const Bitmap& other) {
    for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
    return *this;
  }

  // The bits that are set, in ascending order.
  std::vector<std::uint32_t> members() const {
    std::vector<std::uint32_t> all;
    all.reserve(count());
    for (std::size_t i = 0; i < words_.size(); ++i)
      for (std::uint64_t word = words_[i]; word != 0; word &= word - 1)
        all.push_back(static_cast<std::uint32_t>(i * kWordBits + static_cast<std::size_t>(std::countr_zero(word))));
    return all;
  }

  bool operator==(const Bitmap&) const = default;

 private:
  std::size_t bits_ = 0;
  std::vector<std::uint64_t> words_;
};

// Where each member of a bitmap stands among the members. Needs the bitmap to outlive it, unchanged.
class Positions {
 public:
  explicit Positions(const Bitmap& of) : bitmap_(of) {
    before_.reserve(of.words().size());
    std::uint32_t total = 0;
    for (std::uint64_t word : of.words()) {
      before_.push_back(total);
      total += static_cast<std::uint32_t>(std::popcount(word));
    }
  }

  // Needs a bit that is set.
  std::uint32_t operator()(std::size_t bit) const {
    const std::size_t word = bit / Bitmap::kWordBits;
    const std::uint64_t lower = (std::uint64_t{1} << bit % Bitmap::kWordBits) - 1;
    return before_[word] + static_cast<std::uint32_t>(std::popcount(bitmap_.words()[word] & lower));
  }

 private:
  const Bitmap& bitmap_;
  std::vector<std::uint32_t> before_;  // members in the words before each
};

}  // namespace merak
