// Lookups and their gradients, for a split, ids of all ranks and some rows of the table that the fuzzer draws: the rows
// that are among those, and those beyond them, are the batch; programs are valid together, and give the numbers of one
// table on one rank, in whatever order steps are done.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "bytes.h"
#include "collectives/half.h"
#include "embedding/gradient.h"
#include "embedding/lookup.h"
#include "sparse/sum_rows.h"
#include "transport/play.h"
#include "transport/validate.h"

namespace {

using namespace merak;

void require(bool fine) {
  if (!fine) std::abort();
}

struct Drawn {
  Split split;
  std::vector<std::vector<std::int64_t>> ids;  // by rank
  Bitmap some;                                 // rows of the table
  std::uint32_t padding;
  unsigned seed;  // of the order of steps

  explicit Drawn(Bytes& bytes) {
    const bool is_wide = bytes.below(8) == 7;  // rows of several segments
    split.by = bytes.below(2) == 0 ? SplitBy::kColumns : SplitBy::kRows;
    split.ranks = 1 + bytes.small(6);
    split.table_rows = 1 + bytes.below(is_wide ? 12 : 140);
    split.table_columns = is_wide ? bytes.below(1 << 15) : bytes.below(20);
    seed = static_cast<unsigned>(bytes.below(1 << 16));
    padding = static_cast<std::uint32_t>(bytes.below(split.table_rows));
    some = Bitmap(split.table_rows);
    for (std::size_t count = bytes.below(split.table_rows + 1); count > 0; --count)
      some.set(bytes.below(split.table_rows));
    for (int rank = 0; rank < split.ranks; ++rank) {
      auto& mine = ids.emplace_back(bytes.below(is_wide ? 12 : 32));
      for (std::int64_t& id : mine) id = static_cast<std::int64_t>(bytes.below(split.table_rows));
    }
  }

  std::size_t size() const { return ids.size(); }

  std::vector<Batch> batches(std::size_t element_bytes) const {
    std::vector<OwnRows> own;
    std::vector<Bitmap> present;
    for (const auto& mine : ids) own.push_back(own_rows(mine, split.table_rows)), present.push_back(own.back().present);
    std::vector<Batch> all;
    for (int rank = 0; rank < split.ranks; ++rank)
      all.push_back(make_batch(rank, split, element_bytes, own[static_cast<std::size_t>(rank)], present));
    return all;
  }
};

void check_parts(const Batch& batch, const Batch& among, const Batch& beyond, const Bitmap& rows) {
  require(among.tokens == batch.tokens && beyond.tokens == batch.tokens);
  require(among.own.input.size() + beyond.own.input.size() == batch.own.input.size());
  for (std::size_t reader = 0; reader < batch.read.size(); ++reader) {
    std::vector<std::uint32_t> all;
    std::merge(among.read[reader].begin(), among.read[reader].end(), beyond.read[reader].begin(),
               beyond.read[reader].end(), std::back_inserter(all));
    require(all == batch.read[reader]);
    for (std::uint32_t row : among.read[reader]) require(rows.test(row));
    for (std::uint32_t row : beyond.read[reader]) require(!rows.test(row));
  }
}

// Numbers are integers, and sums of them, averaged too, that all types have.
template <class T>
class Numbers {
 public:
  Numbers(const Drawn& drawn, DType dtype) : drawn_(drawn), dtype_(dtype) {}

  void check() const {
    const std::vector<Batch> whole = drawn_.batches(sizeof(T));
    std::vector<Batch> among, beyond, unpadded;
    for (const Batch& batch : whole) {
      among.push_back(part_among(batch, drawn_.some)), beyond.push_back(part_beyond(batch, drawn_.some));
      unpadded.push_back(without_row(batch, drawn_.padding));
      check_parts(batch, among.back(), beyond.back(), drawn_.some);
    }
    check_lookup({&whole});
    check_lookup({&among, &beyond});
    check_gradient(among, [&](std::size_t row) { return drawn_.some.test(row); });
    check_gradient(beyond, [&](std::size_t row) { return !drawn_.some.test(row); });
    check_gradient(unpadded, [&](std::size_t row) { return row != drawn_.padding; });
  }

 private:
  using Row = std::vector<T>;

  std::size_t columns() const { return drawn_.split.table_columns; }
  T of_table(std::size_t row, std::size_t column) const {
    return T(static_cast<float>((row * 31 + column * 7) % 2048));
  }
  // What a token's gradient has, so that its average over ranks is an integer.
  float of_token(std::size_t rank, std::size_t token, std::size_t column) const {
    const auto value = static_cast<int>((rank * 5 + token * 3 + column) % 15) - 7;
    return static_cast<float>(value * drawn_.split.ranks);
  }

