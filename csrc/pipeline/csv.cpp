#include "pipeline/csv.h"

#include <algorithm>
#include <array>
#include <map>
#include <stdexcept>
#include <utility>

#include "pipeline/communication.h"

namespace merak::pipeline {
namespace {

constexpr std::size_t kMostBytes = 256 << 20;
constexpr std::array<std::string_view, 5> kDropped = {"UNSHARD", "RESHARD", "WAIT_SEND_F", "WAIT_SEND_B",
                                                      "WAIT_REDUCE_GRAD"};
constexpr std::string_view kOverlap = "OVERLAP_F_B";

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r");
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

// Takes the text before the next `separator`, and that.
std::string_view take(std::string_view& text, char separator) {
  const std::size_t end = std::min(text.find(separator), text.size());
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return taken;
}

class Reading {
 public:
  explicit Reading(std::string_view text) : text_(text) {}

  Csv run() {
    if (text_.size() > kMostBytes) throw std::invalid_argument("a schedule of more than 256 MiB of text");
    while (!text_.empty()) row(take(text_, '\n'));
    while (!schedule_.ranks.empty() && schedule_.ranks.back().empty()) schedule_.ranks.pop_back();
    place_stages();
    schedule_.edges = chain(schedule_.stages());
    check_bounds(schedule_);
    if (has_communication(schedule_)) find_edges();
    const bool torch_waits = has_communication(schedule_) && !waits_;
    return {torch_waits ? with_waits(schedule_) : std::move(schedule_), notes()};
  }

 private:
  void row(std::string_view cells) {
    schedule_.ranks.emplace_back();
    if (schedule_.ranks.size() > kMostStages) complain("there are more rows than " + std::to_string(kMostStages));
    for (cell_ = 0; !cells.empty(); ++cell_)
      if (const std::string_view cell = trimmed(take(cells, ',')); !cell.empty()) read(cell);
  }

  void read(std::string_view cell) {
    if (!cell.starts_with('(')) return read_action(cell, false);
    const std::size_t close = cell.find(')');
    if (close == cell.npos || cell.substr(close + 1) != kOverlap)
      complain("'" + shown(cell) + "' is no pair such as (0F3;5B1)" + std::string(kOverlap));
    std::string_view pair = cell.substr(1, close - 1);
    const std::string_view first = trimmed(take(pair, ';')), second = trimmed(pair);
    const ActionList& actions = schedule_.ranks.back();
    const std::size_t before = actions.size();
    read_action(first, true);
    read_action(second, false);
    if (actions.size() != before + 2 || !is_compute(actions.back().kind) || !is_compute(actions[before].kind))
      complain("only computing overlaps, not '" + shown(cell) + "'");
  }

  void read_action(std::string_view text, bool overlaps_next) {
    if (const std::size_t letters = text.find_first_not_of("0123456789"); letters != text.npos && letters > 0) {
      const std::string_view kind = text.substr(letters, text.find_last_not_of("0123456789") + 1 - letters);
      const auto dropped = std::find(kDropped.begin(), kDropped.end(), kind);
      if (dropped != kDropped.end() && !overlaps_next) {
        ++dropped_[*dropped];
        return;
      }
    }
    std::optional<Action> action = parse_action(text);
    if (!action) complain("'" + shown(text) + "' is no action such as 2F0 or 1SEND_F3");
    action->overlaps_next = overlaps_next;
    waits_ |= is_wait(action->kind);
    schedule_.ranks.back().push_back(*action);
    ++actions_;
  }

  // The text may be anything; a little of it will do.
  static std::string shown(std::string_view text) {
    std::string result;
    for (char c : text.substr(0, 40)) result += c >= ' ' && c <= '~' ? c : '?';
    return result;
  }

  [[noreturn]] void complain(const std::string& what) const {
    throw std::invalid_argument("row " + std::to_string(schedule_.ranks.size()) + ", cell " +
                                std::to_string(cell_ + 1) + ": " + what);
  }

