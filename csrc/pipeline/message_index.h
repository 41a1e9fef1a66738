#pragma once
// Numbers for what happens in a schedule, so that vectors can say when it did.

#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

// Every message that crosses an edge of a schedule, numbered from 0.
class MessageIndex {
 public:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  explicit MessageIndex(const Schedule& schedule);

  std::size_t count() const { return 2 * edges_ * microbatches_; }
  // kNone for what crosses no edge, and for the gradient of an edge that has none.
  std::size_t operator()(const Message& message) const;

 private:
  struct Out {
    int consumer;
    std::size_t number;
    bool gradient;
  };
  std::size_t edges_, microbatches_;
  std::vector<std::vector<Out>> from_;  // of each stage, sorted by consumer
};

// The edges at each stage.
struct EdgesByStage {
  explicit EdgesByStage(const Schedule& schedule);
  std::vector<std::vector<Edge>> from, to;
};

// What an action needs (`needs`) and what comes of it, by the edges of its stage; within ranks too.
std::vector<Message> needs(const Action& action, const EdgesByStage& edges);
std::vector<Message> gives(const Action& action, const EdgesByStage& edges);

}  // namespace merak::pipeline
