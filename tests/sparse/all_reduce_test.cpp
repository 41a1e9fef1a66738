// The whole operation: ranks as threads, each with an engine of its own, several operations in flight.

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "sparse/operations.h"
#include "transport/errors.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

TEST(SparseAllReduce, SeveralTablesAndOperationsAtOnce) {
  for (unsigned seed = 0; seed < 25; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::vector<Case> cases = {random_case(seed, true)};
    for (unsigned other = 1000 * (seed + 1); cases.size() < 3; ++other)
      if (Case more = random_case(other, true); more.size == cases[0].size) cases.push_back(std::move(more));
    const std::vector<std::vector<const Case*>> operations = {
        {&cases[0]}, {&cases[1], &cases[2]}, {&cases[2], &cases[0], &cases[1]}};
    on_all(cases[0].size, [&](int rank, Engine& engine, Group& group) {
      std::vector<std::unique_ptr<Part>> parts;
      std::vector<std::shared_ptr<Operation>> started;
      for (Method method : {Method::kAuto, Method::kBalanced, Method::kGather, Method::kSketchExact})
        for (const auto& tables : operations) {
          parts.push_back(std::make_unique<Part>(tables, rank, method));
          started.push_back(parts.back()->start(engine, group));
        }
      for (std::size_t i = 0; i < parts.size(); ++i) {
        ASSERT_TRUE(started[i]->wait_until(Clock::now() + 60s));
        expect_no_error(*started[i]);
        const auto& tables = operations[i % operations.size()];
        for (std::size_t t = 0; t < tables.size(); ++t)
          EXPECT_EQ(parts[i]->results[t], expected_sums(*tables[t], exchanged(*tables[t]).rows, tables[t]->size))
              << "operation " << i << ", table " << t << ", rank " << rank;
      }
    });
    if (HasFailure()) return;
  }
}

// Messages that have to be granted: the grants of the second act may come before it begins here.
TEST(SparseAllReduce, LargeMessages) {
  Case one{.size = 4, .table_rows = 300, .columns = 2000, .of_rank = {}};
  for (int rank = 0; rank < one.size; ++rank) {
    Contribution mine;
    for (int row = 0; row < 100; ++row) mine.ids.push_back((row * 3 + rank * row) % 300);
    for (int i = 0; i < 100 * 2000; ++i) mine.values.push_back(static_cast<float>((i + rank) % 17));
    one.of_rank.push_back(std::move(mine));
  }
  const std::vector<float> expected = expected_sums(one, exchanged(one).rows, one.size);
  for (int times = 0; times < 5; ++times)
    on_all(one.size, [&](int rank, Engine& engine, Group& group) {
      std::vector<std::unique_ptr<Part>> parts;
      std::vector<std::shared_ptr<Operation>> started;
      for (Method method : kExactMethods) {
        parts.push_back(std::make_unique<Part>(std::vector<const Case*>{&one}, rank, method));
        started.push_back(parts.back()->start(engine, group));
      }
      for (std::size_t i = 0; i < parts.size(); ++i) {
        ASSERT_TRUE(started[i]->wait_until(Clock::now() + 60s));
        expect_no_error(*started[i]);
        EXPECT_EQ(parts[i]->results[0], expected) << name(kExactMethods[i]) << ", rank " << rank;
      }
    });
}

