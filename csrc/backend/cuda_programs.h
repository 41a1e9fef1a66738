#pragma once
// merak's own programs on CUDA tensors, of one rank in one group. In a build without CUDA there are none.

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "backend/membership.h"
#include "backend/work.h"
#include "collectives/topology.h"
#include "sparse/all_reduce.h"

namespace merak {

// Thread-safe, as far as its operations are started in the same order on all ranks.
class CudaPrograms {
 public:
  // What to do in a build that has none.
  static constexpr const char* kMissing =
      "this merak was built without CUDA, which CUDA tensors need here. Build it where nvcc is found (MERAK_CUDA=1), "
      "or "
      "pass x.cpu().";
  static bool built();

  // Null in a build without CUDA.
  static std::unique_ptr<CudaPrograms> make(std::shared_ptr<Membership> membership);
  virtual ~CudaPrograms() = default;

  // Which all calls must use: that of the first; empty before.
  virtual std::optional<at::Device> device() const = 0;

  struct Call {
    Work::About about;
    at::Device device;
    std::vector<at::Tensor> inputs;   // for the profiler
    std::vector<at::Tensor> outputs;  // of the Work
    std::vector<at::Tensor> memory;   // what the program reads and writes, but its scratch
    Clock::time_point deadline;
    Topology topology;
  };
  // Puts the program behind what is on the current stream, on a stream of its own, and returns; the first time when all
  // ranks have come. Its wait() makes the current stream wait. After it has thrown, the group can start no more.
  virtual c10::intrusive_ptr<c10d::Work> start(const DeviceShare& share, Call call) = 0;

  // What is started here from now on comes after what that future of CUDA stands for. Null is nothing.
  virtual void come_after(const c10::intrusive_ptr<c10::ivalue::Future>& future) = 0;
  // What is put on the current stream from now on comes after all that was started here.
  virtual void hold_back_current_stream() = 0;

  virtual void abort() = 0;
  // Gives what was started at most `linger` to end. Nothing is started after it.
  virtual void shutdown(Clock::duration linger) = 0;
};

// As present_rows() has it, of a contiguous CUDA tensor. Waits for what is on the current stream.
Bitmap present_rows_on_cuda(const at::Tensor& table, const Shape& shape);
// As energies_of_rows() has it, of rows that are sums of those of a contiguous CUDA tensor of fp32 or fp64. Waits, too.
std::vector<double> energies_on_cuda(const at::Tensor& values, const RowSums& rows);

}  // namespace merak
