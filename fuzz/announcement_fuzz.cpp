// What another rank announces before a sparse operation, with any of its bytes changed, and then which rows it has:
// both are refused, or are of the tables that this rank has.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "bytes.h"
#include "sparse/announcement.h"
#include "transport/errors.h"

namespace {

using namespace merak;

Announcement drawn_announcement(Bytes& bytes) {
  Announcement own;
  own.method = static_cast<Method>(bytes.below(7));
  if (own.method == Method::kSketch) own.sketch = {.bytes = bytes.below(1 << 16), .seed = bytes.below(256)};
  for (std::size_t tables = bytes.below(4); tables > 0; --tables) {
    const std::size_t rows = bytes.below(bytes.below(4) == 3 ? 1 << 18 : 200);  // 1 << 18: bitmaps come later
    own.tables.push_back({.table_rows = rows, .row_bytes = 8, .element_bytes = 4, .sizes = bytes.below(256)});
    own.present.emplace_back(rows);
  }
  own.presence_bytes = bytes.below(1 << 16);
  return own;
}

void check(const Announcement& heard, const Announcement& own) {
  if (heard.present.size() != own.tables.size()) std::abort();
  for (std::size_t i = 0; i < own.tables.size(); ++i)
    if (heard.present[i].bits() != own.tables[i].table_rows || !heard.present[i].fits()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const Announcement own = drawn_announcement(bytes);
  std::vector<std::byte> theirs(announcement_bytes(own));
  write(own, theirs.data());
  for (std::size_t changes = bytes.below(16); changes > 0; --changes)
    theirs[bytes.below(theirs.size())] = static_cast<std::byte>(bytes.below(256));
  try {
    Announcement heard = parse_announcement(theirs.data(), own, 1, 0);
    if (heard.presence_bytes > most_presence_bytes(own)) std::abort();
    if (!carries_bitmaps(own)) {
      std::vector<std::byte> later(bytes.below(1 << 12));
      for (std::byte& one : later) one = static_cast<std::byte>(bytes.below(256));
      parse_presence(later, heard);
    }
    check(heard, own);
  } catch (const MismatchError&) {
  }
  return 0;
}
