#pragma once
// Carries out a program on a device: issues its steps, in the order of nccl_rounds.h, to calls that return at once and
// take effect in the order of a stream. It decides nothing and waits for nothing on the device.
//
// The engine (engine.h) has no part in this: on a device the stream is what runs things in order, and the messages of a
// group are what goes on at the same time. Operations of one group must be started in the same order on all ranks, as
// NCCL has it.

#include <chrono>
#include <cstddef>
#include <functional>
#include <vector>

#include "transport/buffer.h"
#include "transport/nccl_communicator.h"
#include "transport/nccl_rounds.h"
#include "transport/program.h"

namespace merak {

// What a step becomes. Between group_start and group_end: sends and receives, and nothing else.
class DeviceCalls {
 public:
  virtual ~DeviceCalls() = default;

  virtual void group_start() = 0;
  virtual void group_end() = 0;
  virtual void send(int peer, const std::byte* from, std::size_t bytes) = 0;
  virtual void receive(int peer, std::byte* to, std::size_t bytes) = 0;
  virtual void reduce(std::byte* at, const std::byte* from, std::size_t bytes, bool completes) = 0;  // as Step has it
  virtual void copy(std::byte* at, const std::byte* from, std::size_t bytes) = 0;
  virtual void copy_strided(std::byte* at, const std::byte* from, const StridedCopy& copy) = 0;
  // `index`: of the sums among the program's.
  virtual void sum_rows(std::byte* at, const std::byte* from, const RowSums& sums, std::uint32_t index,
                        bool completes) = 0;
};

// The buffers of one rank. What a step touches of one is a single run of memory: the ends of a message would cut it
// differently, and NCCL matches piece by piece.
struct DeviceMemory {
  Buffer input, output;
  std::byte* scratch = nullptr;  // scratch_bytes() bytes
};

// How much memory the scratch buffers of a program need: they lie one behind the other, each well aligned.
std::size_t scratch_bytes(const Program& program);

// `rounds`: those of this rank. Throws what the calls throw.
void issue(const Program& program, const Rounds& rounds, const DeviceMemory& memory, DeviceCalls& calls);

// The arithmetic and the copies of a device, put onto `stream`. In a build with CUDA: cuda_work() in
// nccl_programs_cuda.h.
struct DeviceWork {
  std::function<void(std::byte* at, const std::byte* from, std::size_t bytes, bool completes, CudaStreamHandle stream)>
      reduce;  // may be empty for a program without reduces
  std::function<void(std::byte* at, const std::byte* from, std::size_t bytes, CudaStreamHandle stream)> copy;
  std::function<void(std::byte* at, const std::byte* from, const RowSums& sums, std::uint32_t index, bool completes,
                     CudaStreamHandle stream)>
      sum_rows = {};  // may be empty for a program without sums of rows
  std::function<void(std::byte* at, const std::byte* from, const StridedCopy& copy, CudaStreamHandle stream)>
      copy_strided = {};  // may be empty for a program without strided copies
};

// Messages by NCCL. group_end throws as NcclCommunicator's does, after `timeout` at most.
class NcclCalls : public DeviceCalls {
 public:
  // `communicator` and `work` outlive it.
  NcclCalls(NcclCommunicator& communicator, const DeviceWork& work, CudaStreamHandle stream,
            std::chrono::steady_clock::duration timeout)
      : communicator_(communicator), work_(work), stream_(stream), timeout_(timeout) {}

  void group_start() override { communicator_.group_start(); }
  void group_end() override { communicator_.group_end(timeout_); }
  void send(int peer, const std::byte* from, std::size_t bytes) override {
    communicator_.send(from, bytes, peer, stream_);
  }
  void receive(int peer, std::byte* to, std::size_t bytes) override { communicator_.receive(to, bytes, peer, stream_); }
  void reduce(std::byte* at, const std::byte* from, std::size_t bytes, bool completes) override {
    work_.reduce(at, from, bytes, completes, stream_);
  }
  void copy(std::byte* at, const std::byte* from, std::size_t bytes) override { work_.copy(at, from, bytes, stream_); }
  void copy_strided(std::byte* at, const std::byte* from, const StridedCopy& copy) override {
    work_.copy_strided(at, from, copy, stream_);
  }
  void sum_rows(std::byte* at, const std::byte* from, const RowSums& sums, std::uint32_t index,
                bool completes) override {
    work_.sum_rows(at, from, sums, index, completes, stream_);
  }

 private:
  NcclCommunicator& communicator_;
  const DeviceWork& work_;
  const CudaStreamHandle stream_;
  const std::chrono::steady_clock::duration timeout_;
};

}  // namespace merak
