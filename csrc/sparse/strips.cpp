#include "sparse/strips.h"

#include "collectives/cut.h"
#include "sparse/compose.h"

namespace merak {

Strips::Strips(Place place, std::size_t rows, std::size_t row_bytes)
    : place(place),
      rows(rows),
      row_bytes(row_bytes),
      strip_rows(std::max<std::size_t>(kLargestStep / row_bytes, 1)),
      worked_on_((rows + strip_rows - 1) / strip_rows) {}

// Calls visit(steps) for every strip that the bytes of a step on the rows touch. `at`: as the all-reduce has it, whose
// output they are.
template <class Visit>
void Strips::for_each_strip(Place at, std::size_t bytes, Visit visit) {
  if (at.buffer != kOutput || bytes == 0) return;
  const std::size_t strip_bytes = strip_rows * row_bytes, last = (at.offset + bytes - 1) / strip_bytes;
  for (std::size_t strip = at.offset / strip_bytes; strip <= last; ++strip) visit(worked_on_[strip]);
}

void Strips::all_reduce(Program& program, int rank, const DenseWays& ways) {
  if (ways.topology.size() == 1) return;
  const CollectiveShape shape{
      .kind = OperationKind::kAllReduce, .bytes = rows * row_bytes, .element_bytes = ways.element_bytes};
  const Program dense = choose(shape, rank, ways.topology).program;
  append(program, dense, {.output = place}, [&](const Step& step, std::uint32_t index, Step& moved) {
    const auto comes_after = [&](Steps& worked_on) {
      moved.after.push_back(worked_on.front());
      worked_on.push_back(index);
    };
    for_each_strip(step.at, step.bytes, comes_after);
    if (step.kind == StepKind::kReduce || step.kind == StepKind::kCopy)
      for_each_strip(step.from, step.bytes, comes_after);
  });
}

Strips::Steps Strips::steps(std::size_t begin, std::size_t end) const {
  Steps steps;
  for (std::size_t strip = begin / strip_rows; strip <= (end - 1) / strip_rows; ++strip)
    steps.insert(steps.end(), worked_on_[strip].begin(), worked_on_[strip].end());
  return steps;
}

}  // namespace merak
