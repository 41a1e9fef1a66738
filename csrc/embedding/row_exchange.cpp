#include "embedding/row_exchange.h"

#include <algorithm>
#include <utility>

#include "collectives/cut.h"
#include "collectives/pairwise_all_to_all.h"
#include "sparse/window.h"

namespace merak {
namespace {

std::vector<Place> lay_out(Program& program, const std::vector<Part>& parts) {
  std::vector<std::size_t> ends;
  for (const Part& part : parts) ends.push_back((ends.empty() ? 0 : ends.back()) + part.bytes());
  const int buffer = program.add_scratch(ends.back());
  std::vector<Place> places;
  for (std::size_t i = 0; i < parts.size(); ++i) places.push_back({buffer, ends[i] - parts[i].bytes()});
  return places;
}

std::size_t segment_rows(const Part& part) {
  return part.row_bytes == 0 ? part.rows : std::max<std::size_t>(kAllToAllSegment / part.row_bytes, 1);
}

std::size_t segments(const Part& part) {
  return part.bytes() == 0 ? 0 : (part.rows + segment_rows(part) - 1) / segment_rows(part);
}

std::vector<Window> windows(Program& program, const std::vector<Part>& parts) {
  std::vector<Window> windows;
  for (const Part& part : parts)
    windows.emplace_back(program, std::min(part.rows, segment_rows(part)) * part.row_bytes, segments(part));
  return windows;
}

class Cycles {
 public:
  Cycles(Program& program, const RowExchange& exchange)
      : program_(program),
        exchange_(exchange),
        size_(static_cast<int>(exchange.send.size())),
        window_(all_to_all_window(size_)),
        sent_(windows(program, others(exchange.send, exchange.rank))),
        arrivals_(exchange.send.size()) {
    if (exchange.keep)
      kept_ = lay_out(program, exchange.receive);
    else
      received_ = windows(program, exchange.receive);
  }

  std::vector<Place> run() {
    std::size_t cycles = 0;
    for (const Part& part : exchange_.send) cycles = std::max(cycles, segments(part));
    for (const Part& part : exchange_.receive) cycles = std::max(cycles, segments(part));
    for (std::size_t cycle = 0; cycle < cycles; ++cycle) {
      for (int distance = 1; distance < size_; ++distance) send(cycle, distance);
      take_own(cycle);
      for (int distance = 1; distance < size_; ++distance) receive(cycle, distance);
    }
    return std::move(kept_);
  }

 private:
  static std::vector<Part> others(std::vector<Part> parts, int rank) {
    parts[static_cast<std::size_t>(rank)].rows = 0;
    return parts;
  }

  void send(std::size_t cycle, int distance) {
    const int peer = wrap(exchange_.rank + distance, size_);
    const Part& part = exchange_.send[static_cast<std::size_t>(peer)];
    if (cycle >= segments(part)) return;
    Window& window = sent_[static_cast<std::size_t>(peer)];
    const Segment segment = segment_of(part, peer, window.place(cycle), cycle);
    std::vector<std::uint32_t> after = {exchange_.make(program_, segment, window.free_after(cycle))};
    const auto& arrivals = arrivals_[static_cast<std::size_t>(distance)];
    if (cycle >= window_ && cycle - window_ < arrivals.size()) after.push_back(arrivals[cycle - window_]);
    window.end_use(cycle, {program_.send(peer, segment.place, bytes_of(segment, part), std::move(after))});
  }

  void receive(std::size_t cycle, int distance) {
    const int peer = wrap(exchange_.rank - distance, size_);
    const Part& part = exchange_.receive[static_cast<std::size_t>(peer)];
    if (cycle >= segments(part)) return;
    const Segment segment = segment_of(part, peer, place_for(peer, cycle), cycle);
    const std::uint32_t come = program_.receive(peer, segment.place, bytes_of(segment, part), free_after(peer, cycle));
    arrivals_[static_cast<std::size_t>(distance)].push_back(come);
    end_use(peer, cycle, exchange_.use(program_, segment, come));
  }

  void take_own(std::size_t cycle) {
    const int self = exchange_.rank;
    const Part& part = exchange_.receive[static_cast<std::size_t>(self)];
    if (cycle >= segments(part)) return;
    const Segment segment = segment_of(part, self, place_for(self, cycle), cycle);
    const std::uint32_t made = exchange_.make(program_, segment, free_after(self, cycle));
    end_use(self, cycle, exchange_.use(program_, segment, made));
  }

  // Where the segment from a rank comes to, and after which steps it may.
  Place place_for(int peer, std::size_t cycle) const {
    const auto at = static_cast<std::size_t>(peer);
    if (!exchange_.keep) return received_[at].place(cycle);
    const Part& part = exchange_.receive[at];
    return {kept_[at].buffer, kept_[at].offset + cycle * segment_rows(part) * part.row_bytes};
  }
  std::vector<std::uint32_t> free_after(int peer, std::size_t cycle) const {
    return exchange_.keep ? std::vector<std::uint32_t>() : received_[static_cast<std::size_t>(peer)].free_after(cycle);
  }
  void end_use(int peer, std::size_t cycle, std::uint32_t step) {
    if (!exchange_.keep) received_[static_cast<std::size_t>(peer)].end_use(cycle, {step});
  }

  static Segment segment_of(const Part& part, int peer, Place place, std::size_t cycle) {
    const std::size_t begin = cycle * segment_rows(part), end = std::min(part.rows, begin + segment_rows(part));
    return {peer, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end), place};
  }

  static std::size_t bytes_of(const Segment& segment, const Part& part) {
    return (segment.end - segment.begin) * part.row_bytes;
  }

  Program& program_;
  const RowExchange& exchange_;
  const int size_;
  const std::size_t window_;
  std::vector<Window> sent_, received_;               // by rank
  std::vector<Place> kept_;                           // by rank
  std::vector<std::vector<std::uint32_t>> arrivals_;  // by distance, then by cycle
};

}  // namespace

std::vector<Place> exchange_rows(Program& program, const RowExchange& exchange) {
  return Cycles(program, exchange).run();
}

}  // namespace merak
