// What a GPU adds to code that is tested on CPUs: the launches, the atomics, the streams, the real NCCL. Needs a GPU;
// tests/backend/test_cuda.py builds it with nvcc and runs it. MERAK_TEST_NCCL names the library that torch would load.

#include <thread>

#include "collectives/harness.h"
#include "collectives/kernels.h"
#include "collectives/kernels_cuda.h"
#include "collectives/on_device.h"
#include "transport/atomic_add.h"
#include "transport/for_each.h"
#include "transport/nccl_programs_cuda.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

// -- kernels

template <class T>
T element(std::size_t i) {
  const int value = static_cast<int>(i * 7 % 23) - 11;
  if constexpr (kernels::is_bool<T>)
    return {static_cast<std::uint8_t>(value > 0)};
  else if constexpr (kernels::is_complex<T>)
    return {static_cast<decltype(T::real)>(value), static_cast<decltype(T::real)>(value % 4)};
  else if constexpr (kernels::is_half<T>)
    return T(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

template <class T>
Message elements(std::size_t count, std::size_t first) {
  Message message(count * sizeof(T));
  for (std::size_t i = 0; i < count; ++i) {
    const T value = element<T>(first + i);
    std::memcpy(message.data() + i * sizeof(T), &value, sizeof(T));
  }
  return message;
}

// Arrays of `count` elements, from element `begin` of what is allocated on.
template <class T>
void expect_same_as_cpu(DType dtype, Reduction reduction, std::size_t count, std::size_t begin, std::size_t shift) {
  const Reducer reducer = make_reducer(dtype, reduction, 3);
  Message at = elements<T>(begin + count + 5, 0), from = elements<T>(begin + shift + count + 5, 9);
  const OnDevice device_at(at), device_from(from);
  const std::size_t at_offset = begin * sizeof(T), from_offset = (begin + shift) * sizeof(T);
  reducer.combine(at.data() + at_offset, from.data() + from_offset, count);
  combine_on_device(dtype, reduction, device_at.data() + at_offset, device_from.data() + from_offset, count, nullptr);
  if (reducer.divide) {
    reducer.divide(at.data() + at_offset, count, 3);
    divide_on_device(dtype, device_at.data() + at_offset, count, 3, nullptr);
  }
  require(cudaGetLastError());
  EXPECT_EQ(device_at.read(), at) << name(dtype) << " " << name(reduction) << ", " << count << " elements from "
                                  << begin << ", operand from " << begin + shift;
}

TEST(Cuda, KernelsGiveTheBitsThatTheCpuGives) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  for (int d = static_cast<int>(DType::kBool); d < static_cast<int>(DType::kUInt16); ++d)
    for (int r = static_cast<int>(Reduction::kSum); r < kReductions; ++r) {
      const DType dtype = static_cast<DType>(d);
      const Reduction reduction = static_cast<Reduction>(r);
      try {
        make_reducer(dtype, reduction, 3);
      } catch (const std::invalid_argument&) {
        EXPECT_THROW(combine_on_device(dtype, reduction, nullptr, nullptr, 0, nullptr), std::invalid_argument);
        continue;
      }
      kernels::with_type(dtype, reduction, [&]<class T>(kernels::Type<T>) {
        for (std::size_t count : {0, 1, 15, 1000, 3000001})
          for (std::size_t begin : {0, 1, 3})
            for (std::size_t shift : {0, 1}) expect_same_as_cpu<T>(dtype, reduction, count, begin, shift);
      });
    }
}

template <class T>
struct AtomicAdd {
  T* sums;
  std::size_t count;
  MERAK_HD void operator()(std::size_t i) const { atomic_add(sums + i % count, T(static_cast<float>(i % 3))); }
};

template <class T>
void expect_all_added(std::size_t indices) {
  constexpr std::size_t kSums = 5;
  std::vector<T> expected(kSums, T(0.0f)), sums(kSums);
  for_each(OnCpu{}, indices, AtomicAdd<T>{expected.data(), kSums});
  const OnDevice device(Message(kSums * sizeof(T), std::byte{0}));
  for_each(OnCuda{}, indices, AtomicAdd<T>{reinterpret_cast<T*>(device.data()), kSums});
  require(cudaGetLastError());
  std::memcpy(sums.data(), device.read().data(), kSums * sizeof(T));
  for (std::size_t i = 0; i < kSums; ++i) EXPECT_EQ(float(sums[i]), float(expected[i]));
}

TEST(Cuda, AtomicAddLosesNothing) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  expect_all_added<std::int32_t>(2000003);
  expect_all_added<std::int64_t>(2000003);
  expect_all_added<float>(2000003);
  expect_all_added<double>(2000003);
  expect_all_added<Half>(1500);
  expect_all_added<BFloat16>(1000);
}

