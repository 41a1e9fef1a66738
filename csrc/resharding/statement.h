#pragma once
// What every rank tells the others before anything moves: whether it can take part, and what it was asked to do, as
// hashes of what all ranks must have been given alike. Since everyone hears everyone, all ranks find the same, and
// either all go on or all raise the same error.
//
// On the wire kStatementBytes a rank: the hashes, and a text of up to kProblemBytes - 1 bytes of UTF-8, which ends with
// a zero. A text that is no UTF-8 is read with its bytes beyond ASCII replaced.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "resharding/layout.h"
#include "resharding/network.h"

namespace merak {

struct Statement {
  enum What { kNames, kShapes, kDTypes, kSources, kTargets, kNetwork, kStaging, kTransfers, kDevice, kWhats };

  std::string problem;                       // why this rank cannot take part; empty: it can
  std::array<std::uint64_t, kWhats> hash{};  // by What

  bool operator==(const Statement&) const = default;
};

inline constexpr std::size_t kProblemBytes = 512;
inline constexpr std::size_t kStatementBytes = Statement::kWhats * sizeof(std::uint64_t) + kProblemBytes;

void write(const Statement& statement, std::byte* to);
Statement parse_statement(const std::byte* from);

// What keeps these ranks from going on, by rank; "" if nothing does. Names the ranks, as `names` has them, or by their
// numbers if that is empty.
std::string disagreement(const std::vector<Statement>& statements, const std::vector<std::uint64_t>& names = {});

// FNV-1a over 64 bits, of values that are hashed one after the other.
class Hash {
 public:
  void add(std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) add_byte(static_cast<unsigned char>(value >> shift));
  }
  void add(double value);
  void add(const std::string& text) {
    add(text.size());
    for (char c : text) add_byte(static_cast<unsigned char>(c));
  }
  void add(const Layout& layout);
  std::uint64_t value() const { return value_; }

 private:
  void add_byte(unsigned char byte) { value_ = (value_ ^ byte) * 0x100000001b3ull; }

  std::uint64_t value_ = 0xcbf29ce484222325ull;
};

}  // namespace merak
