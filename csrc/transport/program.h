#pragma once
// A collective as data: what one rank has to do, as steps with dependencies.
//
// An algorithm is a function from sizes to one Program a rank. It moves no bytes. The engine executes the programs of
// all operations in flight on one thread: a step is *ready* when the steps it comes after are done; of the ready sends
// the engine starts those of the operation with the highest priority first. Nothing ever blocks, so operations that
// start in different orders on different ranks cannot wait for each other in a circle.
//
// Memory. A program addresses *buffers* by number: 0 is what the user gives (input), 1 is what the user gets (output),
// 2 and up are scratch memory whose sizes the program states. An operation that works in place uses the output alone.
//
// Matching. The n-th send of one rank's program to a peer is the n-th receive from that rank in the peer's program, in
// order of index; both state the same number of bytes.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "transport/row_sums.h"
#include "transport/strided_copy.h"

namespace merak {

enum class StepKind : std::uint8_t {
  kSend,         // `at` goes to `peer`
  kReceive,      // what `peer` sends lands at `at`
  kReduce,       // `at` = `at` (op) `from`
  kCopy,         // `at` = `from`
  kSumRows,      // rows of `at` = sums of rows of `from`, as row_sums.h has it
  kCopyStrided,  // `at` = `from`, pieces with strides on both sides, as strided_copy.h has it
};

inline constexpr int kInput = 0;
inline constexpr int kOutput = 1;
inline constexpr int kScratch = 2;  // the first scratch buffer

struct Place {
  int buffer = kOutput;
  std::size_t offset = 0;  // bytes

  bool operator==(const Place&) const = default;
};

struct Step {
  StepKind kind = StepKind::kSend;
  int peer = -1;  // the rank at the other end of a send or a receive
  Place at;
  Place from;  // the operand of a reduce, a copy (strided or not) or a sum of rows
  std::size_t bytes = 0;
  std::vector<std::uint32_t> after;  // indices of the steps that must be done before, all smaller than this step's own
  bool completes = false;            // a reduce, or a sum, that adds the last operand: an average divides here
  std::uint32_t row_sums = 0;        // of a sum of rows: which ones, an index into the program's
  std::uint32_t strided_copy = 0;    // of a strided copy: which one, likewise

  bool operator==(const Step&) const = default;
};

struct Program {
  std::vector<Step> steps;
  std::vector<std::size_t> scratch;  // bytes of the buffers kScratch, kScratch + 1, ...
  std::vector<RowSums> row_sums = {};
  std::vector<StridedCopy> strided_copies = {};

  bool operator==(const Program&) const = default;

  // Each appends a step and returns its index, to be named in the `after` of later steps.
  std::uint32_t send(int peer, Place at, std::size_t bytes, std::vector<std::uint32_t> after = {});
  std::uint32_t receive(int peer, Place at, std::size_t bytes, std::vector<std::uint32_t> after = {});
  std::uint32_t reduce(Place at, Place from, std::size_t bytes, std::vector<std::uint32_t> after, bool completes);
  std::uint32_t copy(Place at, Place from, std::size_t bytes, std::vector<std::uint32_t> after = {});

  std::uint32_t sum_rows(Place at, Place from, RowSums sums, std::vector<std::uint32_t> after, bool completes);
  std::uint32_t copy_strided(Place at, Place from, const StridedCopy& copy, std::vector<std::uint32_t> after = {});

  // Reserves a scratch buffer of that many bytes and returns its number.
  int add_scratch(std::size_t bytes);

  // The bytes of all steps of a kind: kSend for what leaves this rank.
  std::uint64_t bytes_of(StepKind kind) const;
};

}  // namespace merak
