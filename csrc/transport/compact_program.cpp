#include "transport/compact_program.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace merak {
namespace {

constexpr std::uint32_t kUnknown = UINT32_MAX;

std::string place_name(std::size_t rank, std::uint32_t step) {
  return "rank " + std::to_string(rank) + ", step " + std::to_string(step);
}

}  // namespace

CompactProgram::CompactProgram(const Program& program) {
  const std::vector<Step>& steps = program.steps;
  items.resize(steps.size() + 1, {});
  for (std::uint32_t i = 0; i < steps.size(); ++i) {
    const std::uint32_t waits_for = static_cast<std::uint32_t>(steps[i].after.size());
    items[i] = {steps[i].bytes, steps[i].peer, waits_for, 0, 0, steps[i].kind, false};
    for (std::uint32_t before : steps[i].after) ++items[before + 1].successors;
    if (steps[i].kind == StepKind::kReceive) receives.push_back(i);
  }
  for (std::size_t i = 1; i < items.size(); ++i) items[i].successors += items[i - 1].successors;
  successors.resize(items.back().successors);
  std::vector<std::uint32_t> next(steps.size());
  for (std::uint32_t i = 0; i < steps.size(); ++i) {
    next[i] = items[i].successors;
    for (std::uint32_t before : steps[i].after) successors[next[before]++] = i;
  }
  std::stable_sort(receives.begin(), receives.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return steps[a].peer < steps[b].peer; });
  sender.assign(receives.size(), kUnknown);
  for (std::uint32_t place = 0; place < receives.size(); ++place) {
    const Step& step = steps[receives[place]];
    if (incoming.empty() || incoming.back().peer != step.peer) incoming.push_back({step.peer, place, 0, 0, 0});
    ++incoming.back().count;
    incoming.back().bytes += step.bytes;
  }
}

CompactProgram::Incoming* CompactProgram::from(int peer) {
  const auto at = std::lower_bound(incoming.begin(), incoming.end(), peer,
                                   [](const Incoming& entry, int wanted) { return entry.peer < wanted; });
  return at != incoming.end() && at->peer == peer ? &*at : nullptr;
}

void match(std::vector<CompactProgram>& programs) {
  std::vector<std::uint32_t> sent(programs.size());  // by peer
  for (std::size_t rank = 0; rank < programs.size(); ++rank) {
    std::fill(sent.begin(), sent.end(), 0);
    for (std::uint32_t i = 0; i + 1 < programs[rank].items.size(); ++i) {
      CompactProgram::Item& item = programs[rank].items[i];
      if (item.kind != StepKind::kSend) continue;
      CompactProgram& peer = programs.at(static_cast<std::size_t>(item.peer));
      const CompactProgram::Incoming* incoming = peer.from(static_cast<int>(rank));
      const std::uint32_t message = sent[item.peer]++;
      if (!incoming || message >= incoming->count) throw std::logic_error(place_name(rank, i) + ": nobody receives it");
      item.partner = peer.receives[incoming->first + message];
      peer.sender[incoming->first + message] = i;
    }
  }
  for (std::size_t rank = 0; rank < programs.size(); ++rank)
    for (std::uint32_t place = 0; place < programs[rank].receives.size(); ++place)
      if (programs[rank].sender[place] == kUnknown)
        throw std::logic_error(place_name(rank, programs[rank].receives[place]) + ": nothing is sent");
}

}  // namespace merak
