// Measures the kernels of csrc/sparse on one core beside memcpy. Rows are 512 fp32 (2 KiB), as of an embedding.
//
//   cmake -B build/core -G Ninja && cmake --build build/core --target sparse_kernels && build/core/sparse_kernels
//
// --json prints a record a line instead of the table; --only NAME runs the kernels whose names contain it;
// --repetitions N (default 31).
//
// A kernel's *traffic* are the bytes that it must read plus those that it must write, when nothing stays in a cache:
// counted in the comments below. Lists of rows, 4 to 12 bytes a row, are left out. memcpy of m bytes moves 2 m; each
// kernel is paired with a memcpy of the same traffic. The two take turns, the order alternating, and *ratio* is the
// median of memcpy's time divided by the kernel's in the same turn: 1 is as many bytes a second as memcpy. Time is the
// thread's, so that being interrupted costs nothing. All memory was touched before.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "sparse/fixed_point.h"
#include "sparse/own_rows.h"
#include "sparse/peeling.h"
#include "sparse/plan.h"
#include "sparse/sum_rows.h"
#include "sparse/union_rows.h"

namespace merak {
namespace {

constexpr std::size_t kLanes = 512, kRowBytes = kLanes * sizeof(float);

// As tensors are, and as memcpy needs to be fast in all sizes.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kAlignment)); }
  void deallocate(T* at, std::size_t) { ::operator delete(at, kAlignment); }
  bool operator==(const Aligned&) const = default;
};
template <class T>
using Values = std::vector<T, Aligned<T>>;

struct Size {
  std::size_t rows, table_rows;
};
constexpr Size kSizes[] = {{60, 200}, {1040, 28881}, {12559, 28881}, {10364, 73607}};

struct Options {
  int repetitions = 31;
  bool json = false;
  std::string only;  // kernels whose names contain it
};

// Of this thread, so that what else the machine does costs caches and bandwidth alone.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_of(const std::function<void()>& run, int times) {
  const double begin = processor_seconds();
  for (int i = 0; i < times; ++i) run();
  return (processor_seconds() - begin) / times;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Runs the kernels of one size and prints a line for each.
class Table {
 public:
  Table(Size size, const Options& options) : size_(size), options_(options) {}

  void measure(const std::string& kernel, std::size_t traffic, const std::function<void()>& run) const {
    if (kernel.find(options_.only) == std::string::npos) return;
    Values<char> from(traffic / 2, 1), to(traffic / 2, 2);
    static void* (*volatile const copy)(void*, const void*, std::size_t) = std::memcpy;  // not optimised away
    const std::function<void()> run_memcpy = [&] { copy(to.data(), from.data(), to.size()); };
    constexpr double kShortest = 1e-3;  // of a turn: small sizes run several times
    const int times = 1 + static_cast<int>(kShortest / seconds_of(run, 2));
    std::vector<double> ours, memcpys, ratios;
    for (int turn = 0; turn < options_.repetitions; ++turn) {
      double first = seconds_of(turn % 2 == 0 ? run : run_memcpy, times);
      double second = seconds_of(turn % 2 == 0 ? run_memcpy : run, times);
      if (turn % 2 != 0) std::swap(first, second);
      ours.push_back(first), memcpys.push_back(second), ratios.push_back(second / first);
    }
    print(kernel.c_str(), static_cast<double>(traffic), median(ours), median(memcpys), median(ratios));
  }

 private:
  void print(const char* kernel, double traffic, double ours, double memcpys, double ratio) const {
    std::printf(options_.json ? "{\"kernel\": \"%s\", \"rows\": %zu, \"table_rows\": %zu, \"traffic_mb\": %.3f, "
                                "\"ms\": %.4f, \"gb_per_s\": %.3f, \"memcpy_gb_per_s\": %.3f, \"ratio\": %.3f}\n"
                              : "| %s | %zu of %zu | %.2f | %.3f | %.2f | %.2f | %.2f |\n",
                kernel, size_.rows, size_.table_rows, traffic / 1e6, 1e3 * ours, traffic / ours / 1e9,
                traffic / memcpys / 1e9, ratio);
    std::fflush(stdout);
  }

