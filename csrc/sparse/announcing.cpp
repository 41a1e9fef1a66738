#include "sparse/announcing.h"

#include <memory>
#include <utility>

#include "collectives/choose.h"
#include "collectives/cut.h"
#include "sparse/statistics.h"

namespace merak {

Announcing::Announcing(Announcement own, int rank, const Topology& topology, const Signature& signature)
    : own_(std::move(own)), rank_(rank), topology_(topology), signature_(signature) {
  if (carries_bitmaps(own_)) return;
  presence_ = write_presence(own_);
  own_.presence_bytes = presence_.size();
}

Act Announcing::first() {
  const std::size_t bytes = announcement_bytes(own_);
  announced_.resize(bytes);
  all_announced_.resize(bytes * topology_.host_of.size());
  write(own_, announced_.data());
  Act act{.signature = signature_, .program = {}, .input = {}, .output = {}, .reducer = {}};
  act.signature.bytes = bytes;
  const CollectiveShape shape{.kind = OperationKind::kAllGather, .bytes = bytes};
  Program program = choose(shape, rank_, topology_).program;
  count_announcement(program.bytes_of(StepKind::kSend));
  act.program = std::make_shared<PreparedProgram>(std::move(program));
  act.input.append(announced_.data(), announced_.size());
  act.output.append(all_announced_.data(), all_announced_.size());
  return act;
}

void Announcing::hear() {
  for (int rank = 0; rank < topology_.size(); ++rank) {
    const std::byte* theirs = all_announced_.data() + static_cast<std::size_t>(rank) * announced_.size();
    all_.push_back(parse_announcement(theirs, own_, rank, rank_));
  }
}

// Everyone sends everyone what it did not announce.
Act Announcing::second() {
  hear();
  Act act{.signature = signature_, .program = {}, .input = {}, .output = {}, .reducer = {}};
  std::vector<std::size_t> begin = {0};
  for (const Announcement& one : all_) begin.push_back(begin.back() + one.presence_bytes);
  presences_.resize(begin.back());
  Program program;
  for (int distance = 1; distance < topology_.size(); ++distance) {
    const int to = wrap(rank_ + distance, topology_.size());
    const auto from = static_cast<std::size_t>(wrap(rank_ - distance, topology_.size()));
    program.send(to, {kInput, 0}, presence_.size());
    program.receive(static_cast<int>(from), {kOutput, begin[from]}, all_[from].presence_bytes);
  }
  program.copy({kOutput, begin[static_cast<std::size_t>(rank_)]}, {kInput, 0}, presence_.size());
  count_announcement(program.bytes_of(StepKind::kSend));
  act.program = std::make_shared<PreparedProgram>(std::move(program));
  act.input.append(presence_.data(), presence_.size());
  act.output.append(presences_.data(), presences_.size());
  return act;
}

std::vector<Announcement> Announcing::heard() {
  if (carries_bitmaps(own_)) {
    hear();
    return std::move(all_);
  }
  std::size_t begin = 0;
  for (Announcement& one : all_) {
    parse_presence({presences_.data() + begin, one.presence_bytes}, one);
    begin += one.presence_bytes;
  }
  return std::move(all_);
}

}  // namespace merak
