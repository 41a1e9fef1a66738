#include "transport/program.h"

#include <utility>

namespace merak {
namespace {

std::uint32_t append(Program& program, Step step) {
  program.steps.push_back(std::move(step));
  return static_cast<std::uint32_t>(program.steps.size() - 1);
}

}  // namespace

std::uint32_t Program::send(int peer, Place at, std::size_t bytes, std::vector<std::uint32_t> after) {
  return append(*this, {StepKind::kSend, peer, at, {}, bytes, std::move(after)});
}

std::uint32_t Program::receive(int peer, Place at, std::size_t bytes, std::vector<std::uint32_t> after) {
  return append(*this, {StepKind::kReceive, peer, at, {}, bytes, std::move(after)});
}

std::uint32_t Program::reduce(Place at, Place from, std::size_t bytes, std::vector<std::uint32_t> after,
                              bool completes) {
  return append(*this, {StepKind::kReduce, -1, at, from, bytes, std::move(after), completes});
}

std::uint32_t Program::copy(Place at, Place from, std::size_t bytes, std::vector<std::uint32_t> after) {
  return append(*this, {StepKind::kCopy, -1, at, from, bytes, std::move(after)});
}

std::uint32_t Program::sum_rows(Place at, Place from, RowSums sums, std::vector<std::uint32_t> after, bool completes) {
  const auto index = static_cast<std::uint32_t>(row_sums.size());
  const std::size_t bytes = sums.bytes();
  row_sums.push_back(std::move(sums));
  return append(*this, {StepKind::kSumRows, -1, at, from, bytes, std::move(after), completes, index});
}

std::uint32_t Program::copy_strided(Place at, Place from, const StridedCopy& copy, std::vector<std::uint32_t> after) {
  const auto index = static_cast<std::uint32_t>(strided_copies.size());
  strided_copies.push_back(copy);
  return append(*this, {StepKind::kCopyStrided, -1, at, from, copy.bytes(), std::move(after), false, 0, index});
}

int Program::add_scratch(std::size_t bytes) {
  scratch.push_back(bytes);
  return kScratch + static_cast<int>(scratch.size()) - 1;
}

std::uint64_t Program::bytes_of(StepKind kind) const {
  std::uint64_t bytes = 0;
  for (const Step& step : steps) bytes += step.kind == kind ? step.bytes : 0;
  return bytes;
}

}  // namespace merak