  static void append(Message& message, T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    message.insert(message.end(), bytes, bytes + sizeof value);
  }

  Message part_of_table(int rank) const {
    const Interval down = drawn_.split.rows(rank), across = drawn_.split.columns(rank);
    Message part;
    for (std::size_t row = down.begin; row < down.end; ++row)
      for (std::size_t column = across.begin; column < across.end; ++column) append(part, of_table(row, column));
    return part;
  }

  void run(const std::vector<Program>& programs, std::vector<Memory>& memory, Reduction reduction) const {
    std::vector<BufferSizes> sizes;
    for (const Memory& one : memory) sizes.push_back({one.input.size(), one.output.size()});
    validate(programs, sizes);
    play(programs, memory, make_sparse_reducer(dtype_, reduction, drawn_.split.ranks), drawn_.seed);
  }

  void check_lookup(const std::vector<const std::vector<Batch>*>& parts) const {
    std::vector<Memory> memory;
    for (const Batch& batch : *parts.front())
      memory.push_back({part_of_table(batch.rank), Message(batch.tokens * batch.row_bytes(), std::byte{0xA5})});
    for (const std::vector<Batch>* part : parts) {
      std::vector<Program> programs;
      for (const Batch& batch : *part) programs.push_back(lookup(batch));
      run(programs, memory, Reduction::kSum);
    }
    for (std::size_t rank = 0; rank < drawn_.size(); ++rank) {
      Message expected;
      for (std::int64_t id : drawn_.ids[rank])
        for (std::size_t column = 0; column < columns(); ++column)
          append(expected, of_table(static_cast<std::size_t>(id), column));
      require(memory[rank].output == expected);
    }
  }

  template <class Kept>
  std::map<std::size_t, std::vector<float>> averages(Kept kept) const {
    std::map<std::size_t, std::vector<float>> rows;
    for (std::size_t rank = 0; rank < drawn_.size(); ++rank)
      for (std::size_t token = 0; token < drawn_.ids[rank].size(); ++token) {
        const auto id = static_cast<std::size_t>(drawn_.ids[rank][token]);
        if (!kept(id)) continue;
        auto& row = rows.try_emplace(id, columns()).first->second;
        for (std::size_t column = 0; column < columns(); ++column)
          row[column] += of_token(rank, token, column) / static_cast<float>(drawn_.split.ranks);
      }
    return rows;
  }

  template <class Kept>
  void check_gradient(const std::vector<Batch>& batches, Kept kept) const {
    const auto rows = averages(kept);
    std::vector<Program> programs;
    std::vector<Memory> memory;
    for (const Batch& batch : batches) {
      const auto rank = static_cast<std::size_t>(batch.rank);
      programs.push_back(gradient(batch));
      Memory& mine = memory.emplace_back();
      for (std::size_t token = 0; token < batch.tokens; ++token)
        for (std::size_t column = 0; column < columns(); ++column) append(mine.input, T(of_token(rank, token, column)));
      mine.output.resize(batch.held_ids().size() * batch.width(batch.rank), std::byte{0xA5});
    }
    run(programs, memory, Reduction::kAverage);
    for (const Batch& batch : batches) check_averages(batch, rows, memory[static_cast<std::size_t>(batch.rank)].output);
  }

  void check_averages(const Batch& batch, const std::map<std::size_t, std::vector<float>>& rows,
                      const Message& output) const {
    const Interval down = drawn_.split.rows(batch.rank), across = drawn_.split.columns(batch.rank);
    Message expected;
    std::vector<std::uint32_t> ids;
    for (const auto& [row, values] : rows) {
      if (row < down.begin || row >= down.end) continue;
      ids.push_back(static_cast<std::uint32_t>(row - down.begin));
      for (std::size_t column = across.begin; column < across.end; ++column) append(expected, T(values[column]));
    }
    require(batch.held_ids() == ids && output == expected);
  }

  const Drawn& drawn_;
  const DType dtype_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const std::size_t type = bytes.below(4);
  const Drawn drawn(bytes);
  if (type == 0) Numbers<float>(drawn, DType::kFloat32).check();
  if (type == 1) Numbers<double>(drawn, DType::kFloat64).check();
  if (type == 2) Numbers<Half>(drawn, DType::kFloat16).check();
  if (type == 3) Numbers<BFloat16>(drawn, DType::kBFloat16).check();
  return 0;
}
