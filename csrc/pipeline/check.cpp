#include "pipeline/check.h"

#include <array>
#include <stdexcept>

#include "pipeline/message_index.h"

namespace merak::pipeline {
namespace {

constexpr int kNever = -1;

// Where a rank does something, kNever if it does not.
using Position = int;

std::string of_microbatch(const Action& action) {
  return "stage " + std::to_string(action.stage) + ", micro-batch " + std::to_string(action.microbatch);
}

class Checking {
 public:
  Checking(const Schedule& schedule, std::size_t most)
      : schedule_(schedule),
        most_(most),
        communicates_(has_communication(schedule)),
        index_(schedule),
        edges_(schedule),
        at_(static_cast<std::size_t>(schedule.stages()) * schedule.microbatches, kNowhere),
        reduced_(schedule.stages(), kNever),
        sent_(index_.count(), kNever),
        received_(index_.count(), kNever),
        awaited_(index_.count(), kNever) {}

  std::vector<std::string> run() {
    for (std::size_t rank = 0; rank < schedule_.ranks.size(); ++rank)
      for (std::size_t position = 0; position < schedule_.ranks[rank].size(); ++position) note(rank, position);
    for (int stage = 0; stage < schedule_.stages(); ++stage)
      for (int microbatch = 0; microbatch < schedule_.microbatches; ++microbatch) check_complete(stage, microbatch);
    for (const Edge& edge : schedule_.edges)
      for (int microbatch = 0; microbatch < schedule_.microbatches; ++microbatch) {
        check_message({true, edge.producer, edge.consumer, microbatch});
        if (edge.gradient) check_message({false, edge.producer, edge.consumer, microbatch});
      }
    // Who waits for what would only repeat what is missing.
    if (problems_.empty()) walk();
    return std::move(problems_);
  }

 private:
  using Kinds = std::array<Position, 5>;  // of F, B, I, W, R
  static constexpr Kinds kNowhere = {kNever, kNever, kNever, kNever, kNever};

  void complain(std::string what) {
    if (problems_.size() < most_) problems_.push_back(std::move(what));
  }

  std::string where(int stage, Position position) const { return place(schedule_, rank_of(stage), position); }
  std::size_t rank_of(int stage) const { return schedule_.rank_of_stage[stage]; }
  bool crosses(const Message& message) const { return rank_of(message.producer) != rank_of(message.consumer); }
  Position& at(int stage, int microbatch, ActionKind kind) {
    return at_[static_cast<std::size_t>(stage) * schedule_.microbatches + microbatch][static_cast<std::size_t>(kind)];
  }
  // B or I.
  Position input_gradient(int stage, int microbatch) {
    const Position whole = at(stage, microbatch, ActionKind::kBackward);
    return whole != kNever ? whole : at(stage, microbatch, ActionKind::kBackwardInput);
  }

  void note(std::size_t rank, std::size_t position) {
    const Action& action = schedule_.ranks[rank][position];
    Position* first = nullptr;
    if (is_compute(action.kind)) {
      first = &at(action.stage, action.microbatch, action.kind);
    } else if (action.kind == ActionKind::kReduceGrad) {
      first = &reduced_[action.stage];
    } else {
      const Message message = message_of(action);
      const std::size_t number = index_(message);
      if (number == MessageIndex::kNone || !crosses(message))
        return complain(place(schedule_, rank, position) + ": nothing crosses ranks between stages " +
                        std::to_string(message.producer) + " and " + std::to_string(message.consumer));
      first = &(is_send(action.kind) ? sent_ : is_receive(action.kind) ? received_ : awaited_)[number];
    }
    if (*first != kNever)
      return complain(place(schedule_, rank, position) + ": it is there a second time, after position " +
                      std::to_string(*first));
    *first = static_cast<Position>(position);
  }

