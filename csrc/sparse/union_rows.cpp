#include "sparse/union_rows.h"

namespace merak {

UnionRows unite(const std::vector<Bitmap>& present) {
  UnionRows all;
  all.size = static_cast<int>(present.size());
  for (const Bitmap& one : present) all.counts.push_back(static_cast<std::uint32_t>(one.count()));
  Bitmap any = present.front();
  for (const Bitmap& one : present) any |= one;
  all.ids = any.members();
  all.first.reserve(all.ids.size() + 1);
  all.first.push_back(0);
  for (std::uint32_t id : all.ids) {
    for (std::uint32_t rank = 0; rank < present.size(); ++rank)
      if (present[rank].test(id)) all.contributors.push_back(rank);
    all.first.push_back(static_cast<std::uint32_t>(all.contributors.size()));
  }
  return all;
}

}  // namespace merak
