#include "transport/validate.h"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "transport/event_graph.h"

namespace merak {
namespace {

std::string name_of(int rank, std::size_t index, const Step& step) {
  std::string text = "rank " + std::to_string(rank) + ", step " + std::to_string(index) + " (";
  const std::string bytes = std::to_string(step.bytes) + " bytes";
  if (step.kind == StepKind::kSend) text += "send of " + bytes + " to rank " + std::to_string(step.peer);
  if (step.kind == StepKind::kReceive) text += "receive of " + bytes + " from rank " + std::to_string(step.peer);
  if (step.kind == StepKind::kReduce) text += "reduce of " + bytes;
  if (step.kind == StepKind::kCopy) text += "copy of " + bytes;
  if (step.kind == StepKind::kSumRows) text += "sums of rows, " + bytes;
  if (step.kind == StepKind::kCopyStrided) text += "strided copy of " + bytes;
  return text + ")";
}

// What one step does to one range of memory.
struct Access {
  std::uint32_t step;
  Place place;
  std::size_t bytes;
  bool writes;

  std::size_t end() const { return place.offset + bytes; }
};

// Rows of a place, those that lie next to each other as one range.
void add_rows(std::vector<Access>& accesses, std::uint32_t step, Place place, std::vector<std::uint32_t> rows,
              std::size_t row_bytes, std::size_t pitch, bool writes) {
  std::sort(rows.begin(), rows.end());
  // Rows written twice stay two ranges, which then overlap; rows read twice do no harm.
  if (!writes) rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  const std::size_t begin = accesses.size();
  for (std::uint32_t row : rows) {
    const Place at = {place.buffer, place.offset + row * pitch};
    if (accesses.size() > begin && accesses.back().end() == at.offset)
      accesses.back().bytes += row_bytes;
    else
      accesses.push_back({step, at, row_bytes, writes});
  }
}

// But those that are read to be written themselves, in the same place.
std::vector<std::uint32_t> rows_read(const RowSums& sums, bool in_place) {
  std::vector<std::uint32_t> rows;
  for (std::size_t i = 0; i < sums.rows(); ++i)
    for (std::uint32_t next = sums.first[i]; next < sums.first[i + 1]; ++next) {
      const std::uint32_t source = sums.from[next];
      const bool is_itself = in_place && RowSums::row_of(source) == sums.at[i];
      if (source != RowSums::kZeros && !is_itself) rows.push_back(RowSums::row_of(source));
    }
  return rows;
}

// The pieces of one side of a strided copy, those that follow each other without a gap as one range.
void add_pieces(std::vector<Access>& accesses, std::uint32_t step, Place place, const StridedCopy& copy, bool writes) {
  std::size_t end = SIZE_MAX;  // of the range that the last piece belongs to
  copy.for_each_piece([&](std::size_t at, std::size_t from) {
    const Place piece = {place.buffer, place.offset + (writes ? at : from)};
    if (piece.offset == end)
      accesses.back().bytes += copy.piece_bytes;
    else
      accesses.push_back({step, piece, copy.piece_bytes, writes});
    end = accesses.back().end();
  });
}

std::vector<Access> accesses_of(const Program& program) {
  std::vector<Access> accesses;
  for (std::uint32_t index = 0; index < program.steps.size(); ++index) {
    const Step& step = program.steps[index];
    if (step.bytes == 0) continue;
    if (step.kind == StepKind::kSumRows) {
      const RowSums& sums = program.row_sums[step.row_sums];
      add_rows(accesses, index, step.at, sums.at, sums.row_bytes, sums.at_pitch, true);
      add_rows(accesses, index, step.from, rows_read(sums, step.at == step.from), sums.row_bytes, sums.from_pitch,
               false);
      continue;
    }
    if (step.kind == StepKind::kCopyStrided) {
      const StridedCopy& copy = program.strided_copies[step.strided_copy];
      add_pieces(accesses, index, step.at, copy, true);
      add_pieces(accesses, index, step.from, copy, false);
      continue;
    }
    accesses.push_back({index, step.at, step.bytes, step.kind != StepKind::kSend});
    if (step.kind == StepKind::kReduce || step.kind == StepKind::kCopy)
      accesses.push_back({index, step.from, step.bytes, false});
  }
  return accesses;
}

class Validator {
 public:
  Validator(const std::vector<Program>& programs, const std::vector<BufferSizes>& buffers)
      : programs_(programs), buffers_(buffers) {}

  void run() {
    if (programs_.size() != buffers_.size()) throw std::logic_error("validate: as many programs as buffer sizes");
    for (int rank = 0; rank < static_cast<int>(programs_.size()); ++rank) {
      check_steps(rank);
      check_places(rank);
    }
    check_matching();
    const EventGraph graph(programs_);
    const std::vector<std::uint32_t> order = check_progress(graph);
    for (int rank = 0; rank < static_cast<int>(programs_.size()); ++rank) check_memory(graph, order, rank);
  }

 private:
  [[noreturn]] void fail(int rank, std::size_t index, const std::string& fault) const {
    throw std::logic_error(name_of(rank, index, programs_[rank].steps[index]) + ": " + fault);
  }

