#pragma once
// Runs a collective on all ranks of a group in memory, and says what it should give.

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "collectives/choose.h"
#include "transport/play.h"
#include "transport/validate.h"

namespace merak {

inline constexpr OperationKind kCollectives[] = {
    OperationKind::kBroadcast, OperationKind::kReduce,        OperationKind::kAllReduce,
    OperationKind::kAllGather, OperationKind::kReduceScatter, OperationKind::kAllToAll,
    OperationKind::kScatter,   OperationKind::kGather,        OperationKind::kBarrier};

// Elements are unsigned integers of E bytes, whose sums do not depend on the order. The division at the end of an
// average is replaced by adding a mark, so that a sum that is completed twice, early or never shows.
template <class T>
struct MarkedSum {
  static constexpr T kMark = 77;
  static void combine(std::byte* at, const std::byte* from, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) store(at, i, static_cast<T>(load(at, i) + load(from, i)));
  }
  static void mark(std::byte* at, std::size_t count, int) {
    for (std::size_t i = 0; i < count; ++i) store(at, i, static_cast<T>(load(at, i) + kMark));
  }
  static T load(const std::byte* at, std::size_t i) {
    T value;
    std::memcpy(&value, at + i * sizeof(T), sizeof(T));
    return value;
  }
  static void store(std::byte* at, std::size_t i, T value) { std::memcpy(at + i * sizeof(T), &value, sizeof(T)); }
};

inline Reducer marked_sum(std::size_t element_bytes) {
  if (element_bytes == 1) return {1, MarkedSum<std::uint8_t>::combine, MarkedSum<std::uint8_t>::mark, 1};
  return {8, MarkedSum<std::uint64_t>::combine, MarkedSum<std::uint64_t>::mark, 1};
}

inline std::vector<Memory> memory_for(const CollectiveShape& shape, int size, unsigned seed) {
  const std::size_t one = shape.bytes, all = one * static_cast<std::size_t>(size);
  std::mt19937 random(seed);
  std::vector<Memory> memory(static_cast<std::size_t>(size));
  for (int rank = 0; rank < size; ++rank) {
    const bool is_root = rank == shape.root;
    Memory& mine = memory[rank];
    switch (shape.kind) {
      case OperationKind::kBroadcast:
      case OperationKind::kAllReduce:
        mine.output.resize(one);
        break;
      case OperationKind::kReduce:
        mine.input.resize(one), mine.output.resize(is_root ? one : 0);
        break;
      case OperationKind::kAllGather:
        mine.input.resize(one), mine.output.resize(all);
        break;
      case OperationKind::kGather:
        mine.input.resize(one), mine.output.resize(is_root ? all : 0);
        break;
      case OperationKind::kReduceScatter:
        mine.input.resize(all), mine.output.resize(one);
        break;
      case OperationKind::kScatter:
        mine.input.resize(is_root ? all : 0), mine.output.resize(one);
        break;
      case OperationKind::kAllToAll:
        mine.input.resize(all), mine.output.resize(all);
        break;
      default:
        break;
    }
    for (Message* message : {&mine.input, &mine.output})
      for (std::byte& byte : *message) byte = static_cast<std::byte>(random());
  }
  return memory;
}

// Moves what in_place says is in the output already there, out of the input's reach.
inline void place_in_output(const CollectiveShape& shape, std::vector<Memory>& memory) {
  for (std::size_t rank = 0; rank < memory.size(); ++rank) {
    Memory& mine = memory[rank];
    const bool is_root = static_cast<int>(rank) == shape.root;
    if (shape.kind == OperationKind::kAllGather || (shape.kind == OperationKind::kGather && is_root))
      std::copy(mine.input.begin(), mine.input.end(), mine.output.begin() + rank * shape.bytes);
    if (shape.kind == OperationKind::kReduce && is_root) mine.output = mine.input;
    if (shape.kind == OperationKind::kScatter && is_root)
      std::copy_n(mine.input.begin() + rank * shape.bytes, shape.bytes, mine.output.begin());
    const bool uses_input = shape.kind == OperationKind::kReduce   ? !is_root
                            : shape.kind == OperationKind::kGather ? !is_root
                                                                   : shape.kind != OperationKind::kAllGather;
    if (!uses_input) mine.input.clear();
  }
}

inline Message sum_of(const std::vector<Message>& contributions, std::size_t element_bytes) {
  const Reducer reducer = marked_sum(element_bytes);
  Message sum = contributions.front();
  const std::size_t count = sum.size() / element_bytes;
  for (std::size_t i = 1; i < contributions.size(); ++i) reducer.combine(sum.data(), contributions[i].data(), count);
  if (contributions.size() > 1) reducer.divide(sum.data(), count, 1);
  return sum;
}

inline Message part(const Message& message, std::size_t index, std::size_t bytes) {
  return Message(message.begin() + index * bytes, message.begin() + (index + 1) * bytes);
}

