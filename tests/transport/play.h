#pragma once
// Plays the programs of all ranks in one thread, for tests: real bytes, no network, any order of events, deadlocks
// found.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "transport/operation.h"
#include "transport/prepared_program.h"

namespace merak {

using Message = std::vector<std::byte>;

struct Memory {  // of one rank
  Message input, output;
};

// Reduces as a step does. Tensors of a test may lie one behind the other in memory, so that elements lie anywhere;
// those of a library do not: they are reduced in copies.
inline void reduce_anywhere(const Reducer& reducer, std::byte* at, const std::byte* from, std::size_t bytes,
                            bool completes) {
  Message sum(at, at + bytes), other(from, from + bytes);
  const std::size_t count = bytes / reducer.element_bytes;
  reducer.combine(sum.data(), other.data(), count);
  if (completes && reducer.divide) reducer.divide(sum.data(), count, reducer.divisor);
  std::copy(sum.begin(), sum.end(), at);
}

// One run. A step is executed at once, at a time drawn from `seed` after it becomes ready. A send is ready when the
// steps that it comes after are done and its receive is granted, as the engine grants: to each peer in order of index.
class Player {
 public:
  Player(const std::vector<Program>& programs, std::vector<Memory>& memory, const Reducer& reducer, unsigned seed)
      : memory_(memory), reducer_(reducer), random_(seed) {
    for (const Program& program : programs) {
      ranks_.push_back({PreparedProgram(program), {}, {}, {}});
      for (const Step& step : program.steps) ranks_.back().waits_for.push_back(step.after.size());
      for (std::size_t bytes : program.scratch) ranks_.back().scratch.push_back(noise(bytes));
      total_ += program.steps.size();
    }
    for (int rank = 0; rank < size(); ++rank)
      for (const auto& [peer, messages] : ranks_[rank].program.receives()) grant(rank, peer);
    started_ = true;
    for (int rank = 0; rank < size(); ++rank)
      for (std::uint32_t step = 0; step < ranks_[rank].waits_for.size(); ++step) consider(rank, step);
  }

  // Throws std::runtime_error when no step can go on, or a receive is not of the size of its send.
  void run() {
    std::size_t executed = 0;
    for (; !ready_.empty(); ++executed) {
      std::swap(ready_[random_() % ready_.size()], ready_.back());
      const auto [rank, step] = ready_.back();
      ready_.pop_back();
      execute(rank, step);
      finish(rank, step);
    }
    if (executed != total_) throw std::runtime_error("deadlock: " + std::to_string(total_ - executed) + " steps left");
  }

 private:
  struct Rank {
    PreparedProgram program;
    std::vector<Message> scratch;
    std::vector<std::size_t> waits_for;    // by step: how many that it comes after are not done
    std::map<int, std::size_t> granted{};  // by sender: how many of its messages may come
  };
  using Key = std::pair<std::pair<int, int>, std::uint32_t>;  // (from, to), message

  int size() const { return static_cast<int>(ranks_.size()); }

  Message noise(std::size_t bytes) {
    Message message(bytes);
    for (std::byte& byte : message) byte = static_cast<std::byte>(random_());
    return message;
  }

  void consider(int rank, std::uint32_t index) {
    const Rank& mine = ranks_[rank];
    const Step& step = mine.program.step(index);
    if (mine.waits_for[index] > 0) return;
    const std::uint32_t message = mine.program.message(index);
    if (step.kind == StepKind::kSend && message >= ranks_[step.peer].granted[rank]) return;
    if (step.kind == StepKind::kReceive && !wire_.count({{step.peer, rank}, message})) return;
    ready_.push_back({rank, index});
  }

  // Lets the peer send what has become possible: a prefix of its messages.
  void grant(int rank, int peer) {
    Rank& mine = ranks_[rank];
    const std::vector<std::uint32_t>& receives = mine.program.receives().at(peer).steps;
    std::size_t& granted = mine.granted[peer];
    while (granted < receives.size() && mine.waits_for[receives[granted]] == 0) {
      ++granted;
      const auto& sends = ranks_[peer].program.sends();
      const auto at = sends.find(rank);
      if (started_ && at != sends.end() && granted <= at->second.steps.size())
        consider(peer, at->second.steps[granted - 1]);
    }
  }

  std::byte* memory(int rank, Place place) {
    Message& buffer = place.buffer == kInput    ? memory_[rank].input
                      : place.buffer == kOutput ? memory_[rank].output
                                                : ranks_[rank].scratch.at(place.buffer - kScratch);
    return buffer.data() + place.offset;
  }

  void execute(int rank, std::uint32_t index) {
    const Step& step = ranks_[rank].program.step(index);
    const std::uint32_t message = ranks_[rank].program.message(index);
    std::byte* at = memory(rank, step.at);
    if (step.kind == StepKind::kSend) {
      wire_[{{rank, step.peer}, message}] = Message(at, at + step.bytes);
    } else if (step.kind == StepKind::kReceive) {
      const auto arrived = wire_.extract({{step.peer, rank}, message});
      if (arrived.mapped().size() != step.bytes) throw std::runtime_error("a send and its receive differ in size");
      std::copy(arrived.mapped().begin(), arrived.mapped().end(), at);
    } else if (step.kind == StepKind::kCopy) {
      std::memcpy(at, memory(rank, step.from), step.bytes);
    } else if (step.kind == StepKind::kCopyStrided) {
      copy_strided(at, memory(rank, step.from), ranks_[rank].program.program().strided_copies.at(step.strided_copy));
    } else if (step.kind == StepKind::kSumRows) {
      const RowSums& sums = ranks_[rank].program.program().row_sums.at(step.row_sums);
      reducer_.sum_rows(at, memory(rank, step.from), sums, step.completes ? reducer_.divisor : 1);
    } else {
      if (step.bytes % reducer_.element_bytes != 0) throw std::runtime_error("a reduce of part of an element");
      reduce_anywhere(reducer_, at, memory(rank, step.from), step.bytes, step.completes);
    }
  }

  void finish(int rank, std::uint32_t index) {
    Rank& mine = ranks_[rank];
    const Step& step = mine.program.step(index);
    for (std::uint32_t next : mine.program.successors(index))
      if (--mine.waits_for[next] == 0) consider(rank, next);
    for (const auto& [peer, messages] : mine.program.receives()) grant(rank, peer);
    if (step.kind != StepKind::kSend) return;
    const auto& receives = ranks_[step.peer].program.receives();
    const std::uint32_t message = mine.program.message(index);
    const auto at = receives.find(rank);
    if (at == receives.end() || message >= at->second.steps.size())
      throw std::runtime_error("a send without a receive");
    consider(step.peer, at->second.steps[message]);
  }

  std::vector<Memory>& memory_;
  const Reducer& reducer_;
  std::mt19937 random_;
  std::vector<Rank> ranks_;
  std::vector<std::pair<int, std::uint32_t>> ready_;  // rank, step
  std::map<Key, Message> wire_;
  std::size_t total_ = 0;
  bool started_ = false;
};

inline void play(const std::vector<Program>& programs, std::vector<Memory>& memory, const Reducer& reducer,
                 unsigned seed) {
  Player(programs, memory, reducer, seed).run();
}

}  // namespace merak