// Too many rows for bitmaps in the announcement.
TEST(SparseAllReduce, LargeTables) {
  Case one{.size = 3, .table_rows = 3'000'000, .columns = 2, .of_rank = {}};
  for (int rank = 0; rank < one.size; ++rank) {
    Contribution mine;
    for (int row = 0; row < 100 * rank * rank; ++row) mine.ids.push_back((row * 29'989 + rank) % 3'000'000);
    mine.values.assign(mine.ids.size() * 2, static_cast<float>(rank));
    one.of_rank.push_back(std::move(mine));
  }
  const std::vector<float> expected = expected_sums(one, exchanged(one).rows, one.size);
  on_all(one.size, [&](int rank, Engine& engine, Group& group) {
    for (Method method : {Method::kAuto, Method::kGather, Method::kSketchExact}) {
      Part part({&one}, rank, method);
      const auto operation = part.start(engine, group);
      ASSERT_TRUE(operation->wait_until(Clock::now() + 60s));
      expect_no_error(*operation);
      EXPECT_EQ(part.results[0], expected) << name(method) << ", rank " << rank;
    }
  });
}

// Fractions of one exponent fit 32 bits, those of many 64, infinities none: then, and when peeling fails, it falls
// back.
TEST(SparseAllReduce, ASketchGivesWhatBalancedGives) {
  for (const float scale : {0.25f, 1e-9f, std::numeric_limits<float>::infinity()})
    for (const bool spoil : {false, true}) {
      Case one{.size = 3, .table_rows = 50, .columns = 7, .of_rank = {}};
      for (int rank = 0; rank < one.size; ++rank) {
        Contribution mine{{1, 4 + rank, 4 + rank, 30}, std::vector<float>(28, 0.5f)};
        mine.values[static_cast<std::size_t>(rank)] = scale;
        one.of_rank.push_back(std::move(mine));
      }
      on_all(one.size, [&](int rank, Engine& engine, Group& group) {
        Part sketched({&one}, rank, Method::kSketchExact, {.spoil_sketch = spoil}),
            balanced({&one}, rank, Method::kBalanced);
        const auto first = sketched.start(engine, group), second = balanced.start(engine, group);
        ASSERT_TRUE(first->wait_until(Clock::now() + 60s) && second->wait_until(Clock::now() + 60s));
        expect_no_error(*first);
        EXPECT_EQ(sketched.results, balanced.results) << scale << (spoil ? ", spoilt" : "");
        const bool falls_back = spoil || std::isinf(scale);
        EXPECT_EQ(sketched.reduction.plans()[0].method, falls_back ? Method::kBalanced : Method::kSketchExact);
      });
    }
}

// By row of the table.
std::vector<float> as_table(const Case& one, const std::vector<std::uint32_t>& ids, const std::vector<float>& rows) {
  std::vector<float> table(one.table_rows * one.columns);
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (std::size_t j = 0; j < one.columns; ++j) table[ids[i] * one.columns + j] = rows[i * one.columns + j];
  return table;
}

// With feedback, what is sent and what all ranks keep add up to what there was; all ranks send the same.
TEST(SparseAllReduce, ALossySketchLosesNothingThatIsNotKept) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case one = random_case(seed, true);
    const std::size_t row_bytes = one.columns * sizeof(float);
    const SketchBudget sketch{(1 + seed % 23) * row_bytes + seed % 3, seed, true};
    std::vector<std::vector<float>> sent(static_cast<std::size_t>(one.size)), kept = sent;
    on_all(one.size, [&](int rank, Engine& engine, Group& group) {
      Part part(one, rank, sketch);
      const auto operation = part.start(engine, group);
      ASSERT_TRUE(operation->wait_until(Clock::now() + 60s));
      expect_no_error(*operation);
      EXPECT_LE(part.result_ids.size() * row_bytes, sketch.bytes);
      sent[static_cast<std::size_t>(rank)] = as_table(one, part.result_ids, part.results[0]);
      kept[static_cast<std::size_t>(rank)] = as_table(one, part.kept_ids, part.kept);
    });
    const UnionRows rows = exchanged(one).rows;
    const std::vector<float> expected = table_of(one, rows, expected_sums(one, rows, 1));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      float all = std::round(sent[0][i] * static_cast<float>(one.size));  // an average of integers was sent
      for (const auto& mine : kept) all += mine[i];
      ASSERT_EQ(all, expected[i]) << "element " << i;
    }
    for (const auto& theirs : sent) EXPECT_EQ(theirs, sent[0]);
  }
}