// What every rank's output should be, from what all memory holds before.
inline std::vector<Message> expected_outputs(const CollectiveShape& shape, const std::vector<Memory>& before) {
  const std::size_t size = before.size();
  std::vector<Message> inputs, outputs;
  for (const Memory& memory : before) inputs.push_back(memory.input), outputs.push_back(memory.output);
  Message gathered;
  for (const Message& input : inputs) gathered.insert(gathered.end(), input.begin(), input.end());

  std::vector<Message> expected(size);
  for (std::size_t rank = 0; rank < size; ++rank) {
    const bool is_root = static_cast<int>(rank) == shape.root;
    std::vector<Message> parts;
    switch (shape.kind) {
      case OperationKind::kBroadcast:
        expected[rank] = outputs[shape.root];
        break;
      case OperationKind::kAllReduce:
        expected[rank] = sum_of(outputs, shape.element_bytes);
        break;
      case OperationKind::kReduce:
        expected[rank] = is_root ? sum_of(inputs, shape.element_bytes) : Message();
        break;
      case OperationKind::kAllGather:
        expected[rank] = gathered;
        break;
      case OperationKind::kGather:
        expected[rank] = is_root ? gathered : Message();
        break;
      case OperationKind::kScatter:
        expected[rank] = part(inputs[shape.root], rank, shape.bytes);
        break;
      case OperationKind::kReduceScatter:
        for (const Message& input : inputs) parts.push_back(part(input, rank, shape.bytes));
        expected[rank] = sum_of(parts, shape.element_bytes);
        break;
      case OperationKind::kAllToAll:
        for (const Message& input : inputs)
          expected[rank].insert(expected[rank].end(), input.begin() + rank * shape.bytes,
                                input.begin() + (rank + 1) * shape.bytes);
        break;
      default:
        break;
    }
  }
  return expected;
}

inline std::vector<BufferSizes> sizes_of(const std::vector<Memory>& memory) {
  std::vector<BufferSizes> sizes;
  for (const Memory& mine : memory) sizes.push_back({mine.input.size(), mine.output.size()});
  return sizes;
}

// By algorithm: the programs of all ranks. Checks that all ranks have the same algorithms at the same cost.
inline std::map<std::string, std::vector<Program>> programs_by_algorithm(const CollectiveShape& shape,
                                                                         const Topology& topology,
                                                                         const Costs& costs = {}) {
  std::map<std::string, std::vector<Program>> programs;
  std::set<std::map<std::string, double>> priced;
  for (int rank = 0; rank < topology.size(); ++rank) {
    std::map<std::string, double> mine;
    for (Choice& choice : candidates(shape, rank, topology, costs)) {
      mine[choice.algorithm] = choice.seconds;
      programs[choice.algorithm].push_back(std::move(choice.program));
    }
    priced.insert(mine);
  }
  EXPECT_EQ(priced.size(), 1u) << "ranks price differently";
  return programs;
}

inline std::string text_of(const CollectiveShape& shape, const Topology& topology) {
  std::string text = std::to_string(shape.bytes) + " bytes, root " + std::to_string(shape.root) +
                     (shape.in_place ? ", in place" : "") + ", hosts";
  for (int host : topology.host_of) text += " " + std::to_string(host);
  return text;
}

// Validates every algorithm for the shape, and plays it in `seeds` orders.
inline void expect_correct(const CollectiveShape& shape, const Topology& topology, unsigned seeds,
                           const Costs& costs = {}) {
  for (const auto& [algorithm, programs] : programs_by_algorithm(shape, topology, costs)) {
    SCOPED_TRACE(algorithm + ": " + text_of(shape, topology));
    std::vector<Memory> memory = memory_for(shape, topology.size(), 0);
    const std::vector<Message> expected = expected_outputs(shape, memory);
    if (shape.in_place) place_in_output(shape, memory);
    ASSERT_NO_THROW(validate(programs, sizes_of(memory)));
    for (unsigned seed = 0; seed < seeds; ++seed) {
      std::vector<Memory> played = memory;
      ASSERT_NO_THROW(play(programs, played, marked_sum(shape.element_bytes), seed)) << "seed " << seed;
      for (int rank = 0; rank < topology.size(); ++rank) {
        const bool has_output = !expected[rank].empty() || shape.kind == OperationKind::kBroadcast;
        if (has_output) {
          ASSERT_EQ(played[rank].output, expected[rank]) << "rank " << rank << ", seed " << seed;
        }
        ASSERT_EQ(played[rank].input, memory[rank].input) << "rank " << rank << "'s input, seed " << seed;
      }
    }
  }
}

// The bytes that leave each host for another.
inline std::map<int, std::size_t> bytes_leaving_hosts(const std::vector<Program>& programs, const Topology& topology) {
  std::map<int, std::size_t> leaving;
  for (int rank = 0; rank < topology.size(); ++rank)
    for (const Step& step : programs[rank].steps)
      if (step.kind == StepKind::kSend && topology.host_of[step.peer] != topology.host_of[rank])
        leaving[topology.host_of[rank]] += step.bytes;
  return leaving;
}

}  // namespace merak