  void place_stages() {
    if (actions_ == 0) throw std::invalid_argument("a schedule without actions");
    std::size_t stages = 0, microbatches = 0;
    for (const ActionList& actions : schedule_.ranks)
      for (const Action& action : actions) {
        stages = std::max(stages, static_cast<std::size_t>(action.stage) + 1);
        microbatches = std::max(microbatches, static_cast<std::size_t>(action.microbatch + 1));
      }
    // Each needs an F. So memory is bounded by the text.
    if (stages > kMostStages || microbatches == 0 || microbatches > actions_ / stages)
      throw std::invalid_argument(std::to_string(stages) + " stages and " + std::to_string(microbatches) +
                                  " micro-batches, but only " + std::to_string(actions_) + " actions");
    schedule_.microbatches = static_cast<int>(microbatches);
    schedule_.rank_of_stage.assign(stages, -1);
    for (std::size_t rank = 0; rank < schedule_.ranks.size(); ++rank)
      for (const Action& action : schedule_.ranks[rank])
        if (int& of = schedule_.rank_of_stage[action.stage]; of < 0) of = static_cast<int>(rank);
    for (std::size_t stage = 0; stage < stages; ++stage)
      if (schedule_.rank_of_stage[stage] < 0)
        throw std::invalid_argument("stage " + std::to_string(stage) + " has no actions");
  }

  // Those that messages cross, and the chain inside ranks.
  void find_edges() {
    std::erase_if(schedule_.edges, [&](const Edge& edge) {
      return schedule_.rank_of_stage[edge.producer] != schedule_.rank_of_stage[edge.consumer];
    });
    std::map<std::pair<int, int>, bool> crossed;  // (producer, consumer): whether a gradient comes back
    for (const ActionList& actions : schedule_.ranks)
      for (const Action& action : actions) {
        if (!is_communication(action.kind)) continue;
        const Message message = message_of(action);
        crossed[{message.producer, message.consumer}] |= !message.forward;
      }
    for (const auto& [ends, gradient] : crossed) schedule_.edges.push_back({ends.first, ends.second, gradient});
    schedule_.edges = checked_edges(std::move(schedule_.edges), schedule_.stages());
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> notes;
    for (const auto& [kind, count] : dropped_)
      notes.push_back("left out " + std::to_string(count) + " " + std::string(kind));
    return notes;
  }

  std::string_view text_;
  Schedule schedule_;
  std::size_t cell_ = 0, actions_ = 0;
  bool waits_ = false;
  std::map<std::string_view, std::size_t> dropped_;
};

std::string joined(const std::vector<std::string>& cells) {
  std::string row;
  for (const std::string& cell : cells) row += (row.empty() ? "" : ",") + cell;
  return row + "\n";
}

// Appends the action; the second of a pair goes into the cell of the first.
void append(std::vector<std::string>& cells, const ActionList& actions, std::size_t at) {
  const bool second = at > 0 && actions[at - 1].overlaps_next;
  if (second)
    cells.back() += ";" + text(actions[at]) + ")" + std::string(kOverlap);
  else
    cells.push_back((actions[at].overlaps_next ? "(" : "") + text(actions[at]));
}

void refuse_recompute(const Schedule& schedule, std::size_t rank, std::size_t at) {
  const Action& action = schedule.ranks[rank][at];
  if (action.kind == ActionKind::kRecompute)
    throw std::invalid_argument(place(schedule, rank, at) +
                                ": torch's schedules have no recompute; make one without it");
}

}  // namespace

Csv read_csv(std::string_view text) { return Reading(text).run(); }

std::string write_csv(const Schedule& schedule) {
  std::string all;
  for (const ActionList& actions : schedule.ranks) {
    std::vector<std::string> cells;
    for (std::size_t at = 0; at < actions.size(); ++at) append(cells, actions, at);
    all += joined(cells);
  }
  return all;
}

std::string write_torch_csv(const Schedule& schedule, bool communication) {
  for (const Edge& edge : schedule.edges)
    if (edge.consumer != edge.producer + 1)
      throw std::invalid_argument("stage " + std::to_string(edge.producer) + " gives to stage " +
                                  std::to_string(edge.consumer) +
                                  ": torch's schedules send to neighbouring stages only");
  std::string all;
  for (std::size_t rank = 0; rank < schedule.ranks.size(); ++rank) {
    const ActionList& actions = schedule.ranks[rank];
    std::vector<std::string> cells, sends;
    for (std::size_t at = 0; at < actions.size(); ++at) {
      const Action& action = actions[at];
      refuse_recompute(schedule, rank, at);
      if (is_wait(action.kind) || (!communication && !is_compute(action.kind))) continue;
      append(cells, actions, at);
      const std::string stage = std::to_string(action.stage);
      if (action.kind == ActionKind::kReduceGrad) cells.push_back(stage + "WAIT_REDUCE_GRAD");
      if (is_send(action.kind))
        sends.push_back(stage + "WAIT_" + name(action.kind) + std::to_string(action.microbatch));
    }
    cells.insert(cells.end(), sends.begin(), sends.end());
    all += joined(cells);
  }
  return all;
}

}  // namespace merak::pipeline
