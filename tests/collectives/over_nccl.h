#pragma once
// Carries out the programs of all ranks as devices issue them: ranks are threads over an NCCL in memory
// (transport/fake_nccl.h), which matches by order alone. A group that could not end would miss its deadline.

#include <chrono>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "transport/fake_nccl.h"
#include "transport/nccl_programs.h"
#include "transport/play.h"

namespace merak {

inline DeviceWork work_on_cpu(const Reducer& reducer) {
  DeviceWork work;
  work.reduce = [reducer](std::byte* at, const std::byte* from, std::size_t bytes, bool completes, void*) {
    reduce_anywhere(reducer, at, from, bytes, completes);
  };
  work.copy = [](std::byte* at, const std::byte* from, std::size_t bytes, void*) { std::memcpy(at, from, bytes); };
  work.sum_rows = [reducer](std::byte* at, const std::byte* from, const RowSums& sums, std::uint32_t, bool completes,
                            void*) { reducer.sum_rows(at, from, sums, completes ? reducer.divisor : 1); };
  work.copy_strided = [](std::byte* at, const std::byte* from, const StridedCopy& copy, void*) {
    copy_strided(at, from, copy);
  };
  return work;
}

// Rank `rank` of all; returns when its stream is empty.
inline void run_rank(const NcclApi& api, FakeNccl& nccl, int rank, const std::vector<Program>& programs,
                     const Rounds& rounds, Memory& memory, const DeviceWork& work) {
  using std::chrono::seconds;
  NcclCommunicator communicator(api, nccl.id(), rank, static_cast<int>(programs.size()), seconds(30));
  std::vector<std::byte> scratch(scratch_bytes(programs[rank]), std::byte{0x5a});
  NcclCalls calls(communicator, work, nullptr, seconds(30));
  issue(programs[rank], rounds,
        {{memory.input.data(), memory.input.size()}, {memory.output.data(), memory.output.size()}, scratch.data()},
        calls);
}

// Throws what a rank throws.
inline void run_over_nccl(const std::vector<Program>& programs, const std::vector<Rounds>& rounds,
                          std::vector<Memory>& memory, const DeviceWork& work) {
  static const NcclApi api = FakeNccl::api();
  FakeNccl nccl(static_cast<int>(programs.size()));
  std::vector<std::exception_ptr> errors(programs.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < static_cast<int>(programs.size()); ++rank)
    threads.emplace_back([&, rank] {
      try {
        run_rank(api, nccl, rank, programs, rounds[rank], memory[rank], work);
      } catch (...) {
        errors[rank] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace merak
