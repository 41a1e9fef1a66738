#include "transport/active_operation.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace merak {
namespace {

// Calls visit(at, from, bytes) for runs of memory that are contiguous on both sides.
template <class Visit>
void for_each_pair_of_runs(const Buffer& at, std::size_t at_offset, const Buffer& from, std::size_t from_offset,
                           std::size_t bytes, Visit visit) {
  at.for_each_run(at_offset, bytes, [&](std::byte* to, std::size_t run) {
    from.for_each_run(from_offset, run, [&](std::byte* source, std::size_t part) {
      visit(to, source, part);
      to += part;
    });
    from_offset += run;
  });
}

}  // namespace

void ActiveOperation::prepare() {
  buffers = {request.input, request.output};
  scratch.clear();
  for (std::size_t bytes : program().program().scratch) {
    scratch.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes));
    buffers.emplace_back(scratch.back().get(), bytes);
  }
  steps_left = program().size();
  waiting_for.assign(steps_left, 0);
  for (std::uint32_t i = 0; i < steps_left; ++i) {
    const Step& step = program().step(i);
    if (!fits(step))
      throw std::invalid_argument("step " + std::to_string(i) + " of " + describe(request.signature) +
                                  " does not fit the buffers given");
    waiting_for[i] = static_cast<std::uint32_t>(step.after.size());
  }
}

bool ActiveOperation::fits(const Step& step) const {
  const auto holds = [this](const Place& place, std::size_t bytes) {
    const auto number = static_cast<std::size_t>(place.buffer);
    return number < buffers.size() && place.offset <= buffers[number].size() &&
           bytes <= buffers[number].size() - place.offset;
  };
  const auto in_one_run = [&](const Place& place, std::size_t bytes) {
    return bytes == 0 || (holds(place, bytes) && buffers[place.buffer].one_run(place.offset, bytes));
  };
  if (step.kind == StepKind::kSumRows) {
    const RowSums& sums = program().program().row_sums[step.row_sums];
    return request.reducer.sum_rows && in_one_run(step.at, sums.at_bytes()) && in_one_run(step.from, sums.from_bytes());
  }
  if (step.kind == StepKind::kCopyStrided) {
    const StridedCopy& copy = program().program().strided_copies[step.strided_copy];
    return in_one_run(step.at, copy.at_bytes()) && in_one_run(step.from, copy.from_bytes());
  }
  const bool local = step.kind == StepKind::kReduce || step.kind == StepKind::kCopy;
  return holds(step.at, step.bytes) && (!local || holds(step.from, step.bytes));
}

void ActiveOperation::sum_rows(const Step& step) const {
  const RowSums& sums = program().program().row_sums[step.row_sums];
  std::byte* at = buffers[step.at.buffer].one_run(step.at.offset, sums.at_bytes());
  const std::byte* from = buffers[step.from.buffer].one_run(step.from.offset, sums.from_bytes());
  request.reducer.sum_rows(at, from, sums, step.completes ? request.reducer.divisor : 1);
}

void ActiveOperation::copy_strided(const Step& step) const {
  const StridedCopy& copy = program().program().strided_copies[step.strided_copy];
  merak::copy_strided(buffers[step.at.buffer].one_run(step.at.offset, copy.at_bytes()),
                      buffers[step.from.buffer].one_run(step.from.offset, copy.from_bytes()), copy);
}

void ActiveOperation::compute(const Step& step) const {
  if (step.kind == StepKind::kSumRows) return sum_rows(step);
  if (step.kind == StepKind::kCopyStrided) return copy_strided(step);
  const Reducer& reducer = request.reducer;
  for_each_pair_of_runs(buffers[step.at.buffer], step.at.offset, buffers[step.from.buffer], step.from.offset,
                        step.bytes, [&](std::byte* to, std::byte* from, std::size_t bytes) {
                          if (step.kind == StepKind::kCopy) {
                            if (to != from) std::memmove(to, from, bytes);
                            return;
                          }
                          const std::size_t count = bytes / reducer.element_bytes;
                          reducer.combine(to, from, count);
                          if (step.completes && reducer.divide) reducer.divide(to, count, reducer.divisor);
                        });
}

}  // namespace merak
