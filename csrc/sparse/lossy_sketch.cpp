#include "sparse/lossy_sketch.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "sparse/encode.h"

namespace merak {
namespace {

// Which cell each of this rank's rows is added to, and with what sign. Rows count as among its own.
SignedRows own_cells(const LossySketch::Rows& rows, const SketchLayout& layout) {
  std::vector<std::uint32_t> mine, cells;
  std::vector<std::int8_t> signs;
  const Positions position(rows.own.present);
  for (std::uint32_t u : layout.placed())
    if (const std::uint32_t id = rows.all.ids[u]; rows.own.present.test(id))
      mine.push_back(position(id)), cells.push_back(layout.cell_of[u]), signs.push_back(layout.sign_of[u]);
  SignedRows lists = group_by_cell(cells, signs, layout.cells);
  for (std::uint32_t& from : lists.from) from = mine[from];
  return lists;
}

template <class T>
void encode(const LossySketch::Rows& rows, const SketchLayout& layout, std::vector<std::byte>& cells) {
  const std::size_t lanes = rows.row_bytes / sizeof(T);
  encode_rows(reinterpret_cast<T*>(cells.data()), reinterpret_cast<const T*>(rows.summed.data()),
              own_cells(rows, layout), lanes);
}

template <class T>
void copy_signed(std::byte* to, const std::byte* from, std::size_t bytes, std::int8_t sign) {
  if (sign > 0) {
    std::memcpy(to, from, bytes);
    return;
  }
  auto* values = reinterpret_cast<T*>(to);
  const auto* cell = reinterpret_cast<const T*>(from);
  for (std::size_t i = 0; i < bytes / sizeof(T); ++i) values[i] = -cell[i];
}

}  // namespace

LossySketch::LossySketch(Rows rows, SketchLayout layout, const Ways& ways)
    : rows_(std::move(rows)),
      layout_(std::move(layout)),
      ways_(ways),
      placed_(layout_.placed()),
      cells_(layout_.cells * rows_.row_bytes) {
  Bitmap kept = rows_.own.present;
  for (std::uint32_t u : placed_) estimated_.push_back(rows_.all.ids[u]), kept.reset(rows_.all.ids[u]);
  kept_ = kept.members();
  if (ways_.dtype == DType::kFloat32)
    encode<float>(rows_, layout_, cells_);
  else if (ways_.dtype == DType::kFloat64)
    encode<double>(rows_, layout_, cells_);
  else
    throw std::invalid_argument(std::string("a lossy sketch of ") + name(ways_.dtype) + " makes no sense");
}

Act LossySketch::all_reduce(const Signature& signature) {
  Act act{.signature = signature, .program = {}, .input = {}, .output = {}, .reducer = ways_.reducer};
  const CollectiveShape shape{
      .kind = OperationKind::kAllReduce, .bytes = cells_.size(), .element_bytes = element_bytes(ways_.dtype)};
  Program program;
  if (ways_.topology.size() > 1) program = choose(shape, ways_.rank, ways_.topology).program;
  act.program = std::make_shared<PreparedProgram>(std::move(program));
  act.output.append(cells_.data(), cells_.size());
  return act;
}

void LossySketch::put_estimates(std::byte* to, bool into_table) const {
  std::size_t i = 0;
  for (std::uint32_t u : placed_) {
    std::byte* row = to + (into_table ? rows_.all.ids[u] : i++) * rows_.row_bytes;
    const std::byte* cell = cells_.data() + layout_.cell_of[u] * rows_.row_bytes;
    if (ways_.dtype == DType::kFloat32)
      copy_signed<float>(row, cell, rows_.row_bytes, layout_.sign_of[u]);
    else
      copy_signed<double>(row, cell, rows_.row_bytes, layout_.sign_of[u]);
  }
}

void LossySketch::put_kept(std::byte* to, bool into_table) const {
  const Positions position(rows_.own.present);
  std::size_t i = 0;
  for (std::uint32_t id : kept_)
    std::memcpy(to + (into_table ? id : i++) * rows_.row_bytes, rows_.summed.data() + position(id) * rows_.row_bytes,
                rows_.row_bytes);
}

}  // namespace merak
