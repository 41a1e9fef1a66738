#pragma once
// For tests of the engine: hand-made programs, and what every rank must have after them.

#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "transport/engine.h"
#include "transport/errors.h"
#include "transport/link_helpers.h"
#include "transport/prepared_program.h"

namespace merak {

using Values = std::vector<std::int32_t>;

inline constexpr std::size_t kValueBytes = sizeof(Values::value_type);

inline Reducer sum_of_values() {
  return {.element_bytes = kValueBytes, .combine = [](std::byte* at, const std::byte* from, std::size_t count) {
            auto* sum = reinterpret_cast<std::int32_t*>(at);
            const auto* operand = reinterpret_cast<const std::int32_t*>(from);
            for (std::size_t i = 0; i < count; ++i) sum[i] += operand[i];
          }};
}

// A collective of a few lines: each rank's program, and from what each rank gives, what each must get. It works in
// place, on the output.
struct Toy {
  OperationKind kind;
  // `values`: how many a rank has.
  Program (*program)(int rank, int size, std::size_t values);
  Values (*expected)(int rank, const std::vector<Values>& given);
};

// Rank 0's values go to everyone along a chain, in segments of a thousand values.
inline Program chain_program(int rank, int size, std::size_t values) {
  Program program;
  const std::size_t bytes = values * kValueBytes;
  for (std::size_t at = 0; at < bytes; at += 1000 * kValueBytes) {
    const std::size_t part = std::min(bytes - at, 1000 * kValueBytes);
    std::vector<std::uint32_t> arrived;
    if (rank > 0) arrived.push_back(program.receive(rank - 1, {kOutput, at}, part));
    if (rank + 1 < size) program.send(rank + 1, {kOutput, at}, part, arrived);
  }
  return program;
}

inline const Toy kChain = {OperationKind::kBroadcast, chain_program,
                           [](int, const std::vector<Values>& given) { return given[0]; }};

// Everyone sends everything to everyone, and each adds up what it got in the order of the ranks.
inline Program sum_program(int rank, int size, std::size_t values) {
  Program program;
  const std::size_t bytes = values * kValueBytes;
  const int own = program.add_scratch(bytes);
  const std::uint32_t kept = program.copy({own, 0}, {kOutput, 0}, bytes);
  for (int peer = 0; peer < size; ++peer)
    if (peer != rank) program.send(peer, {own, 0}, bytes, {kept});
  std::uint32_t before = kept;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    const int from = program.add_scratch(bytes);
    const std::uint32_t arrived = program.receive(peer, {from, 0}, bytes);
    before = program.reduce({kOutput, 0}, {from, 0}, bytes, {before, arrived}, false);
  }
  return program;
}

inline const Toy kSum = {OperationKind::kAllReduce, sum_program, [](int, const std::vector<Values>& given) {
                           Values sum(given[0].size());
                           for (const Values& one : given)
                             for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += one[i];
                           return sum;
                         }};

// What a rank has goes to the next one, once around the ring, so that each has its own again; every rank sees every
// other's values pass through its memory.
inline Program carousel_program(int rank, int size, std::size_t values) {
  Program program;
  const std::size_t bytes = values * kValueBytes;
  if (size == 1) return program;
  const int a = program.add_scratch(bytes), b = program.add_scratch(bytes);
  std::uint32_t ready = program.copy({a, 0}, {kOutput, 0}, bytes);
  std::uint32_t sent = ready;
  for (int hop = 0; hop < size; ++hop) {
    const int from = hop % 2 == 0 ? a : b, to = hop % 2 == 0 ? b : a;
    const std::uint32_t arrived = program.receive((rank + size - 1) % size, {to, 0}, bytes, {sent});
    sent = program.send((rank + 1) % size, {from, 0}, bytes, {ready});
    ready = arrived;
  }
  program.copy({kOutput, 0}, {size % 2 == 0 ? a : b, 0}, bytes, {ready});
  return program;
}

inline const Toy kCarousel = {OperationKind::kAllToAll, carousel_program,
                              [](int rank, const std::vector<Values>& given) { return given[rank]; }};

inline Values values_of(int rank, std::size_t count, unsigned seed = 0) {
  Values values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = static_cast<std::int32_t>((i * 31 + rank * 7919 + seed) % 100'003);
  return values;
}

inline std::vector<Values> values_of_all(int size, std::size_t count, unsigned seed = 0) {
  std::vector<Values> all;
  for (int rank = 0; rank < size; ++rank) all.push_back(values_of(rank, count, seed));
  return all;
}

// Starts a toy on one rank, on `values`, which must live until it is done.
inline std::shared_ptr<Operation> start(Engine& engine, Group& group, const Toy& toy, int rank, int size,
                                        Values& values, int priority = 0,
                                        Clock::duration timeout = std::chrono::seconds(60)) {
  const std::size_t bytes = values.size() * kValueBytes;
  Request request;
  request.signature = {.kind = toy.kind, .dtype = DType::kInt32, .bytes = bytes};
  request.program = std::make_shared<PreparedProgram>(toy.program(rank, size, values.size()));
  request.output = Buffer(values.data(), bytes);
  request.reducer = sum_of_values();
  request.priority = priority;
  request.timeout = timeout;
  return engine.start(group, std::move(request));
}

inline Request message(Values& values, bool incoming, Clock::duration timeout = std::chrono::seconds(60)) {
  Request request;
  request.signature = {.kind = OperationKind::kSend, .dtype = DType::kInt32};
  (incoming ? request.output : request.input) = Buffer(values.data(), values.size() * kValueBytes);
  request.timeout = timeout;
  return request;
}

// Waits; throws what the operation failed with.
inline void finish(Operation& operation) {
  if (!operation.wait_until(Clock::now() + std::chrono::seconds(120))) throw std::runtime_error("an operation hangs");
  if (operation.error()) std::rethrow_exception(operation.error());
}

}  // namespace merak
