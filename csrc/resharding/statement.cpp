#include "resharding/statement.h"

#include <bit>
#include <cstring>

namespace merak {
namespace {

constexpr const char* kWhat[Statement::kWhats] = {"tensors (their names, order or number)",
                                                  "shapes",
                                                  "dtypes",
                                                  "source meshes or placements",
                                                  "target meshes or placements",
                                                  "networks (hosts, bandwidths or latencies)",
                                                  "limits of staging memory",
                                                  "plans (loaded from different files?)",
                                                  "kinds of device, CPU or GPU,"};

std::string listed(const std::vector<std::size_t>& ranks) {
  std::string text = ranks.size() > 1 ? "ranks " : "rank ";
  for (std::size_t i = 0; i < ranks.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(ranks[i]);
  return text;
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
  std::memcpy(to, statement.problem.data(), std::min(statement.problem.size(), kProblemBytes - 1));
}

Statement parse_statement(const std::byte* from) {
  Statement statement;
  std::memcpy(statement.hash.data(), from, sizeof statement.hash);
  const auto* text = reinterpret_cast<const char*>(from + sizeof statement.hash);
  statement.problem.assign(text, strnlen(text, kProblemBytes));
  return statement;
}

std::string disagreement(const std::vector<Statement>& statements) {
  for (std::size_t rank = 0; rank < statements.size(); ++rank)
    if (!statements[rank].problem.empty())
      return "rank " + std::to_string(rank) + " cannot take part: " + statements[rank].problem;
  for (std::size_t what = 0; what < Statement::kWhats; ++what) {
    std::vector<std::size_t> others;
    for (std::size_t rank = 1; rank < statements.size(); ++rank)
      if (statements[rank].hash[what] != statements[0].hash[what]) others.push_back(rank);
    if (!others.empty())
      return listed(others) + (others.size() > 1 ? " were" : " was") + " given other " + kWhat[what] +
             " than rank 0. All ranks must ask for the same";
  }
  return "";
}

}  // namespace merak
