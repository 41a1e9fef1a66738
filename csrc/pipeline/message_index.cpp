#include "pipeline/message_index.h"

#include <algorithm>

namespace merak::pipeline {
namespace {

// Values along `values`, gradients along `gradients`.
std::vector<Message> messages(const Action& action, const std::vector<Edge>& values,
                              const std::vector<Edge>& gradients) {
  std::vector<Message> found;
  if (action.kind == ActionKind::kForward)
    for (const Edge& edge : values) found.push_back({true, edge.producer, edge.consumer, action.microbatch});
  if (gives_input_gradient(action.kind))
    for (const Edge& edge : gradients)
      if (edge.gradient) found.push_back({false, edge.producer, edge.consumer, action.microbatch});
  return found;
}

}  // namespace

MessageIndex::MessageIndex(const Schedule& schedule)
    : edges_(schedule.edges.size()), microbatches_(schedule.microbatches), from_(schedule.stages()) {
  for (std::size_t number = 0; number < edges_; ++number) {
    const Edge& edge = schedule.edges[number];
    from_[edge.producer].push_back({edge.consumer, number, edge.gradient});
  }
}

std::size_t MessageIndex::operator()(const Message& message) const {
  const std::vector<Out>& out = from_[message.producer];
  const auto edge =
      std::find_if(out.begin(), out.end(), [&](const Out& one) { return one.consumer == message.consumer; });
  if (edge == out.end() || (!message.forward && !edge->gradient)) return kNone;
  return (2 * edge->number + (message.forward ? 0 : 1)) * microbatches_ + message.microbatch;
}

EdgesByStage::EdgesByStage(const Schedule& schedule) : from(schedule.stages()), to(schedule.stages()) {
  for (const Edge& edge : schedule.edges) from[edge.producer].push_back(edge), to[edge.consumer].push_back(edge);
}

std::vector<Message> needs(const Action& action, const EdgesByStage& edges) {
  return messages(action, edges.to[action.stage], edges.from[action.stage]);
}

std::vector<Message> gives(const Action& action, const EdgesByStage& edges) {
  return messages(action, edges.from[action.stage], edges.to[action.stage]);
}

}  // namespace merak::pipeline
