#include "embedding/lookup.h"

#include <utility>

#include "embedding/row_exchange.h"

namespace merak {

Program lookup(const Batch& batch) {
  RowExchange exchange{batch.rank, {}, {}, {}, {}, false};
  const std::size_t own_rows = batch.read[static_cast<std::size_t>(batch.rank)].size();
  for (int peer = 0; peer < batch.ranks(); ++peer) {
    exchange.send.push_back({batch.read[static_cast<std::size_t>(peer)].size(), batch.width(batch.rank)});
    exchange.receive.push_back({own_rows, batch.width(peer)});
  }
  exchange.make = [&](Program& program, const Segment& segment, std::vector<std::uint32_t> after) {
    RowSums rows(batch.width(batch.rank));
    const auto& read = batch.read[static_cast<std::size_t>(segment.peer)];
    for (std::uint32_t i = segment.begin; i < segment.end; ++i) rows.copy_row(i - segment.begin, read[i]);
    return program.sum_rows(segment.place, {kInput, 0}, std::move(rows), std::move(after), false);
  };
  exchange.use = [&](Program& program, const Segment& segment, std::uint32_t come) {
    RowSums rows(batch.width(segment.peer));
    rows.at_pitch = batch.row_bytes();
    for (std::uint32_t i = segment.begin; i < segment.end; ++i)
      for (std::uint32_t token : batch.own.at(i)) rows.copy_row(token, i - segment.begin);
    const Place columns = {kOutput, batch.columns.begin(segment.peer) * batch.element_bytes};
    return program.sum_rows(columns, segment.place, std::move(rows), {come}, false);
  };
  Program program;
  exchange_rows(program, exchange);
  return program;
}

}  // namespace merak
