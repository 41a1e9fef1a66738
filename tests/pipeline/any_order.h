#pragma once
// Runs a schedule in an order of events drawn from a seed: ranks and messages are as slow as they like. It shares no
// code with check() and peak_memory(), which it is to confirm.

#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "pipeline/memory.h"
#include "pipeline/schedule.h"

namespace merak::pipeline {

class AnyOrder {
 public:
  AnyOrder(const Schedule& schedule, unsigned seed)
      : schedule_(schedule), random_(seed), next_(schedule.ranks.size()), most_(schedule.ranks.size()), now_(most_) {
    for (const ActionList& actions : schedule.ranks)
      for (const Action& action : actions)
        if (action.kind == ActionKind::kRecompute) recomputed_.insert({action.stage, action.microbatch});
  }

  // The most of everything on each rank. Throws std::runtime_error for a deadlock, and for what is used before it is
  // there.
  std::vector<Peak> run() {
    for (std::size_t left = 1; left > 0;) {
      std::vector<std::size_t> able;
      left = 0;
      for (std::size_t rank = 0; rank < next_.size(); ++rank) {
        if (next_[rank] == schedule_.ranks[rank].size()) continue;
        ++left;
        const Action& action = schedule_.ranks[rank][next_[rank]];
        if (!is_wait(action.kind) || arrived_.count(key(action)) > 0) able.push_back(rank);
      }
      const std::size_t events = able.size() + flying_.size();
      if (left > 0 && events == 0) throw std::runtime_error("deadlock");
      if (left == 0) break;
      const std::size_t event = random_() % events;
      if (event < able.size())
        act(able[event]);
      else
        arrive(event - able.size());
    }
    return most_;
  }

 private:
  using Key = std::tuple<bool, int, int, int>;  // of a message

  static Key key(const Message& m) { return {m.forward, m.producer, m.consumer, m.microbatch}; }
  static Key key(const Action& action) { return key(message_of(action)); }

  void arrive(std::size_t which) {
    arrived_.insert(flying_[which]);
    flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(which));
  }

  void expect(bool right, const Action& action) {
    if (!right) throw std::runtime_error("too early: " + text(action));
  }

  void change(std::size_t rank, int Peak::*count, int by) {
    now_[rank].*count += by;
    most_[rank].*count = std::max(most_[rank].*count, now_[rank].*count);
  }

  void act(std::size_t rank) {
    const Action& action = schedule_.ranks[rank][next_[rank]++];
    if (is_send(action.kind)) {
      expect(made_.count(key(action)) > 0, action);
      flying_.push_back(key(action));
    } else if (is_receive(action.kind)) {
      posted_.insert(key(action));
      change(rank, &Peak::receives, 1);
    } else if (is_wait(action.kind)) {
      expect(posted_.count(key(action)) > 0, action);
      there_.insert(key(action));
    } else {
      compute(rank, action);
    }
  }

  void compute(std::size_t rank, const Action& action) {
    const bool keeps_inputs = recomputed_.count({action.stage, action.microbatch}) > 0;
    const bool forward = action.kind == ActionKind::kForward;
    if (forward || gives_input_gradient(action.kind))
      for (const Edge& edge : schedule_.edges) cross(rank, edge, action, forward);
    if (forward) change(rank, keeps_inputs ? &Peak::checkpoints : &Peak::activations, 1);
    if (action.kind == ActionKind::kRecompute)
      change(rank, &Peak::checkpoints, -1), change(rank, &Peak::activations, 1);
    if (gives_weight_gradient(action.kind)) change(rank, &Peak::activations, -1);
  }

  // What a forward or backward takes from an edge, and gives to it.
  void cross(std::size_t rank, const Edge& edge, const Action& action, bool forward) {
    if (!forward && !edge.gradient) return;
    const Key message = key(Message{forward, edge.producer, edge.consumer, action.microbatch});
    const bool crosses = schedule_.rank_of_stage[edge.producer] != schedule_.rank_of_stage[edge.consumer];
    if (action.stage == (forward ? edge.consumer : edge.producer)) {
      expect((crosses ? there_ : made_).count(message) > 0, action);
      if (crosses) change(rank, &Peak::receives, -1);
    }
    if (action.stage == (forward ? edge.producer : edge.consumer)) made_.insert(message);
  }

  const Schedule& schedule_;
  std::mt19937 random_;
  std::vector<std::size_t> next_;
  std::vector<Peak> most_, now_;
  std::set<std::pair<int, int>> recomputed_;
  std::vector<Key> flying_;
  std::set<Key> made_, posted_, arrived_, there_;
};

}  // namespace merak::pipeline