double energy(const std::vector<float>& values) {
  double sum = 0;
  for (float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

TEST(SparseAllReduce, WithFeedbackALossySketchIsAContraction) {
  for (unsigned seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Case one = random_case(seed, false);
    const UnionRows rows = exchanged(one).rows;
    const std::size_t cells = 1 + seed % 5;
    std::vector<double> had(static_cast<std::size_t>(one.size)), kept = had;
    on_all(one.size, [&](int rank, Engine& engine, Group& group) {
      Part part(one, rank, SketchBudget{cells * one.columns * sizeof(float), seed, true});
      const auto operation = part.start(engine, group);
      ASSERT_TRUE(operation->wait_until(Clock::now() + 60s));
      expect_no_error(*operation);
      Case alone{.size = 1, .table_rows = one.table_rows, .columns = one.columns, .of_rank = {}};
      alone.of_rank.push_back(one.of_rank[static_cast<std::size_t>(rank)]);
      had[static_cast<std::size_t>(rank)] = energy(expected_sums(alone, exchanged(alone).rows, 1));
      kept[static_cast<std::size_t>(rank)] = energy(part.kept);
    });
    const double before = std::accumulate(had.begin(), had.end(), 0.0);
    const double after = std::accumulate(kept.begin(), kept.end(), 0.0);
    const double share = static_cast<double>(cells) / one.size / static_cast<double>(std::max(rows.rows(), cells));
    EXPECT_LE(after, (1 - share * (1 - 0x1p-7)) * before);
  }
}

TEST(SparseAllReduce, ALossySketchWithACellForEachRowIsExact) {
  for (unsigned seed = 100; seed < 120; ++seed)
    for (const bool feedback : {false, true}) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      const Case one = random_case(seed, true);
      on_all(one.size, [&](int rank, Engine& engine, Group& group) {
        Part part(one, rank, SketchBudget{one.table_rows * one.columns * sizeof(float), seed, feedback});
        const auto operation = part.start(engine, group);
        ASSERT_TRUE(operation->wait_until(Clock::now() + 60s));
        expect_no_error(*operation);
        const UnionRows rows = exchanged(one).rows;
        EXPECT_EQ(part.result_ids, rows.ids);
        EXPECT_EQ(part.results[0], expected_sums(one, rows, one.size));
        EXPECT_TRUE(part.kept_ids.empty());
      });
    }
}

TEST(SparseAllReduce, CodecsThatDifferAreRefused) {
  const Case one{.size = 2, .table_rows = 100, .columns = 4, .of_rank = std::vector<Contribution>(2)};
  on_all(2, [&](int rank, Engine& engine, Group& group) {
    const auto part = std::make_shared<Part>(one, rank, SketchBudget{64, rank == 0 ? 1u : 2u, true});
    const auto operation = part->start(engine, group);
    ASSERT_TRUE(operation->wait_until(Clock::now() + 60s));
    EXPECT_THROW(std::rethrow_exception(operation->error()), MismatchError);
  });
}

// What each rank is told.
std::vector<std::string> errors_of(const std::vector<const Case*>& tables, const std::vector<How>& hows) {
  std::vector<std::string> errors(tables.size());
  on_all(static_cast<int>(tables.size()), [&](int rank, Engine& engine, Group& group) {
    const auto at = static_cast<std::size_t>(rank);
    const auto part = std::make_shared<Part>(std::vector<const Case*>{tables[at]}, rank, Method::kAuto, hows[at]);
    const auto operation = part->start(engine, group);
    ASSERT_TRUE(operation->wait_until(Clock::now() + 60s));
    try {
      if (auto error = operation->error()) std::rethrow_exception(error);
    } catch (const MismatchError& error) {
      errors[at] = error.what();
    }
  });
  return errors;
}

TEST(SparseAllReduce, RanksThatDisagreeAreAllTold) {
  Case one{.size = 3, .table_rows = 100, .columns = 4, .of_rank = std::vector<Contribution>(3)};
  Case wider = one;
  wider.columns = 5;
  for (const std::string& error : errors_of({&one, &wider, &one}, std::vector<How>(3)))
    EXPECT_NE(error.find("All ranks must pass tensors of the same shape"), std::string::npos) << error;
  const How device{.on_device = true};
  for (const std::string& error : errors_of({&one, &one, &one}, {device, device, How()}))
    EXPECT_NE(error.find("All ranks must pass tensors of one kind of device"), std::string::npos) << error;
}

}  // namespace
}  // namespace merak
