#include "pipeline/links.h"

namespace merak::pipeline {

Links::Ends Links::ends_of(int from, int to) const {
  if (shared_) return {from, ranks_ + to};
  return {from * ranks_ + to, from * ranks_ + to};
}

bool Links::begins(Ends ends) {
  Resource &out = resources_[ends.first], &in = resources_[ends.second];
  if (out.busy || in.busy) return false;
  out.busy = in.busy = true;
  return true;
}

bool Links::ready(std::size_t message, int from, int to) {
  const Ends ends = ends_of(from, to);
  const std::size_t turn = turns_++;
  open_[message] = {ends, turn};
  if (begins(ends)) return true;
  resources_[ends.first].waiting.emplace(turn, message);
  resources_[ends.second].waiting.emplace(turn, message);
  return false;
}

std::vector<std::size_t> Links::done(std::size_t message) {
  const Ends freed = open_.at(message).first;
  open_.erase(message);
  resources_[freed.first].busy = resources_[freed.second].busy = false;
  std::vector<std::size_t> beginning;
  for (int resource : {freed.first, freed.second})
    for (const auto& entry : resources_[resource].waiting) {
      const Ends ends = open_.at(entry.second).first;
      if (!begins(ends)) continue;
      beginning.push_back(entry.second);
      const auto begun = entry;
      resources_[ends.first].waiting.erase(begun);
      resources_[ends.second].waiting.erase(begun);
      break;  // this resource is busy again
    }
  return beginning;
}

}  // namespace merak::pipeline
