#include "embedding/row_exchange.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "collectives/cut.h"
#include "collectives/pairwise_all_to_all.h"

namespace merak {
namespace {

constexpr std::size_t kWindow = 4;  // cycles

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

Segment segment_of(const Part& part, int peer, Place place, std::size_t cycle) {
  const std::size_t begin = cycle * segment_rows(part), end = std::min(part.rows, begin + segment_rows(part));
  return {peer,
          static_cast<std::uint32_t>(begin),
          static_cast<std::uint32_t>(end),
          {place.buffer, place.offset + begin * part.row_bytes}};
}

class Cycles {
 public:
  Cycles(Program& program, const RowExchange& exchange)
      : program_(program),
        exchange_(exchange),
        size_(static_cast<int>(exchange.send.size())),
        send_at_(lay_out(program, exchange.send)),
        receive_at_(lay_out(program, exchange.receive)),
        arrivals_(exchange.send.size()) {}

  std::vector<Place> run() {
    std::size_t cycles = 0;
    for (const Part& part : exchange_.send) cycles = std::max(cycles, segments(part));
    for (const Part& part : exchange_.receive) cycles = std::max(cycles, segments(part));
    for (std::size_t cycle = 0; cycle < cycles; ++cycle) {
      for (int distance = 1; distance < size_; ++distance) send(cycle, distance);
      keep(cycle);
      for (int distance = 1; distance < size_; ++distance) receive(cycle, distance);
    }
    return std::move(receive_at_);
  }

 private:
  void send(std::size_t cycle, int distance) {
    const int peer = wrap(exchange_.rank + distance, size_);
    const Part& part = exchange_.send[static_cast<std::size_t>(peer)];
    if (cycle >= segments(part)) return;
    const Segment segment = segment_of(part, peer, send_at_[static_cast<std::size_t>(peer)], cycle);
    std::vector<std::uint32_t> after = {exchange_.make(program_, segment)};
    const auto& arrivals = arrivals_[static_cast<std::size_t>(distance)];
    if (cycle >= kWindow && cycle - kWindow < arrivals.size()) after.push_back(arrivals[cycle - kWindow]);
    program_.send(peer, segment.place, bytes_of(segment, part), std::move(after));
  }

  void receive(std::size_t cycle, int distance) {
    const int peer = wrap(exchange_.rank - distance, size_);
    const Part& part = exchange_.receive[static_cast<std::size_t>(peer)];
    if (cycle >= segments(part)) return;
    const Segment segment = segment_of(part, peer, receive_at_[static_cast<std::size_t>(peer)], cycle);
    const std::uint32_t come = program_.receive(peer, segment.place, bytes_of(segment, part));
    arrivals_[static_cast<std::size_t>(distance)].push_back(come);
    exchange_.use(program_, segment, come);
  }

  void keep(std::size_t cycle) {
    const auto self = static_cast<std::size_t>(exchange_.rank);
    const Part& part = exchange_.receive[self];
    if (cycle >= segments(part)) return;
    const Segment segment = segment_of(part, exchange_.rank, receive_at_[self], cycle);
    exchange_.use(program_, segment, exchange_.make(program_, segment));
  }

  static std::size_t bytes_of(const Segment& segment, const Part& part) {
    return (segment.end - segment.begin) * part.row_bytes;
  }

  Program& program_;
  const RowExchange& exchange_;
  const int size_;
  const std::vector<Place> send_at_;
  std::vector<Place> receive_at_;
  std::vector<std::vector<std::uint32_t>> arrivals_;  // by distance, then by cycle
};

}  // namespace

std::vector<Place> exchange_rows(Program& program, const RowExchange& exchange) {
  return Cycles(program, exchange).run();
}

}  // namespace merak
