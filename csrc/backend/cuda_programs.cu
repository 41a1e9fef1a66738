#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "backend/cuda_programs.h"
#include "backend/cuda_work.h"
#include "backend/nccl_meeting.h"
#include "backend/torch_errors.h"
#include "sparse/device_work_cuda.h"
#include "sparse/mark_rows_cuda.h"
#include "sparse/row_energies_cuda.h"
#include "transport/device_watch.h"
#include "transport/errors.h"

namespace merak {
namespace {

constexpr auto kBetweenLooks = std::chrono::milliseconds(1);

// What a CUDA graph is made of runs when the graph does: it has no place among the operations of now.
bool capturing() { return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None; }

at::TensorOptions bytes_on(at::Device device) { return at::TensorOptions().dtype(at::kByte).device(device); }

// A copy on the device, made on the current stream. torch keeps the pinned memory until the copy is made.
at::Tensor on_device(const std::vector<std::uint32_t>& values, at::Device device) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(std::uint32_t));
  const at::Tensor pinned = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  if (bytes > 0) std::memcpy(pinned.mutable_data_ptr(), values.data(), values.size() * sizeof(std::uint32_t));
  return pinned.to(device, /*non_blocking=*/true);
}

class Programs final : public CudaPrograms {
 public:
  explicit Programs(std::shared_ptr<Membership> membership) : membership_(std::move(membership)) {}
  ~Programs() override { shutdown(Clock::duration::zero()); }

  c10::intrusive_ptr<c10d::Work> start(const DeviceShare& share, Call call) override {
    std::lock_guard starting(starting_);
    try {
      const c10::cuda::CUDAGuard device(call.device);
      if (!communicator()) meet(call);
      return start_here(share, call);
    } catch (...) {
      abort();  // the other ranks must not wait for what this one does not send
      throw;
    }
  }

  std::optional<at::Device> device() const override {
    std::lock_guard lock(mutex_);
    return device_;
  }

  void come_after(const c10::intrusive_ptr<c10::ivalue::Future>& future) override {
    std::lock_guard lock(mutex_);
    if (!future || !future->completed() || !stream_ || capturing()) return;
    const c10::cuda::CUDAStreamGuard on_stream(*stream_);
    future->wait();  // the stream does
  }

  void hold_back_current_stream() override {
    std::lock_guard lock(mutex_);
    if (last_ && !last_->ended())
      last_->operation().make_wait(c10::cuda::getCurrentCUDAStream(device_->index()).stream());
  }

  void abort() override {
    if (const auto ours = communicator()) ours->abort();
  }

  void shutdown(Clock::duration linger) override {
    const auto until = Clock::now() + linger;
    std::shared_ptr<CudaInFlight> last;
    {
      std::lock_guard lock(mutex_);
      last = std::exchange(last_, nullptr);
    }
    if (membership_->failure()) abort();
    while (last && !last->ended() && Clock::now() < until) std::this_thread::sleep_for(kBetweenLooks);
    Communicator ours;  // ends without the mutex, for which others need not wait
    std::lock_guard lock(mutex_);
    ours.swap(communicator_);
  }

 private:
  using Communicator = std::shared_ptr<NcclCommunicator>;

  Communicator communicator() const {
    std::lock_guard lock(mutex_);
    return communicator_;
  }