// -- programs over NCCL, a thread for each GPU

void reduce_int64(std::byte* at, const std::byte* from, std::size_t bytes, bool, CudaStreamHandle stream) {
  combine_on_device(DType::kInt64, Reduction::kSum, at, from, bytes / 8, static_cast<cudaStream_t>(stream));
}

// What rank `rank` does with each of `cases`, one after the other; results replace memory.
struct Case {
  std::string name;
  std::vector<Program> programs;
  std::vector<Memory> memory, expected;
};

void run_rank(const NcclUniqueId& id, int rank, int size, std::vector<Case>& cases) {
  require(cudaSetDevice(rank));
  NcclCommunicator communicator(loaded_nccl(), id, rank, size, 120s);
  const DeviceWork work = cuda_work(reduce_int64);
  cudaStream_t user = nullptr, stream = nullptr;
  require(cudaStreamCreateWithFlags(&user, cudaStreamNonBlocking));
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (Case& one : cases) {
    const Program& program = one.programs[rank];
    Memory& memory = one.memory[rank];
    const OnDevice input(memory.input), output(memory.output), scratch(scratch_bytes(program));
    const Rounds rounds = nccl_rounds(one.programs, 64 * 1024)[rank];
    const CudaOperation operation = start_over_nccl(
        {communicator, program, rounds, {input.buffer(), output.buffer(), scratch.data()}, work, 60s}, user, stream);
    operation.make_wait(user);
    require(cudaStreamSynchronize(user));
    EXPECT_TRUE(operation.done());
    communicator.check();
    memory = {input.read(), output.read()};
  }
  cudaStreamDestroy(user), cudaStreamDestroy(stream);
}

std::vector<Case> all_cases(int size) {
  const Reducer reducer = make_reducer(DType::kInt64, Reduction::kSum, 1);
  std::vector<Case> cases;
  for (int kind = static_cast<int>(OperationKind::kBroadcast); kind < static_cast<int>(OperationKind::kSend); ++kind)
    for (std::size_t bytes : {8, 4104, 3 << 20}) {
      const auto operation = static_cast<OperationKind>(kind);
      const CollectiveShape shape{.kind = operation,
                                  .root = size - 1,
                                  .bytes = operation == OperationKind::kBarrier ? 0 : bytes,
                                  .element_bytes = 8};
      for (const auto& [algorithm, programs] : programs_by_algorithm(shape, uniform_topology(size))) {
        std::vector<Memory> memory = memory_for(shape, size, 0), expected = memory;
        play(programs, expected, reducer, 0);
        cases.push_back({algorithm + ", " + std::to_string(bytes) + " bytes", programs, memory, expected});
      }
    }
  return cases;
}

TEST(Cuda, ProgramsOverNcclGiveWhatTheyGiveOnCpus) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  const NcclApi& nccl = real_nccl();
  for (int size = 1; size <= std::min(devices(), 8); ++size) {
    std::vector<Case> cases = all_cases(size);
    const NcclUniqueId id = new_nccl_id(nccl);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) threads.emplace_back([&, rank] { run_rank(id, rank, size, cases); });
    for (std::thread& thread : threads) thread.join();
    for (const Case& one : cases)
      for (int rank = 0; rank < size; ++rank)
        EXPECT_EQ(one.memory[rank].output, one.expected[rank].output)
            << one.name << ", rank " << rank << " of " << size;
  }
}

TEST(Cuda, APeerThatNeverComesIsTimedOut) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  const NcclUniqueId id = new_nccl_id(real_nccl());
  EXPECT_THROW(NcclCommunicator(loaded_nccl(), id, 0, 2, 2s), std::runtime_error);
}

}  // namespace
}  // namespace merak
