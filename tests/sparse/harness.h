#pragma once
// Random sparse contributions of all ranks, and their sum the obvious way.

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "sparse/balanced.h"
#include "sparse/sum_rows.h"
#include "sparse/union_rows.h"
#include "transport/play.h"
#include "transport/validate.h"

namespace merak {

struct Contribution {  // of one rank
  std::vector<std::int64_t> ids;
  std::vector<float> values;  // rows of ids, one behind the other
};

struct Case {
  int size = 1;
  std::size_t table_rows = 1, columns = 1;
  std::vector<Contribution> of_rank;
};

// Ranks with nothing, with everything, with duplicates, with rows that all have; values are small integers, or
// anything.
inline Case random_case(unsigned seed, bool integers) {
  std::mt19937 random(seed);
  const auto draw = [&](std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(random);
  };
  constexpr int kSizes[] = {1, 2, 3, 4, 5, 8};
  Case one{.size = kSizes[draw(0, 5)], .table_rows = draw(1, 200), .columns = draw(1, 5), .of_rank = {}};
  const std::size_t most = draw(0, 1) == 0 ? 5 : 2 * one.table_rows;
  const double skew = draw(0, 1) == 0 ? 1 : 3;  // 3: low rows are drawn more often
  for (int rank = 0; rank < one.size; ++rank) {
    Contribution mine;
    const std::size_t rows = draw(0, 4) == 0 ? 0 : draw(0, most);
    for (std::size_t i = 0; i < rows; ++i) {
      const double at = std::pow(std::uniform_real_distribution<double>(0, 1)(random), skew);
      mine.ids.push_back(static_cast<std::int64_t>(at * static_cast<double>(one.table_rows)));
    }
    for (std::size_t i = 0; i < rows * one.columns; ++i)
      mine.values.push_back(integers ? static_cast<float>(draw(0, 200)) - 100
                                     : std::normal_distribution<float>()(random));
    one.of_rank.push_back(std::move(mine));
  }
  return one;
}

struct Known {  // what the ranks know of each other
  std::vector<OwnRows> own;
  UnionRows rows;
};

inline Known exchanged(const Case& one) {
  Known known;
  std::vector<Bitmap> present;
  for (const Contribution& mine : one.of_rank) {
    known.own.push_back(own_rows(mine.ids, one.table_rows));
    present.push_back(known.own.back().present);
  }
  known.rows = unite(present);
  return known;
}

// The rows of the union: what each rank has of a row added up first, in order, then over ranks, in order.
inline std::vector<float> expected_sums(const Case& one, const UnionRows& rows, int divisor) {
  std::map<std::int64_t, std::vector<float>> sums;
  for (const Contribution& mine : one.of_rank) {
    std::map<std::int64_t, std::vector<float>> own;
    for (std::size_t i = 0; i < mine.ids.size(); ++i) {
      auto& row = own.try_emplace(mine.ids[i], one.columns, 0.0f).first->second;
      for (std::size_t j = 0; j < one.columns; ++j) row[j] += mine.values[i * one.columns + j];
    }
    for (const auto& [id, values] : own) {
      auto& row = sums.try_emplace(id, one.columns, 0.0f).first->second;
      for (std::size_t j = 0; j < one.columns; ++j) row[j] += values[j];
    }
  }
  std::vector<float> all;
  for (std::uint32_t id : rows.ids)
    for (float value : sums.at(id)) all.push_back(value / static_cast<float>(divisor));
  return all;
}

inline Message bytes_of(const std::vector<float>& values) {
  Message message(values.size() * sizeof(float));
  if (!values.empty()) std::memcpy(message.data(), values.data(), message.size());
  return message;
}

inline std::vector<Contributions> contributions_of(const Case& one, const Known& known, bool into_table) {
  std::vector<Contributions> all;
  for (int rank = 0; rank < one.size; ++rank) {
    const OwnRows& own = known.own[static_cast<std::size_t>(rank)];
    all.push_back({known.rows, own, rank, one.columns * sizeof(float), true, into_table});
  }
  return all;
}

// The sums of the union's rows as a table.
inline std::vector<float> table_of(const Case& one, const UnionRows& rows, const std::vector<float>& sums) {
  std::vector<float> table(one.table_rows * one.columns);
  for (std::size_t u = 0; u < rows.rows(); ++u)
    std::copy_n(sums.begin() + static_cast<std::ptrdiff_t>(u * one.columns), one.columns,
                table.begin() + static_cast<std::ptrdiff_t>(rows.ids[u] * one.columns));
  return table;
}

// Validates the programs, plays them in a drawn order, and compares every rank's output, bit by bit.
inline void expect_sums(const Case& one, const Known& known, const std::vector<Program>& programs, bool into_table,
                        unsigned seed) {
  const std::size_t output_rows = into_table ? one.table_rows : known.rows.rows();
  std::vector<Memory> memory;
  for (const Contribution& mine : one.of_rank)
    memory.push_back({bytes_of(mine.values), bytes_of(std::vector<float>(output_rows * one.columns))});
  std::vector<BufferSizes> sizes;
  for (const Memory& mine : memory) sizes.push_back({mine.input.size(), mine.output.size()});
  ASSERT_NO_THROW(validate(programs, sizes));
  play(programs, memory, make_sparse_reducer(DType::kFloat32, Reduction::kAverage, one.size), seed);
  const std::vector<float> sums = expected_sums(one, known.rows, one.size);
  const Message expected = bytes_of(into_table ? table_of(one, known.rows, sums) : sums);
  for (int rank = 0; rank < one.size; ++rank) ASSERT_EQ(memory[rank].output, expected) << "rank " << rank;
}

}  // namespace merak
