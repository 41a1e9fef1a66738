#pragma once
// The network of the simulation: who may send when.
//
// A message occupies one or two *resources* while its bytes go over the wire, and each resource carries one message at
// a time. Between each pair of ranks there is a full-duplex link, so a message occupies its direction of that. With
// *shared* links every rank has one link for all its neighbours, as a host on Ethernet does: a message occupies what
// leaves the sender and what enters the receiver. Of messages that wait for the same, the first that was ready goes.

#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace merak::pipeline {

class Links {
 public:
  Links(int ranks, bool shared) : ranks_(ranks), shared_(shared) {}

  // A message is ready: true if it begins now; else it begins later, by what done() returns.
  bool ready(std::size_t message, int from, int to);

  // A message has left the wire: the messages that begin now.
  std::vector<std::size_t> done(std::size_t message);

 private:
  using Ends = std::pair<int, int>;  // of a message: numbers of its resources, equal if it has only one
  struct Resource {
    bool busy = false;
    std::set<std::pair<std::size_t, std::size_t>> waiting;  // (turn, message)
  };

  bool begins(Ends ends);
  Ends ends_of(int from, int to) const;

  const int ranks_;
  const bool shared_;
  std::size_t turns_ = 0;
  std::map<int, Resource> resources_;
  std::map<std::size_t, std::pair<Ends, std::size_t>> open_;  // by message: its resources, its turn
};

}  // namespace merak::pipeline