  void check_complete(int stage, int microbatch) {
    const Action forward{.kind = ActionKind::kForward, .stage = stage, .microbatch = microbatch};
    const auto of = [&](ActionKind kind) { return at(stage, microbatch, kind); };
    const std::string who = "rank " + std::to_string(rank_of(stage)) + ": " + of_microbatch(forward);
    if (of(ActionKind::kForward) == kNever) return complain(who + " has no F");
    const bool whole = of(ActionKind::kBackward) != kNever, input = of(ActionKind::kBackwardInput) != kNever,
               weight = of(ActionKind::kBackwardWeight) != kNever;
    if (whole && (input || weight)) return complain(who + " has a B, and an I or W as well");
    if (!whole && !(input && weight))
      return complain(who + (input ? " has an I, but no W" : weight ? " has a W, but no I" : " has no B"));
    before(stage, of(ActionKind::kForward), input_gradient(stage, microbatch));
    if (of(ActionKind::kRecompute) != kNever) {
      before(stage, of(ActionKind::kForward), of(ActionKind::kRecompute));
      before(stage, of(ActionKind::kRecompute), input_gradient(stage, microbatch));
    }
    if (input) before(stage, of(ActionKind::kBackwardInput), of(ActionKind::kBackwardWeight));
    if (reduced_[stage] != kNever)
      before(stage, whole ? of(ActionKind::kBackward) : of(ActionKind::kBackwardWeight), reduced_[stage]);
  }

  // Both are positions in the list of the stage's rank.
  void before(int stage, Position first, Position second) {
    if (first > second)
      complain(where(stage, second) + ": it comes before " + text(schedule_.ranks[rank_of(stage)][first]) +
               ", at position " + std::to_string(first) + ", which it needs");
  }

  void check_message(const Message& message) {
    const int from = message.sender(), to = message.receiver();
    const Position made =
        message.forward ? at(from, message.microbatch, ActionKind::kForward) : input_gradient(from, message.microbatch);
    const Position used =
        message.forward ? at(to, message.microbatch, ActionKind::kForward) : input_gradient(to, message.microbatch);
    if (made == kNever || used == kNever) return;  // said already
    if (!crosses(message)) return before(from, made, used);
    if (!communicates_) return;
    const std::size_t number = index_(message);
    if (sent_[number] == kNever)
      complain(where(from, made) + ": nothing sends its result to stage " + std::to_string(to));
    if (received_[number] == kNever) complain(missing("receives", message, used));
    if (awaited_[number] == kNever) complain(missing("waits for", message, used));
    if (sent_[number] == kNever || received_[number] == kNever || awaited_[number] == kNever) return;
    before(from, made, sent_[number]);
    before(to, received_[number], awaited_[number]);
    before(to, awaited_[number], used);
  }

  std::string missing(const std::string& what, const Message& message, Position used) const {
    return where(message.receiver(), used) + ": nothing " + what + " what it needs of stage " +
           std::to_string(message.sender());
  }

  bool has_happened(const Message& message, const std::vector<Position>& next) {
    const int from = message.sender();
    const Position made = communicates_ && crosses(message) ? sent_[index_(message)]
                          : message.forward                 ? at(from, message.microbatch, ActionKind::kForward)
                                                            : input_gradient(from, message.microbatch);
    return made < next[rank_of(from)];
  }

  bool can_go_on(const Action& action, const std::vector<Position>& next) {
    if (is_wait(action.kind)) return has_happened(message_of(action), next);
    if (communicates_) return true;
    for (const Message& message : needs(action, edges_))
      if (!has_happened(message, next)) return false;
    return true;
  }

  void walk() {
    std::vector<Position> next(schedule_.ranks.size(), 0);
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t rank = 0; rank < next.size(); ++rank)
        for (; next[rank] < static_cast<Position>(schedule_.ranks[rank].size()) &&
               can_go_on(schedule_.ranks[rank][next[rank]], next);
             ++next[rank])
          moved = true;
    }
    for (std::size_t rank = 0; rank < next.size(); ++rank)
      if (next[rank] < static_cast<Position>(schedule_.ranks[rank].size()))
        complain(place(schedule_, rank, next[rank]) + ": it waits for ever, as other ranks do: a deadlock");
  }

  const Schedule& schedule_;
  const std::size_t most_;
  const bool communicates_;
  const MessageIndex index_;
  const EdgesByStage edges_;
  std::vector<std::string> problems_;
  std::vector<Kinds> at_;
  std::vector<Position> reduced_, sent_, received_, awaited_;
};

}  // namespace

std::vector<std::string> check(const Schedule& schedule, std::size_t most) {
  check_bounds(schedule);
  return Checking(schedule, most).run();
}

void expect_right(const Schedule& schedule) {
  std::string all;
  for (const std::string& problem : check(schedule)) all += (all.empty() ? "" : "\n") + problem;
  if (!all.empty()) throw std::invalid_argument(all);
}

}  // namespace merak::pipeline
