#pragma once
// What happens before what, in the programs of all ranks of one operation: the graph that validate.h describes.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "transport/program.h"

namespace merak {

struct Route {
  int from, to;

  auto operator<=>(const Route&) const = default;
};

// The sends, or the receives, between every two ranks, by index in the program of the rank that has them.
using Routes = std::map<Route, std::vector<std::uint32_t>>;
Routes routes_of(const std::vector<Program>& programs, StepKind kind);

class EventGraph {
 public:
  // Needs programs whose sends and receives match.
  explicit EventGraph(const std::vector<Program>& programs);

  std::size_t size() const { return followers_.size(); }
  std::uint32_t start(int rank, std::uint32_t step) const { return first_[rank] + 3 * step; }
  std::uint32_t done(int rank, std::uint32_t step) const { return start(rank, step) + 1; }
  std::uint32_t grant(int rank, std::uint32_t step) const { return start(rank, step) + 2; }
  bool is_grant(std::uint32_t event) const { return event % 3 == 2; }

  const std::vector<std::uint32_t>& followers(std::uint32_t event) const { return followers_[event]; }
  std::uint32_t steps_of(int rank) const { return (first_[rank + 1] - first_[rank]) / 3; }

  // All events, each after those that it follows; those of a circle, and what follows them, are missing.
  std::vector<std::uint32_t> order() const;

 private:
  void edge(std::uint32_t before, std::uint32_t after) { followers_[before].push_back(after); }

  std::vector<std::uint32_t> first_;  // by rank: its first event
  std::vector<std::vector<std::uint32_t>> followers_;
};

// Of every event: which of one rank's steps are done before it, whether or not receives have to be granted.
class Ancestors {
 public:
  Ancestors(const EventGraph& graph, const std::vector<std::uint32_t>& order, int rank);

  bool operator()(std::uint32_t event, std::uint32_t step) const {
    return bits_[event * words_ + step / 64] >> (step % 64) & 1;
  }

 private:
  const std::size_t words_;  // of 64 bits, for each event
  std::vector<std::uint64_t> bits_;
};

}  // namespace merak
