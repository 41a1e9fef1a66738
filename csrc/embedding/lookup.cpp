#include "embedding/lookup.h"

#include <utility>

#include "embedding/row_exchange.h"

namespace merak {

Program lookup(const Batch& batch) {
  RowExchange exchange{batch.rank, {}, {}, {}, {}, false};
  for (int peer = 0; peer < batch.ranks(); ++peer) {
    exchange.send.push_back({batch.held(batch.rank, peer).count(), batch.width(batch.rank)});
    exchange.receive.push_back({batch.held(peer, batch.rank).count(), batch.width(peer)});
  }
  exchange.make = [&](Program& program, const Segment& segment, std::vector<std::uint32_t> after) {
    RowSums rows(batch.width(batch.rank));
    const auto& read = batch.read[static_cast<std::size_t>(segment.peer)];
    const std::size_t sent = batch.held(batch.rank, segment.peer).begin;
    const auto first = static_cast<std::uint32_t>(batch.split.rows(batch.rank).begin);
    for (std::uint32_t i = segment.begin; i < segment.end; ++i)
      rows.copy_row(i - segment.begin, read[sent + i] - first);
    return program.sum_rows(segment.place, {kInput, 0}, std::move(rows), std::move(after), false);
  };
  exchange.use = [&](Program& program, const Segment& segment, std::uint32_t come) {
    RowSums rows(batch.width(segment.peer));
    rows.at_pitch = batch.row_bytes();
    const auto received = static_cast<std::uint32_t>(batch.held(segment.peer, batch.rank).begin);
    for (std::uint32_t i = segment.begin; i < segment.end; ++i)
      for (std::uint32_t token : batch.own.at(received + i)) rows.copy_row(token, i - segment.begin);
    const Place columns = {kOutput, batch.split.columns(segment.peer).begin * batch.element_bytes};
    return program.sum_rows(columns, segment.place, std::move(rows), {come}, false);
  };
  Program program;
  exchange_rows(program, exchange);
  return program;
}

}  // namespace merak