  void check_steps(int rank) const {
    const int size = static_cast<int>(programs_.size());
    const std::vector<Step>& steps = programs_[rank].steps;
    for (std::size_t index = 0; index < steps.size(); ++index) {
      for (std::uint32_t before : steps[index].after)
        if (before >= index)
          fail(rank, index, "comes after step " + std::to_string(before) + ", which is no earlier step");
      const int peer = steps[index].peer;
      const bool has_peer = steps[index].kind == StepKind::kSend || steps[index].kind == StepKind::kReceive;
      if (has_peer && (peer < 0 || peer >= size || peer == rank)) fail(rank, index, "there is no such peer");
    }
  }

  void check_places(int rank) const {
    const Program& program = programs_[rank];
    for (const Access& access : accesses_of(program)) {
      const std::size_t buffer = static_cast<std::size_t>(access.place.buffer);
      if (access.place.buffer < 0 || buffer >= kScratch + program.scratch.size())
        fail(rank, access.step, "there is no buffer " + std::to_string(access.place.buffer));
      const std::size_t size = access.place.buffer == kInput    ? buffers_[rank].input
                               : access.place.buffer == kOutput ? buffers_[rank].output
                                                                : program.scratch[buffer - kScratch];
      if (access.end() < access.bytes || access.end() > size)
        fail(rank, access.step,
             "bytes " + std::to_string(access.place.offset) + " to " + std::to_string(access.end()) + " of buffer " +
                 std::to_string(buffer) + ", which has " + std::to_string(size));
      if (access.writes && access.place.buffer == kInput) fail(rank, access.step, "writes to the input");
    }
  }

  void check_matching() const {
    const Routes sends = routes_of(programs_, StepKind::kSend), receives = routes_of(programs_, StepKind::kReceive);
    for (const auto& [route, steps] : sends) check_route(route, steps, receives);
    for (const auto& [route, steps] : receives)
      if (!sends.count(route)) fail(route.to, steps.front(), "nothing is sent");
  }

  void check_route(Route route, const std::vector<std::uint32_t>& sends, const Routes& receives) const {
    const auto at = receives.find(route);
    const std::size_t received = at == receives.end() ? 0 : at->second.size();
    for (std::size_t i = 0; i < std::min(sends.size(), received); ++i)
      if (programs_[route.from].steps[sends[i]].bytes != programs_[route.to].steps[at->second[i]].bytes)
        fail(route.from, sends[i],
             "its receive is " + name_of(route.to, at->second[i], programs_[route.to].steps[at->second[i]]));
    if (sends.size() > received) fail(route.from, sends[received], "nobody receives it");
    if (sends.size() < received) fail(route.to, at->second[sends.size()], "nothing is sent");
  }

  // The events in an order in which they can happen.
  std::vector<std::uint32_t> check_progress(const EventGraph& graph) const {
    std::vector<std::uint32_t> order = graph.order();
    if (order.size() == graph.size()) return order;
    std::vector<bool> happens(graph.size(), false);
    for (std::uint32_t event : order) happens[event] = true;
    for (int rank = 0; rank < static_cast<int>(programs_.size()); ++rank)
      for (std::uint32_t index = 0; index < programs_[rank].steps.size(); ++index)
        if (!happens[graph.start(rank, index)]) fail(rank, index, "deadlock: waits for itself");
    throw std::logic_error("validate: deadlock");
  }

  void check_memory(const EventGraph& graph, const std::vector<std::uint32_t>& order, int rank) const {
    const Ancestors done_before(graph, order, rank);
    std::vector<Access> accesses = accesses_of(programs_[rank]);
    std::sort(accesses.begin(), accesses.end(), [](const Access& a, const Access& b) {
      return std::tie(a.place.buffer, a.place.offset) < std::tie(b.place.buffer, b.place.offset);
    });
    for (std::size_t i = 0; i < accesses.size(); ++i)
      for (std::size_t j = i + 1; j < accesses.size() && accesses[j].place.buffer == accesses[i].place.buffer &&
                                  accesses[j].place.offset < accesses[i].end();
           ++j)
        check_pair(graph, done_before, rank, accesses[i], accesses[j]);
  }

  void check_pair(const EventGraph& graph, const Ancestors& done_before, int rank, const Access& a,
                  const Access& b) const {
    if (!a.writes && !b.writes) return;
    if (a.step == b.step) fail(rank, a.step, "reads what it writes");
    if (done_before(graph.start(rank, b.step), a.step) || done_before(graph.start(rank, a.step), b.step)) return;
    fail(
        rank, a.step,
        "may run at the same time as " + name_of(rank, b.step, programs_[rank].steps[b.step]) + ", on the same memory");
  }

  const std::vector<Program>& programs_;
  const std::vector<BufferSizes>& buffers_;
};

}  // namespace

void validate(const std::vector<Program>& programs, const std::vector<BufferSizes>& buffers) {
  Validator(programs, buffers).run();
}

}  // namespace merak
