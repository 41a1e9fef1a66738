#include "resharding/statement.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace merak {
namespace {

constexpr const char* kWhat[Statement::kWhats] = {"tensors (their names, order, number or target dtypes)",
                                                  "shapes",
                                                  "dtypes",
                                                  "source meshes or placements",
                                                  "target meshes or placements",
                                                  "networks (hosts, bandwidths or latencies)",
                                                  "limits of staging memory",
                                                  "plans (loaded from different files?)",
                                                  "kinds of device, CPU or GPU,"};

std::string listed(const std::vector<std::uint64_t>& ranks) {
  std::string text = ranks.size() > 1 ? "ranks " : "rank ";
  for (std::size_t i = 0; i < ranks.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// How many bytes follow a first one of UTF-8; -1 for none that is one.
int following(unsigned char first) {
  if (first < 0x80) return 0;
  if (first >= 0xc2 && first < 0xe0) return 1;
  if (first >= 0xe0 && first < 0xf0) return 2;
  return first >= 0xf0 && first < 0xf5 ? 3 : -1;
}

// Without overlong forms and surrogates Python would refuse it, too; both begin with bytes that are checked here.
bool is_utf8(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto first = static_cast<unsigned char>(text[i]);
    const int count = following(first);
    if (count < 0 || i + static_cast<std::size_t>(count) >= text.size()) return false;
    if (count > 0) {
      const auto second = static_cast<unsigned char>(text[i + 1]);
      if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0)) return false;
      if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90)) return false;
    }
    for (int k = 0; k < count; ++k)
      if (!continues(text[++i])) return false;
  }
  return true;
}

std::string cut(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && continues(text[most])) --most;
  return text.substr(0, most);
}

}  // namespace

void Hash::add(double value) { add(std::bit_cast<std::uint64_t>(value)); }

void Hash::add(const Layout& layout) {
  add(layout.mesh_shape.size());
  for (int extent : layout.mesh_shape) add(static_cast<std::uint64_t>(extent));
  add(layout.ranks.size());
  for (int rank : layout.ranks) add(static_cast<std::uint64_t>(rank));
  for (const Placement& placement : layout.placements) {
    add(static_cast<std::uint64_t>(placement.kind));
    add(static_cast<std::uint64_t>(placement.dim));
    add(placement.split_factor);
    add(static_cast<std::uint64_t>(placement.reduction));
  }
}

void write(const Statement& statement, std::byte* to) {
  std::memcpy(to, statement.hash.data(), sizeof statement.hash);
  to += sizeof statement.hash;
  std::memset(to, 0, kProblemBytes);
  const std::string problem = cut(statement.problem, kProblemBytes - 1);
  std::memcpy(to, problem.data(), problem.size());
}

Statement parse_statement(const std::byte* from) {
  Statement statement;
  std::memcpy(statement.hash.data(), from, sizeof statement.hash);
  const auto* text = reinterpret_cast<const char*>(from + sizeof statement.hash);
  statement.problem.assign(text, strnlen(text, kProblemBytes));
  if (!is_utf8(statement.problem))
    for (char& byte : statement.problem)
      if (static_cast<unsigned char>(byte) >= 0x80) byte = '?';
  return statement;
}

std::string disagreement(const std::vector<Statement>& statements, const std::vector<std::uint64_t>& names) {
  const auto name_of = [&names](std::size_t rank) { return names.empty() ? rank : names[rank]; };
  for (std::size_t rank = 0; rank < statements.size(); ++rank)
    if (!statements[rank].problem.empty())
      return listed({name_of(rank)}) + " cannot take part: " + statements[rank].problem;
  for (std::size_t what = 0; what < Statement::kWhats; ++what) {
    std::vector<std::uint64_t> others;
    for (std::size_t rank = 1; rank < statements.size(); ++rank)
      if (statements[rank].hash[what] != statements[0].hash[what]) others.push_back(name_of(rank));
    if (!others.empty())
      return listed(others) + (others.size() > 1 ? " were" : " was") + " given other " + kWhat[what] + " than " +
             listed({name_of(0)}) + ". All ranks must ask for the same";
  }
  return "";
}

}  // namespace merak
