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
  for (std::size_t bytes : program().program().scratch) {
    scratch.push_back(std::make_unique_for_overwrite<std::byte[]>(bytes));
    buffers.emplace_back(scratch.back().get(), bytes);
  }
  auto fits = [this](const Place& place, std::size_t bytes) {
    const auto number = static_cast<std::size_t>(place.buffer);
    return number < buffers.size() && place.offset + bytes <= buffers[number].size();
  };
  steps_left = program().size();
  waiting_for.resize(steps_left);
  for (std::uint32_t i = 0; i < steps_left; ++i) {
    const Step& step = program().step(i);
    const bool local = step.kind == StepKind::kReduce || step.kind == StepKind::kCopy;
    if (!fits(step.at, step.bytes) || (local && !fits(step.from, step.bytes)))
      throw std::invalid_argument("step " + std::to_string(i) + " of " + describe(request.signature) +
                                  " does not fit the buffers given");
    waiting_for[i] = static_cast<std::uint32_t>(step.after.size());
  }
}

void ActiveOperation::compute(const Step& step) const {
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