  void meet(const Call& call) {
    Communicator made = meet_over_nccl(membership_, call.topology, call.deadline - Clock::now());
    std::lock_guard lock(mutex_);
    communicator_ = std::move(made), device_ = call.device;
    stream_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, call.device.index());
  }

  // Memory that is allocated on the stream where it is used needs nobody to keep it.
  c10::intrusive_ptr<c10d::Work> start_here(const DeviceShare& share, Call& call) {
    const Communicator ours = communicator();
    const Program& program = share.act.program->program();
    const c10::cuda::CUDAStream user = c10::cuda::getCurrentCUDAStream();
    const c10::cuda::CUDAStreamGuard on_stream(*stream_);
    const at::Tensor scratch = at::empty({static_cast<std::int64_t>(scratch_bytes(program))}, bytes_on(call.device));
    DeviceRowLists lists(program);
    const at::Tensor device_lists = on_device(lists.lists(), call.device);
    lists.lie_at(device_lists.const_data_ptr());
    for (const at::Tensor& tensor : call.memory) tensor.record_stream(*stream_);
    const DeviceMemory memory{share.act.input, share.act.output, static_cast<std::byte*>(scratch.mutable_data_ptr())};
    const DeviceWork work =
        sparse_cuda_work(share.act.signature.dtype, share.act.signature.reduction, share.act.reducer.divisor, lists);
    auto made = c10::make_intrusive<CudaWork>(membership_, call.about, call.device, call.inputs, call.outputs);
    auto in_flight = std::make_shared<CudaInFlight>(start_over_nccl(
        {*ours, program, share.rounds, memory, work, call.deadline - Clock::now()}, user.stream(), stream_->stream()));
    made->started(in_flight);
    watch(in_flight, ours, call);
    std::lock_guard lock(mutex_);
    last_ = std::move(in_flight);
    return made;
  }

  void watch(const std::shared_ptr<CudaInFlight>& in_flight, const Communicator& ours, const Call& call) {
    const GroupIdentity& me = membership_->identity();
    const std::string late = call.about.text + " of group '" + me.name + "', rank " + std::to_string(me.rank) + " of " +
                             std::to_string(me.size) +
                             ", has not ended on the GPU within its timeout. See whether all ranks are alive and call "
                             "the same operations in the same order; if they do, raise the timeout.";
    const auto done = [in_flight, ours, membership = membership_] {
      if (in_flight->operation().done()) return true;
      ours->check();
      membership->check_usable();
      if (const auto failure = membership->failure()) std::rethrow_exception(failure);
      return false;
    };
    const auto end = [in_flight, ours, membership = membership_](std::exception_ptr error) {
      if (!error) return;
      in_flight->fail(error);
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& reason) {
        ours->abort();
        membership->abort(reason.what());
      }
    };
    DeviceWatch::process().add({done, call.deadline, end, std::make_exception_ptr(TimeoutError(late))});
  }

  const std::shared_ptr<Membership> membership_;
  std::mutex starting_;  // held by who starts, who may be waiting for a peer
  mutable std::mutex mutex_;
  Communicator communicator_;  // null before the first call
  std::optional<at::Device> device_;
  std::optional<c10::cuda::CUDAStream> stream_;
  std::shared_ptr<CudaInFlight> last_;
};

}  // namespace

bool CudaPrograms::built() { return true; }

std::unique_ptr<CudaPrograms> CudaPrograms::make(std::shared_ptr<Membership> membership) {
  return std::make_unique<Programs>(std::move(membership));
}

Bitmap present_rows_on_cuda(const at::Tensor& table, const Shape& shape) {
  const c10::cuda::CUDAGuard device(table.device());
  Bitmap present(shape.table_rows);
  const auto bytes = static_cast<std::int64_t>(present.words().size() * sizeof(std::uint64_t));
  const at::Tensor words = at::zeros({bytes}, bytes_on(table.device()));
  mark_rows_on_device(table.const_data_ptr(), shape.table_rows, shape.row_bytes, shape.element_bytes,
                      static_cast<std::uint64_t*>(words.mutable_data_ptr()), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor here = words.cpu();
  if (bytes > 0) std::memcpy(present.data(), here.const_data_ptr(), static_cast<std::size_t>(bytes));
  return present;
}

std::vector<double> energies_on_cuda(const at::Tensor& values, const RowSums& rows) {
  const c10::cuda::CUDAGuard device(values.device());
  const at::Tensor first = on_device(rows.first, values.device()), sources = on_device(rows.from, values.device());
  const DeviceRows there{values.const_data_ptr(), static_cast<const std::uint32_t*>(first.const_data_ptr()),
                         static_cast<const std::uint32_t*>(sources.const_data_ptr()), rows.rows(),
                         rows.row_bytes / values.element_size()};
  const auto doubles = [&](std::size_t count) {
    return at::empty({static_cast<std::int64_t>(count)}, values.options().dtype(at::kDouble));
  };
  const at::Tensor strips = doubles(strip_energies(there)), energies = doubles(rows.rows());
  const DType dtype = values.scalar_type() == at::kFloat ? DType::kFloat32 : DType::kFloat64;
  energies_of_rows_on_device(dtype, there, strips.mutable_data_ptr<double>(), energies.mutable_data_ptr<double>(),
                             c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor here = energies.cpu();
  return {here.const_data_ptr<double>(), here.const_data_ptr<double>() + here.numel()};
}

}  // namespace merak
