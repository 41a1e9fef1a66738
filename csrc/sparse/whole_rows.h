#pragma once
// How a CPU runs a body that adds up rows: row after row, the strips of each one after the other, while what the next
// row is made from is fetched into the cache. Rows lie anywhere, so that the processor does not see them coming.
//
// A strip is 256 bytes of partial sums: half of the sixteen vector registers of 32 bytes, or sixteen of 16 bytes.

#include <cstddef>
#include <cstdint>

#include "transport/for_each.h"
#include "transport/row_sums.h"
#include "transport/vectorise.h"

namespace merak {

template <class Wide>
inline constexpr std::size_t kCpuStrip = 256 / sizeof(Wide);

// Has the first-level cache fetch a strip of elements. Needs no valid address.
template <class T, std::size_t kStrip>
void fetch_strip(const T* strip) {
  constexpr std::size_t kLine = 64 / sizeof(T);
  for (std::size_t j = 0; j < kStrip; j += kLine) __builtin_prefetch(strip + j);
}

MERAK_VECTORISE

template <class Body>
struct WholeRows {
  Body body;
  std::size_t count;  // of the sources of all rows

  void operator()(std::size_t row) const {
    if constexpr (requires { body.whole(row); })
      if (body.whole(row)) return;
    const std::size_t next = body.first[row + 1], own = next - body.first[row];
    const std::size_t end = next + own < count ? next + own : count;  // the next row mostly has as many
    for (std::size_t begin = 0; begin < body.elements; begin += kCpuStrip<typename Body::Wide>) {
      for (std::size_t source = next; source < end; ++source) fetch(body.sources[source], begin);
      body.strip(row, begin);
    }
  }

 private:
  void fetch(std::uint32_t source, std::size_t begin) const {
    if (source == RowSums::kZeros) return;
    fetch_strip<typename Body::Element, kCpuStrip<typename Body::Wide>>(body.source_at(source, begin));
  }
};

MERAK_VECTORISE_END

// Runs `body` on so many rows, which have `sources` sources together. A body has the members `first`, `sources` and
// `elements`, the types Element and Wide, strip(row, begin) and source_at(source, begin), as SumRows; and, where some
// rows are done in one go, whole(row), which says whether it did it.
template <class Body>
void for_each_whole_row(const Body& body, std::size_t rows, std::size_t sources) {
  with_longest_vectors(WholeRows<Body>{body, sources}, [rows](const auto& whole) { for_each(OnCpu{}, rows, whole); });
}

}  // namespace merak
