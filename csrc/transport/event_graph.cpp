#include "transport/event_graph.h"

namespace merak {

Routes routes_of(const std::vector<Program>& programs, StepKind kind) {
  Routes routes;
  for (int rank = 0; rank < static_cast<int>(programs.size()); ++rank)
    for (std::uint32_t index = 0; index < programs[rank].steps.size(); ++index) {
      const Step& step = programs[rank].steps[index];
      if (step.kind != kind) continue;
      const Route route = kind == StepKind::kSend ? Route{rank, step.peer} : Route{step.peer, rank};
      routes[route].push_back(index);
    }
  return routes;
}

EventGraph::EventGraph(const std::vector<Program>& programs) : first_{0} {
  for (const Program& program : programs)
    first_.push_back(first_.back() + 3 * static_cast<std::uint32_t>(program.steps.size()));
  followers_.resize(first_.back());

  for (int rank = 0; rank < static_cast<int>(programs.size()); ++rank)
    for (std::uint32_t index = 0; index < programs[rank].steps.size(); ++index) {
      edge(start(rank, index), done(rank, index));
      for (std::uint32_t before : programs[rank].steps[index].after) {
        edge(done(rank, before), start(rank, index));
        edge(done(rank, before), grant(rank, index));
      }
    }

  Routes receives = routes_of(programs, StepKind::kReceive);
  for (const auto& [route, sends] : routes_of(programs, StepKind::kSend))
    for (std::size_t i = 0; i < sends.size(); ++i) {
      const std::uint32_t send = sends[i], receive = receives[route][i];
      edge(start(route.from, send), start(route.to, receive));
      edge(done(route.from, send), done(route.to, receive));
      edge(grant(route.to, receive), start(route.from, send));
      if (i > 0) edge(grant(route.to, receives[route][i - 1]), grant(route.to, receive));
    }
}

std::vector<std::uint32_t> EventGraph::order() const {
  std::vector<std::uint32_t> waits_for(size(), 0), order;
  for (const auto& followers : followers_)
    for (std::uint32_t event : followers) ++waits_for[event];
  order.reserve(size());
  for (std::uint32_t event = 0; event < size(); ++event)
    if (waits_for[event] == 0) order.push_back(event);
  for (std::size_t i = 0; i < order.size(); ++i)
    for (std::uint32_t event : followers_[order[i]])
      if (--waits_for[event] == 0) order.push_back(event);
  return order;
}

Ancestors::Ancestors(const EventGraph& graph, const std::vector<std::uint32_t>& order, int rank)
    : words_((graph.steps_of(rank) + 63) / 64), bits_(graph.size() * words_, 0) {
  const std::uint32_t first = graph.start(rank, 0), end = first + 3 * graph.steps_of(rank);
  for (std::uint32_t event : order) {
    if (graph.is_grant(event)) continue;
    const bool marks = first <= event && event < end && event % 3 == 1;
    for (std::uint32_t follower : graph.followers(event)) {
      for (std::size_t word = 0; word < words_; ++word) bits_[follower * words_ + word] |= bits_[event * words_ + word];
      if (marks) bits_[follower * words_ + (event - first) / 3 / 64] |= std::uint64_t{1} << ((event - first) / 3 % 64);
    }
  }
}

}  // namespace merak
