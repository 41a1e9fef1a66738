#pragma once
// Schedules as tests write them: a string a rank, actions separated by spaces.

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "pipeline/schedule.h"

namespace merak::pipeline {

using Lists = std::vector<std::string>;

// A chain; every stage is where its first action is.
inline Schedule listed(const Lists& lists) {
  Schedule schedule;
  for (const std::string& list : lists) {
    const int rank = static_cast<int>(schedule.ranks.size());
    ActionList& actions = schedule.ranks.emplace_back();
    std::istringstream words(list);
    for (std::string word; words >> word;) {
      const auto action = parse_action(word);
      if (!action) throw std::logic_error("no action: " + word);
      actions.push_back(*action);
      schedule.microbatches = std::max(schedule.microbatches, action->microbatch + 1);
      if (action->stage >= schedule.stages()) schedule.rank_of_stage.resize(action->stage + 1, 0);
      schedule.rank_of_stage[action->stage] = rank;
    }
  }
  schedule.edges = chain(schedule.stages());
  return schedule;
}

inline Lists lists_of(const Schedule& schedule) {
  Lists lists;
  for (const ActionList& actions : schedule.ranks) {
    std::string list;
    for (const Action& action : actions) list += (list.empty() ? "" : " ") + text(action);
    lists.push_back(list);
  }
  return lists;
}

}  // namespace merak::pipeline
