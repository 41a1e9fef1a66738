#include "transport/nccl_rounds.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "transport/event_graph.h"
#include "transport/prepared_program.h"

namespace merak {
namespace {

struct Lane {                                  // the messages of one route, by number
  std::vector<std::uint32_t> sends, receives;  // their steps
  std::vector<std::uint8_t> ends;              // how many of the two wait for nothing
  std::set<std::uint32_t> ready;               // the numbers of those where both do
};

std::map<Route, Lane> lanes_of(const std::vector<Program>& programs) {
  std::map<Route, Lane> lanes;
  for (auto& [route, steps] : routes_of(programs, StepKind::kSend)) lanes[route].sends = steps;
  for (auto& [route, steps] : routes_of(programs, StepKind::kReceive)) lanes[route].receives = steps;
  for (auto& [route, lane] : lanes) {
    if (lane.sends.size() != lane.receives.size())
      throw std::logic_error("nccl_rounds: rank " + std::to_string(route.from) + " sends " +
                             std::to_string(lane.sends.size()) + " messages to rank " + std::to_string(route.to) +
                             ", which receives " + std::to_string(lane.receives.size()));
    lane.ends.resize(lane.sends.size());
  }
  return lanes;
}

bool is_message(const Step& step) { return step.kind == StepKind::kSend || step.kind == StepKind::kReceive; }

class Planner {
 public:
  Planner(const std::vector<Program>& programs, std::size_t route_bytes)
      : route_bytes_(route_bytes),
        programs_(programs.begin(), programs.end()),
        lanes_(lanes_of(programs)),
        waits_for_(programs.size()),
        rounds_(programs.size()) {
    for (int rank = 0; rank < static_cast<int>(programs.size()); ++rank) {
      left_ += programs[rank].steps.size();
      for (std::uint32_t index = 0; index < programs[rank].steps.size(); ++index) {
        waits_for_[rank].push_back(static_cast<std::uint32_t>(programs[rank].steps[index].after.size()));
        if (waits_for_[rank].back() == 0) free_.push_back({rank, index});
      }
    }
  }

  std::vector<Rounds> run() {
    for (; left_ > 0; ++number_) {
      const std::size_t before = left_;
      take_work();
      take_messages();
      if (left_ == before) throw std::logic_error("nccl_rounds: messages wait for each other in a circle");
    }
    for (Rounds& rounds : rounds_)
      for (Round& round : rounds) {
        std::sort(round.work.begin(), round.work.end());
        std::sort(round.messages.begin(), round.messages.end());
      }
    return std::move(rounds_);
  }

 private:
  struct Where {
    int rank;
    std::uint32_t index;
  };

  // Rule 1. What work sets free is looked at in the same round.
  void take_work() {
    for (std::size_t i = 0; i < free_.size(); ++i) {
      const auto [rank, index] = free_[i];
      const Step& step = programs_[rank].step(index);
      if (is_message(step)) {
        const Route route = step.kind == StepKind::kSend ? Route{rank, step.peer} : Route{step.peer, rank};
        const std::uint32_t number = programs_[rank].message(index);
        Lane& lane = lanes_.at(route);
        if (++lane.ends[number] == 2) lane.ready.insert(number);
      } else {
        round_of(rank).work.push_back(index);
        finish(rank, index);
      }
    }
    free_.clear();
  }

  // Rule 2. What messages set free is looked at in the next round.
  void take_messages() {
    for (auto& [route, lane] : lanes_) {
      std::size_t taken = 0;  // bytes
      while (!lane.ready.empty()) {
        const std::uint32_t number = *lane.ready.begin(), send = lane.sends[number], receive = lane.receives[number];
        const std::size_t bytes = programs_[route.from].step(send).bytes;
        if (taken > 0 && (taken >= route_bytes_ || bytes > route_bytes_ - taken)) break;
        taken += bytes;
        lane.ready.erase(lane.ready.begin());
        round_of(route.from).messages.push_back(send);
        round_of(route.to).messages.push_back(receive);
        finish(route.from, send);
        finish(route.to, receive);
      }
    }
  }

  Round& round_of(int rank) {
    Rounds& rounds = rounds_[rank];
    if (rounds.empty() || rounds.back().number != number_) rounds.push_back({number_, {}, {}});
    return rounds.back();
  }

  void finish(int rank, std::uint32_t index) {
    --left_;
    for (std::uint32_t next : programs_[rank].successors(index))
      if (--waits_for_[rank][next] == 0) free_.push_back({rank, next});
  }

  const std::size_t route_bytes_;
  const std::vector<PreparedProgram> programs_;
  std::map<Route, Lane> lanes_;
  std::vector<std::vector<std::uint32_t>> waits_for_;  // by rank and step: how many that it comes after are not done
  std::vector<Rounds> rounds_;
  std::vector<Where> free_;  // steps that wait for nothing and have not been looked at
  std::uint32_t number_ = 0;
  std::size_t left_ = 0;  // steps of all ranks
};

}  // namespace

std::vector<Rounds> nccl_rounds(const std::vector<Program>& programs, std::size_t route_bytes) {
  return Planner(programs, route_bytes).run();
}

}  // namespace merak
