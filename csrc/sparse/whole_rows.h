#pragma once
// How a CPU runs a body that adds up rows: row after row, the strips of each one after the other, while what the next
// row is made from is fetched into the cache. Rows lie anywhere, so that the processor does not see them coming.
//
// A strip is 128 bytes of partial sums: half of the vector registers that every x86 has.

#include <cstddef>
#include <cstdint>

#include "transport/vectorise.h"

namespace merak {

template <class Wide>
inline constexpr std::size_t kCpuStrip = 128 / sizeof(Wide);

// Body: `Wide`, `from`, `first`, `sources`, `elements` and strip(row, begin), as SumRows has them; and, where some rows
// are done in one go, whole(row), which says whether it did it. `count`: of the sources of all rows.
MERAK_VECTORISE

template <class Body>
struct WholeRows {
  Body body;
  std::size_t count;

  void operator()(std::size_t row) const {
    if constexpr (requires { body.whole(row); })
      if (body.whole(row)) return;
    const std::size_t next = body.first[row + 1], own = next - body.first[row];
    const std::size_t end = next + own < count ? next + own : count;  // the next row mostly has as many
    for (std::size_t begin = 0; begin < body.elements; begin += kCpuStrip<typename Body::Wide>) {
      for (std::size_t source = next; source < end; ++source)
        fetch(body.from + body.sources[source] * body.elements + begin);
      body.strip(row, begin);
    }
  }

 private:
  template <class T>
  static void fetch(const T* strip) {
    constexpr std::size_t kLine = 64 / sizeof(T);  // of a cache
    for (std::size_t j = 0; j < kCpuStrip<typename Body::Wide>; j += kLine) __builtin_prefetch(strip + j);
  }
};

MERAK_VECTORISE_END

}  // namespace merak
