// What a GPU adds to the sparse all-reduce: the launches of its kernels, and its programs over the real NCCL. Needs a
// GPU; built and run with tests/collectives/cuda_test.cu.

#include <thread>

#include "collectives/on_device.h"
#include "sparse/device_work_cuda.h"
#include "sparse/harness.h"
#include "sparse/mark_rows_cuda.h"
#include "sparse/plan.h"
#include "sparse/row_energies.h"
#include "sparse/row_energies_cuda.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

TEST(SparseCuda, MarksTheRowsThatTheCpuMarks) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  std::mt19937 random(0);
  for (std::size_t element_bytes : {2, 4, 8})
    for (std::size_t rows : {0, 1, 64, 1000, 100'003}) {
      const std::size_t row_bytes = (1 + random() % 70) * element_bytes;
      Message table(rows * row_bytes);
      for (std::size_t i = 0; i < rows / 3; ++i) table[random() % table.size()] |= std::byte{1} << random() % 8;
      Bitmap found(rows);
      const OnDevice device(table), words(Message(found.words().size() * sizeof(std::uint64_t)));
      mark_rows_on_device(device.data(), rows, row_bytes, element_bytes, reinterpret_cast<std::uint64_t*>(words.data()),
                          nullptr);
      require(cudaGetLastError());
      const Message marked = words.read();
      if (!marked.empty()) std::memcpy(found.data(), marked.data(), marked.size());
      EXPECT_EQ(found, present_rows(table.data(), rows, row_bytes, element_bytes)) << rows << " rows";
    }
}

// Sums of up to four of 200 rows, some subtracted, zeros among them.
RowSums random_sums(std::mt19937& random, std::size_t row_bytes) {
  RowSums sums(row_bytes);
  for (std::uint32_t row = 0; row < 300; ++row) {
    for (unsigned count = random() % 5; count > 0; --count)
      if (random() % 9 == 0)
        sums.add(RowSums::kZeros);
      else
        random() % 3 == 0 ? sums.subtract(random() % 200) : sums.add(random() % 200);
    sums.end_row(299 - row);
  }
  return sums;
}

// Elements of any bits, but small whole numbers where those would be no numbers.
Message random_rows(std::mt19937& random, DType dtype, std::size_t bytes) {
  Message rows(bytes);
  with_summable_type(dtype, [&]<class T>(kernels::Type<T>) {
    for (std::size_t i = 0; i + sizeof(T) <= bytes; i += sizeof(T)) {
      T value;
      if constexpr (kernels::is_half<T>)
        value = T(static_cast<float>(static_cast<int>(random() % 2000) - 1000) / 8);
      else
        value = static_cast<T>(static_cast<int>(random() % 200'000) - 100'000) / T(7);
      std::memcpy(rows.data() + i, &value, sizeof(T));
    }
  });
  return rows;
}

TEST(SparseCuda, SumsOfRowsGiveTheBitsThatTheCpuGives) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  std::mt19937 random(1);
  for (DType dtype :
       {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16, DType::kInt32, DType::kInt64})
    for (std::size_t elements : {1, 3, 4, 33, 512})
      for (int divisor : {1, 3}) {
        if (divisor != 1 && (dtype == DType::kInt32 || dtype == DType::kInt64)) continue;
        const std::size_t row_bytes = elements * element_bytes(dtype);
        Program program;
        for (int i = 0; i < 3; ++i) program.sum_rows({}, {}, random_sums(random, row_bytes), {}, true);
        DeviceRowLists lists(program);
        Message list_bytes(lists.lists().size() * sizeof(std::uint32_t));
        std::memcpy(list_bytes.data(), lists.lists().data(), list_bytes.size());
        const OnDevice device_lists(list_bytes);
        lists.lie_at(device_lists.data());
        const Message from = random_rows(random, dtype, 200 * row_bytes);
        const OnDevice device_from(from);
        const Reducer reducer =
            make_sparse_reducer(dtype, divisor == 1 ? Reduction::kSum : Reduction::kAverage, divisor);
        for (std::uint32_t index = 0; index < 3; ++index) {
          Message at(300 * row_bytes);
          const OnDevice device_at(at);
          reducer.sum_rows(at.data(), from.data(), program.row_sums[index], divisor);
          lists.sum_rows(dtype, device_at.data(), device_from.data(), index, divisor, nullptr);
          require(cudaGetLastError());
          EXPECT_EQ(device_at.read(), at) << name(dtype) << ", " << elements << " elements, divided by " << divisor;
        }
      }
}

OnDevice on_device(const std::vector<std::uint32_t>& list) {
  Message bytes(list.size() * sizeof(std::uint32_t));
  if (!bytes.empty()) std::memcpy(bytes.data(), list.data(), bytes.size());
  return OnDevice(bytes);
}