  const Size size_;
  const Options& options_;
};

std::vector<std::uint32_t> random_ids(Size size, std::mt19937& random) {
  std::vector<std::uint32_t> all(size.table_rows), ids;
  std::iota(all.begin(), all.end(), 0);
  std::sample(all.begin(), all.end(), std::back_inserter(ids), size.rows, random);
  return ids;
}

// Values of few enough bits to be added up in 32-bit fixed point.
Values<float> random_values(std::size_t count, std::mt19937& random) {
  Values<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 4096) - 2048) / 1024;
  return values;
}

template <class T>
std::byte* bytes_of(Values<T>& values) {
  return reinterpret_cast<std::byte*>(values.data());
}

const Reducer& floats() {
  static const Reducer reducer = make_sparse_reducer(DType::kFloat32, Reduction::kSum, 1);
  return reducer;
}

// Which rows a rank has: table's rows are scanned, bitmaps are united.
void measure_rows(const Table& table, Size size, std::mt19937& random) {
  const std::vector<std::uint32_t> ids = random_ids(size, random);
  Values<float> values(size.table_rows * kLanes);
  for (std::uint32_t id : ids) std::fill_n(values.begin() + id * kLanes, kLanes, 1.0f);
  // Of a row with values, one cache line is read; of one without, all.
  table.measure("row scan", (size.table_rows - size.rows) * kRowBytes + size.rows * 64,
                [&] { present_rows(bytes_of(values), size.table_rows, kRowBytes, sizeof(float)); });
  std::vector<Bitmap> present;
  for (int rank = 0; rank < 4; ++rank) {
    present.emplace_back(size.table_rows);
    for (std::uint32_t id : random_ids(size, random)) present.back().set(id);
  }
  const UnionRows all = unite(present);
  // Four bitmaps are read; the lists of the union are written.
  table.measure("union of 4", 4 * present[0].words().size() * 8 + 4 * (2 * all.rows() + all.contributors.size()),
                [&] { unite(present); });
}

// Rows copied from a table to lie one behind the other, and back: each is read and written.
void measure_copies(const Table& table, Size size, std::mt19937& random) {
  Values<float> values = random_values(size.table_rows * kLanes, random);
  Values<float> packed = random_values(size.rows * kLanes, random);
  RowSums pack(kRowBytes), onto_zeros(kRowBytes), unpack(kRowBytes);
  for (std::uint32_t i = 0; std::uint32_t id : random_ids(size, random)) {
    pack.copy_row(i, id), unpack.copy_row(id, i);
    onto_zeros.add(RowSums::kZeros), onto_zeros.copy_row(i, id), ++i;
  }
  const std::size_t traffic = 2 * pack.bytes();
  table.measure("pack", traffic, [&] { floats().sum_rows(bytes_of(packed), bytes_of(values), pack, 1); });
  // As programs do it, so that negative zeros become positive ones.
  table.measure("pack onto zeros", traffic,
                [&] { floats().sum_rows(bytes_of(packed), bytes_of(values), onto_zeros, 1); });
  table.measure("unpack", traffic, [&] { floats().sum_rows(bytes_of(values), bytes_of(packed), unpack, 1); });
}

// Each source is read, each sum written.
void measure_sums(const Table& table, Size size, std::mt19937& random) {
  Values<float> sums = random_values(size.rows * kLanes, random);
  for (std::uint32_t count : {2, 4, 8}) {
    Values<float> values = random_values(count * size.rows * kLanes, random);
    RowSums by_rank(kRowBytes);  // what each rank sent lies together
    for (std::uint32_t row = 0; row < size.rows; ++row) {
      for (std::uint32_t rank = 0; rank < count; ++rank)
        by_rank.add(static_cast<std::uint32_t>(rank * size.rows) + row);
      by_rank.end_row(row);
    }
    table.measure("sum of " + std::to_string(count) + " ranks", (count + 1) * by_rank.bytes(),
                  [&] { floats().sum_rows(bytes_of(sums), bytes_of(values), by_rank, 1); });
    if (count != 2) continue;
    std::shuffle(by_rank.from.begin(), by_rank.from.end(), random);  // duplicates lie anywhere
    table.measure("sum of 2 duplicates", (count + 1) * by_rank.bytes(),
                  [&] { floats().sum_rows(bytes_of(sums), bytes_of(values), by_rank, 1); });
  }
}

