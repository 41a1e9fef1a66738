#pragma once
// Short names for steps, so that the programs in tests read like the algorithms.

#include <ostream>
#include <utility>
#include <vector>

#include "transport/program.h"

namespace merak {

using After = std::vector<std::uint32_t>;

inline Place in(std::size_t offset = 0) { return {kInput, offset}; }
inline Place out(std::size_t offset = 0) { return {kOutput, offset}; }
inline Place scratch(std::size_t offset = 0, int buffer = kScratch) { return {buffer, offset}; }

inline Step send(int peer, Place at, std::size_t bytes, After after = {}) {
  return {StepKind::kSend, peer, at, {}, bytes, std::move(after)};
}
inline Step receive(int peer, Place at, std::size_t bytes, After after = {}) {
  return {StepKind::kReceive, peer, at, {}, bytes, std::move(after)};
}
inline Step reduce(Place at, Place from, std::size_t bytes, After after) {
  return {StepKind::kReduce, -1, at, from, bytes, std::move(after)};
}
inline Step complete(Place at, Place from, std::size_t bytes, After after) {
  return {StepKind::kReduce, -1, at, from, bytes, std::move(after), true};
}
inline Step copy(Place at, Place from, std::size_t bytes, After after = {}) {
  return {StepKind::kCopy, -1, at, from, bytes, std::move(after)};
}

using Steps = std::vector<Step>;

// For GoogleTest's messages.
inline void PrintTo(const Step& step, std::ostream* text) {
  const auto place = [&](Place at) { *text << "buffer " << at.buffer << " + " << at.offset; };
  constexpr const char* kNames[] = {"send", "receive", "reduce", "copy"};
  *text << kNames[static_cast<int>(step.kind)] << (step.completes ? " (last)" : "") << " " << step.bytes
        << " bytes at ";
  place(step.at);
  if (step.peer >= 0) *text << ", peer " << step.peer;
  if (step.kind == StepKind::kReduce || step.kind == StepKind::kCopy) *text << ", from ", place(step.from);
  *text << ", after {";
  for (std::uint32_t before : step.after) *text << " " << before;
  *text << " }\n";
}

}  // namespace merak
