#include "resharding/statement.h"

#include <gtest/gtest.h>

#include "resharding/planned_moves.h"

namespace merak {
namespace {

Statement parsed(const Statement& statement) {
  std::vector<std::byte> bytes(kStatementBytes, std::byte{0x5a});
  write(statement, bytes.data());
  return parse_statement(bytes.data());
}

TEST(Statement, IsReadAsItWasWritten) {
  Statement statement;
  EXPECT_EQ(parsed(statement), statement);
  statement.problem = "its source of 'w' is missing";
  for (std::size_t what = 0; what < statement.hash.size(); ++what) statement.hash[what] = 1000 + what;
  EXPECT_EQ(parsed(statement), statement);
}

TEST(Statement, CutsAProblemThatIsTooLong) {
  Statement statement;
  statement.problem = std::string(2 * kProblemBytes, 'x');
  EXPECT_EQ(parsed(statement).problem, std::string(kProblemBytes - 1, 'x'));
  statement.problem = "x";
  while (statement.problem.size() < 2 * kProblemBytes) statement.problem += "\u00e9";  // two bytes each
  EXPECT_EQ(parsed(statement).problem, statement.problem.substr(0, kProblemBytes - 1)) << "511 bytes end a letter";
  statement.problem.erase(0, 1);
  EXPECT_EQ(parsed(statement).problem, statement.problem.substr(0, kProblemBytes - 2)) << "a letter is not cut in two";
}

TEST(Statement, IsReadAsTextWhateverAPeerSends) {
  for (const char* bad : {"a\xff", "\xc3", "\xe2\x82", "\xed\xa0\x80", "\xc0\x80", "\xf5\x80\x80\x80"}) {
    Statement statement;
    statement.problem = bad;
    for (char c : parsed(statement).problem) EXPECT_LT(static_cast<unsigned char>(c), 0x80);
  }
  Statement good;
  good.problem = "\u00e9\u20ac\U0001f600";
  EXPECT_EQ(parsed(good), good);
}

TEST(Statement, OfAnyBytesIsReadWithinThem) {
  const std::vector<std::byte> bytes(kStatementBytes, std::byte{'y'});
  EXPECT_EQ(parse_statement(bytes.data()).problem.size(), kProblemBytes);
}

TEST(Disagreement, NamesTheFirstRankWithAProblem) {
  std::vector<Statement> statements(4);
  EXPECT_EQ(disagreement(statements), "");
  statements[3].problem = "later";
  statements[2].problem = "no memory";
  statements[1].hash[Statement::kShapes] = 7;
  EXPECT_EQ(disagreement(statements), "rank 2 cannot take part: no memory");
  EXPECT_EQ(disagreement(statements, {4, 5, 7, 9}), "rank 7 cannot take part: no memory");
}

TEST(Disagreement, NamesWhatDiffersAndWhere) {
  for (int what = 0; what < Statement::kWhats; ++what) {
    std::vector<Statement> statements(4);
    statements[1].hash[what] = statements[3].hash[what] = 7;
    EXPECT_EQ(disagreement(statements).find("ranks 1, 3 were given other "), 0u) << disagreement(statements);
    statements[3].hash[what] = 0;
    EXPECT_EQ(disagreement(statements).find("rank 1 was given other "), 0u);
  }
}

Layout line(std::vector<int> ranks, Placement placement) {
  return {.mesh_shape = {static_cast<int>(ranks.size())}, .ranks = std::move(ranks), .placements = {placement}};
}

TEST(Statement, OfMovesDiffersInWhatDiffers) {
  const NamedMove move = {"w", {{4, 6}, DType::kFloat32, line({0, 1}, shard(0)), line({2}, replicate())}};
  const auto stated = [](NamedMove one, std::size_t staging = 1024, double bandwidth = 1e8) {
    Network network = uniform_network(4, 1);
    network.hosts[2].in_bytes_per_s = bandwidth;
    return PlannedMoves({std::move(one)}, network, staging).statement().hash;
  };
  const auto differs_in = [&](const auto& other) {
    std::vector<int> where;
    for (int what = 0; what < Statement::kTransfers; ++what)
      if (stated(move)[what] != other[what]) where.push_back(what);
    return where;
  };
  using Where = std::vector<int>;
  EXPECT_EQ(differs_in(stated(move)), Where{});
  NamedMove other = move;
  other.name = "v";
  EXPECT_EQ(differs_in(stated(other)), Where{Statement::kNames});
  other = move, other.move.shape = {6, 4};
  EXPECT_EQ(differs_in(stated(other)), Where{Statement::kShapes});
  other = move, other.move.dtype = DType::kInt32;
  EXPECT_EQ(differs_in(stated(other)), Where{Statement::kDTypes});
  other = move, other.move.source = line({1, 0}, shard(0));
  EXPECT_EQ(differs_in(stated(other)), Where{Statement::kSources});
  other = move, other.move.source = line({0, 1}, strided_shard(0, 2));
  EXPECT_EQ(differs_in(stated(other)), Where{Statement::kSources});
  other = move, other.move.target = line({3}, replicate());
  EXPECT_EQ(differs_in(stated(other)), Where{Statement::kTargets});
  EXPECT_EQ(differs_in(stated(move, 2048)), Where{Statement::kStaging});
  EXPECT_EQ(differs_in(stated(move, 1024, 2e8)), Where{Statement::kNetwork});
}

}  // namespace
}  // namespace merak
