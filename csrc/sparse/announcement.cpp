#include "sparse/announcement.h"

#include <cstdint>
#include <cstring>

#include "sparse/presence.h"
#include "transport/errors.h"

namespace merak {
namespace {

constexpr std::size_t kProblemBytes = 256;

struct Head {
  char problem[kProblemBytes];  // ends with a zero; nothing else: none
  std::uint32_t method;
  std::uint16_t on_device, from_zeros;
  std::uint64_t tables;
  std::uint64_t presence_bytes;
  std::uint64_t sketch_bytes, sketch_seed;
  std::uint32_t sketch_feedback, only_plans;
};

struct TableHead {
  std::uint64_t table_rows, row_bytes, sizes;
  std::int32_t low, high;  // exponents
  std::uint64_t representable;
};

std::string text_of(const Shape& shape) {
  return std::to_string(shape.table_rows) + " rows of " + std::to_string(shape.row_bytes / shape.element_bytes) +
         " elements";
}

std::string text_of(const SketchBudget& sketch) {
  return "a sketch of " + std::to_string(sketch.bytes) + " bytes with seed " + std::to_string(sketch.seed) +
         (sketch.feedback ? "" : ", no feedback");
}

const char* place(bool on_device) { return on_device ? "a GPU" : "CPU"; }

[[noreturn]] void disagree(const char* call, const std::string& rank, const std::string& theirs,
                           const std::string& own_rank, const std::string& ours) {
  throw MismatchError(
      std::string(call) + ": " + rank + " has " + theirs + ", " + own_rank + " has " + ours +
      ". All ranks must pass tensors of the same shape and the same method, and codecs made and used alike");
}

template <class T>
T take(const std::byte*& from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  from += sizeof value;
  return value;
}

template <class T>
void put(std::byte*& to, const T& value) {
  std::memcpy(to, &value, sizeof value);
  to += sizeof value;
}

std::size_t bitmap_bytes(const Shape& table) { return Bitmap::words_for(table.table_rows) * sizeof(std::uint64_t); }

std::size_t bitmap_bytes(const std::vector<Shape>& tables) {
  std::size_t bytes = 0;
  for (const Shape& table : tables) bytes += bitmap_bytes(table);
  return bytes;
}

}  // namespace

bool carries_bitmaps(const Announcement& announcement) {
  return announcement.method != Method::kSketch && bitmap_bytes(announcement.tables) <= kMostBitmapBytes;
}

// As encode_presences() writes it, and the norms of all rows.
std::size_t most_presence_bytes(const Announcement& announcement) {
  std::size_t bytes = bitmap_bytes(announcement.tables) + announcement.tables.size() * (sizeof(std::uint64_t) + 1);
  if (announcement.method == Method::kSketch)
    for (const Shape& table : announcement.tables) bytes += table.table_rows * sizeof(BFloat16);
  return bytes;
}

std::size_t announcement_bytes(const Announcement& announcement) {
  const std::size_t bitmaps = carries_bitmaps(announcement) ? bitmap_bytes(announcement.tables) : 0;
  return sizeof(Head) + announcement.tables.size() * sizeof(TableHead) + bitmaps;
}

void write(const Announcement& announcement, std::byte* to) {
  Head head = {.problem = {},
               .method = static_cast<std::uint32_t>(announcement.method),
               .on_device = announcement.on_device,
               .from_zeros = announcement.from_zeros,
               .tables = announcement.tables.size(),
               .presence_bytes = announcement.presence_bytes,
               .sketch_bytes = announcement.sketch.bytes,
               .sketch_seed = announcement.sketch.seed,
               .sketch_feedback = announcement.sketch.feedback ? 1u : 0u,
               .only_plans = announcement.only_plans ? 1u : 0u};
  announcement.problem.copy(head.problem, kProblemBytes - 1);
  put(to, head);
  for (std::size_t i = 0; i < announcement.tables.size(); ++i) {
    const Shape& table = announcement.tables[i];
    const ExponentRange range = announcement.exponents.empty() ? ExponentRange{} : announcement.exponents[i];
    put(to, TableHead{table.table_rows, table.row_bytes, table.sizes, range.low, range.high,
                      range.representable ? 1u : 0u});
    if (!carries_bitmaps(announcement) || table.table_rows == 0) continue;
    std::memcpy(to, announcement.present[i].words().data(), bitmap_bytes(table));
    to += bitmap_bytes(table);
  }
}

Announcement parse_announcement(const std::byte* from, const Announcement& expected, int rank, int own_rank) {
  const std::string theirs = "rank " + std::to_string(rank), ours = "rank " + std::to_string(own_rank);
  const Head head = take<Head>(from);
  if (head.problem[0] != 0)
    throw MismatchError(std::string(expected.call) + ": " + theirs +
                        " cannot take part: " + std::string(head.problem, strnlen(head.problem, kProblemBytes)));
  if (head.method != static_cast<std::uint32_t>(expected.method))
    disagree(expected.call, theirs, "another method", ours, std::string("method '") + name(expected.method) + "'");
  if ((head.on_device != 0) != expected.on_device)
    throw MismatchError(std::string(expected.call) + ": " + theirs + " has tensors on " + place(!expected.on_device) +
                        ", " + ours + " on " + place(expected.on_device) +
                        ". All ranks must pass tensors of one kind of device");
  if ((head.only_plans != 0) != expected.only_plans)
    throw MismatchError(std::string(expected.call) + ": " + (expected.only_plans ? ours : theirs) +
                        " calls explain(), " + (expected.only_plans ? theirs : ours) +
                        " all_reduce(). All ranks must call the same");
  if (head.tables != expected.tables.size())
    disagree(expected.call, theirs, std::to_string(head.tables) + " tables", ours,
             std::to_string(expected.tables.size()));
  if (const SketchBudget sketch{head.sketch_bytes, head.sketch_seed, head.sketch_feedback != 0};
      sketch != expected.sketch)
    disagree(expected.call, theirs, text_of(sketch), ours, text_of(expected.sketch));
  if (head.presence_bytes > most_presence_bytes(expected))
    throw MismatchError(std::string(expected.call) + ": " + theirs + " announced more than there can be");
  Announcement parsed;
  parsed.call = expected.call, parsed.method = expected.method, parsed.sketch = expected.sketch,
  parsed.tables = expected.tables;
  parsed.on_device = expected.on_device, parsed.from_zeros = head.from_zeros != 0;
  parsed.presence_bytes = head.presence_bytes;
  for (const Shape& table : expected.tables) {
    const TableHead found = take<TableHead>(from);
    if (found.table_rows != table.table_rows || found.row_bytes != table.row_bytes)
      disagree(expected.call, theirs, text_of(Shape{found.table_rows, found.row_bytes, table.element_bytes}), ours,
               text_of(table));
    if (found.sizes != table.sizes)
      disagree(expected.call, theirs, "a tensor of other sizes, or split another way", ours, text_of(table));
    parsed.exponents.push_back({found.low, found.high, found.representable != 0});
    if (!carries_bitmaps(expected)) continue;
    Bitmap present(table.table_rows);
    if (table.table_rows > 0) std::memcpy(present.data(), from, bitmap_bytes(table));
    from += bitmap_bytes(table);
    if (!present.fits())
      throw MismatchError(std::string(expected.call) + ": " + theirs + " announced rows beyond the end of its table");
    parsed.present.push_back(std::move(present));
  }
  return parsed;
}

std::vector<std::byte> write_presence(const Announcement& announcement) {
  std::vector<std::byte> bytes = encode_presences(announcement.present);
  for (const std::vector<BFloat16>& norms : announcement.norms) {
    const auto* first = reinterpret_cast<const std::byte*>(norms.data());
    bytes.insert(bytes.end(), first, first + norms.size() * sizeof(BFloat16));
  }
  return bytes;
}

void parse_presence(std::span<const std::byte> bytes, Announcement& announced) {
  const auto require = [&](bool fine) {
    if (!fine)
      throw MismatchError(std::string(announced.call) +
                          ": a rank announced rows and weights that do not belong together");
  };
  std::vector<std::size_t> bits;
  for (const Shape& table : announced.tables) bits.push_back(table.table_rows);
  announced.present = take_presences(bytes, bits);
  if (announced.method == Method::kSketch)
    for (const Bitmap& present : announced.present) {
      auto& norms = announced.norms.emplace_back(present.count());
      const std::size_t size = norms.size() * sizeof(BFloat16);
      require(size <= bytes.size());
      if (size > 0) std::memcpy(norms.data(), bytes.data(), size);
      bytes = bytes.subspan(size);
    }
  require(bytes.empty());
}

}  // namespace merak