// Each row is read, each cell written.
void measure_encode(const Table& table, Size size, std::mt19937& random) {
  Values<float> values = random_values(size.rows * kLanes, random);
  for (std::size_t rows_a_cell : {1, 2, 4}) {
    const auto cells = static_cast<std::uint32_t>(size.rows / rows_a_cell);
    std::vector<std::vector<std::uint32_t>> rows_of(cells);
    for (std::uint32_t row = 0; row < size.rows; ++row) rows_of[random() % cells].push_back(row);
    RowSums sums(kRowBytes);
    for (std::uint32_t cell = 0; cell < cells; ++cell) {
      sums.add(RowSums::kZeros);
      for (std::uint32_t row : rows_of[cell]) random() % 2 == 0 ? sums.add(row) : sums.subtract(row);
      sums.end_row(cell);
    }
    Values<float> sketch(cells * kLanes);
    table.measure("one-hash encode, " + std::to_string(rows_a_cell) + " rows a cell", (size.rows + cells) * kRowBytes,
                  [&] { floats().sum_rows(bytes_of(sketch), bytes_of(values), sums, 1); });
  }
}

void measure_exact_sketch(const Table& table, Size size, std::mt19937& random) {
  const PeelingPlan plan = *plan_peeling(random_ids(size, random), kCellsARow);
  std::vector<std::uint32_t> mine(size.rows);
  const std::vector<RowSums> peeling = peeling_sums(plan, kRowBytes);
  Values<std::uint32_t> values(size.rows * kLanes), sketch(plan.cells() * kLanes);
  std::iota(mine.begin(), mine.end(), 0);
  for (std::uint32_t& value : values) value = random();
  const RowSums sums = sketch_sums(plan, mine, kRowBytes);
  const Reducer integers = make_sparse_reducer(DType::kInt32, Reduction::kSum, 1);
  // Each row is read for each of its three cells; cells that get something are written.
  table.measure("three-hash encode", (3 * size.rows + sums.rows()) * kRowBytes,
                [&] { integers.sum_rows(bytes_of(sketch), bytes_of(values), sums, 1); });
  std::size_t rows_moved = 0;  // what is alone in its cell is there already
  for (const RowSums& round : peeling) rows_moved += round.rows() + round.from.size();
  table.measure("peel", rows_moved * kRowBytes, [&] {
    for (const RowSums& round : peeling) integers.sum_rows(bytes_of(sketch), bytes_of(sketch), round, 1);
  });
}

// A float is 4 bytes, its integer 4.
void measure_fixed_point(const Table& table, Size size, std::mt19937& random) {
  Values<float> values = random_values(size.rows * kLanes, random);
  Values<std::int32_t> integers(values.size());
  const ExponentRange range = exponents_of(DType::kFloat32, values.data(), values.size());
  table.measure("range of exponents", 4 * values.size(),
                [&] { exponents_of(DType::kFloat32, values.data(), values.size()); });
  table.measure("to fixed point", 8 * values.size(),
                [&] { to_fixed_point(DType::kFloat32, values.data(), values.size(), range, 32, integers.data()); });
  table.measure("from fixed point", 8 * values.size(), [&] {
    from_fixed_point(DType::kFloat32, integers.data(), values.size(), range, 32, 1, values.data());
  });
}

void measure_all(const Options& options) {
  if (!options.json)
    std::printf(
        "| kernel | rows | traffic, MB | ms | GB/s | memcpy, GB/s | ratio |\n|---|---|---:|---:|---:|---:|---:|\n");
  for (const Size& size : kSizes) {
    std::mt19937 random(1);
    const Table table(size, options);
    for (auto measure :
         {measure_rows, measure_copies, measure_sums, measure_encode, measure_exact_sketch, measure_fixed_point})
      measure(table, size, random);
  }
}

Options parsed(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--json")
      options.json = true;
    else if (argument == "--repetitions" && i + 1 < count && std::atoi(arguments[i + 1]) > 0)
      options.repetitions = std::atoi(arguments[++i]);
    else if (argument == "--only" && i + 1 < count)
      options.only = arguments[++i];
    else
      std::fprintf(stderr, "usage: %s [--json] [--only KERNEL] [--repetitions N]\n", arguments[0]), std::exit(2);
  }
  return options;
}

}  // namespace
}  // namespace merak

int main(int count, char** arguments) { merak::measure_all(merak::parsed(count, arguments)); }