TEST(SparseCuda, EnergiesAreThoseOfTheCpuButForTheOrderOfSums) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  std::mt19937 random(2);
  for (DType dtype : {DType::kFloat32, DType::kFloat64})
    for (std::size_t elements : {1, 15, 16, 17, 512}) {
      const RowSums rows = random_sums(random, elements * element_bytes(dtype));
      const Message from = random_rows(random, dtype, 200 * rows.row_bytes);
      const OnDevice device_from(from), first = on_device(rows.first), sources = on_device(rows.from);
      const DeviceRows there{device_from.data(), reinterpret_cast<const std::uint32_t*>(first.data()),
                             reinterpret_cast<const std::uint32_t*>(sources.data()), rows.rows(), elements};
      const OnDevice strips(Message(strip_energies(there) * sizeof(double)));
      const OnDevice energies(Message(rows.rows() * sizeof(double)));
      energies_of_rows_on_device(dtype, there, reinterpret_cast<double*>(strips.data()),
                                 reinterpret_cast<double*>(energies.data()), nullptr);
      require(cudaGetLastError());
      const Message read = energies.read();
      const std::vector<double> expected = energies_of_rows(dtype, from.data(), rows);
      for (std::size_t row = 0; row < expected.size(); ++row) {
        double found = 0;
        std::memcpy(&found, read.data() + row * sizeof(double), sizeof(double));
        EXPECT_NEAR(found, expected[row], 1e-12 * expected[row]) << name(dtype) << ", " << elements << " elements";
      }
    }
}

// What the ranks of one case do, by one method.
struct Planned {
  std::string name;
  std::vector<Program> programs;
  std::vector<Memory> memory;
  Message expected;
};

Planned planned(const Case& one, Method method) {
  const Known known = exchanged(one);
  const Shape shape{one.table_rows, one.columns * sizeof(float), sizeof(float)};
  const Topology topology = uniform_topology(one.size);
  const TablePlan plan = plan_table(known.rows, shape, method, topology, {});
  Planned result{name(method), {}, {}, bytes_of(expected_sums(one, known.rows, one.size))};
  for (const Contributions& mine : contributions_of(one, known, false)) {
    result.programs.push_back(program_of(plan, mine, shape, topology, kDeviceGrain));
    result.memory.push_back({bytes_of(one.of_rank[static_cast<std::size_t>(mine.rank)].values),
                             Message(known.rows.rows() * shape.row_bytes)});
  }
  return result;
}

void run_rank(const NcclUniqueId& id, int rank, int size, std::vector<Planned>& all) {
  require(cudaSetDevice(rank));
  NcclCommunicator communicator(loaded_nccl(), id, rank, size, 120s);
  cudaStream_t user = nullptr, stream = nullptr;
  require(cudaStreamCreateWithFlags(&user, cudaStreamNonBlocking));
  require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (Planned& one : all) {
    const Program& program = one.programs[rank];
    Memory& memory = one.memory[rank];
    DeviceRowLists lists(program);
    Message list_bytes(lists.lists().size() * sizeof(std::uint32_t));
    if (!list_bytes.empty()) std::memcpy(list_bytes.data(), lists.lists().data(), list_bytes.size());
    const OnDevice device_lists(list_bytes), input(memory.input), output(memory.output),
        scratch(scratch_bytes(program));
    lists.lie_at(device_lists.data());
    const DeviceWork work = sparse_cuda_work(DType::kFloat32, Reduction::kSum, size, lists);
    const Rounds rounds = nccl_rounds(one.programs)[rank];
    const CudaOperation operation = start_over_nccl(
        {communicator, program, rounds, {input.buffer(), output.buffer(), scratch.data()}, work, 60s}, user, stream);
    operation.make_wait(user);
    require(cudaStreamSynchronize(user));
    communicator.check();
    memory.output = output.read();
  }
  cudaStreamDestroy(user), cudaStreamDestroy(stream);
}

TEST(SparseCuda, ExactMethodsOverNccl) {
  ASSERT_GT(devices(), 0) << "this needs a GPU";
  const NcclApi& nccl = real_nccl();
  for (unsigned seed = 0; seed < 40; ++seed) {
    const Case one = random_case(seed, true);
    if (one.size > devices()) continue;
    std::vector<Planned> all;
    for (Method method : {Method::kBalanced, Method::kGather, Method::kPacked, Method::kDense})
      all.push_back(planned(one, method));
    const NcclUniqueId id = new_nccl_id(nccl);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < one.size; ++rank) threads.emplace_back([&, rank] { run_rank(id, rank, one.size, all); });
    for (std::thread& thread : threads) thread.join();
    for (const Planned& done : all)
      for (const Memory& memory : done.memory)
        EXPECT_EQ(memory.output, done.expected) << done.name << ", seed " << seed;
  }
}

}  // namespace
}  // namespace merak
