#include "sharding/propagate.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "sharding/assign.h"
#include "sharding/programs.h"
#include "sharding/sandwich.h"

namespace merak::sharding {
namespace {

const Mesh kMesh = {{"dp", 2}, {"tp", 2}};
constexpr int kDp = 0, kTp = 1;

Axes axes_of_dim(const Program& program, const Completed& completed, const std::string& name, int dim) {
  return axes_of(completed.layouts[value_called(program, name)][dim]);
}

std::vector<Annotation> divide_weight(const Program& program, const std::string& name) {
  return {{.value = value_called(program, name), .dim = 0, .axes = {kTp}, .label = name}};
}

TEST(Propagate, OneWeightDividesItsWholeHalf) {
  const Program program = block(kMesh, 2, 10, 4, 8);
  const Completed completed = propagate(program, divide_weight(program, "v"));
  for (const char* name : {"q", "k", "v"}) EXPECT_EQ(axes_of_dim(program, completed, name, 0), Axes{kTp}) << name;
  EXPECT_EQ(axes_of_dim(program, completed, "o", 1), Axes{kTp});
  EXPECT_EQ(axes_of_dim(program, completed, "o", 0), Axes{});
  EXPECT_EQ(axes_of_dim(program, completed, "up", 0), Axes{});
  EXPECT_EQ(axes_of_dim(program, completed, "x", 2), Axes{});
}

TEST(Propagate, HeadsThatCannotBeCutChangeTheWeights) {
  const Program program = block(kMesh, 2, 10, 3, 8);  // three heads over two ranks: 16 and 8 of 24
  const Completed completed = propagate(program, divide_weight(program, "q"));
  for (const char* name : {"q", "k", "v"})
    EXPECT_EQ(completed.layouts[value_called(program, name)][0], (Pieces{{3, {kTp}}, {8, {}}})) << name;
  EXPECT_EQ(completed.layouts[value_called(program, "o")][1], (Pieces{{3, {kTp}}, {8, {}}}));
}

TEST(Propagate, EarlierPrioritiesWin) {
  const Program program = block(kMesh, 4, 10, 4, 8);
  std::vector<Annotation> wishes = {
      {.value = value_called(program, "x"), .dim = 0, .axes = {kTp}, .priority = 0, .label = "batch"},
      {.value = value_called(program, "up"), .dim = 0, .axes = {kTp}, .priority = 1, .label = "columns"}};
  Completed completed = propagate(program, wishes);
  EXPECT_EQ(axes_of_dim(program, completed, "gelu17", 0), Axes{kTp});
  EXPECT_EQ(axes_of_dim(program, completed, "gelu17", 2), Axes{});
  std::swap(wishes[0].priority, wishes[1].priority);
  completed = propagate(program, wishes);
  EXPECT_EQ(axes_of_dim(program, completed, "gelu17", 2), Axes{kTp});
}

TEST(Propagate, NamesBothAnnotationsThatContradict) {
  const Program program = block(kMesh, 4, 10, 4, 8);
  const int x = value_called(program, "x");
  const std::vector<std::vector<Annotation>> contradictions = {
      {{.value = x, .dim = 0, .axes = {kDp}, .label = "one"}, {.value = x, .dim = 0, .axes = {kTp}, .label = "two"}},
      {{.value = x, .dim = 0, .axes = {kDp}, .label = "one"}, {.value = x, .dim = 1, .axes = {kDp}, .label = "two"}}};
  for (const auto& wishes : contradictions) {
    try {
      propagate(program, wishes);
      FAIL() << "not refused";
    } catch (const std::invalid_argument& error) {
      for (const char* part : {"one", "two", "of x"})
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos);
    }
  }
  EXPECT_THROW(propagate(program, {{.value = x, .dim = 0, .axes = {kDp, kDp}}}), std::invalid_argument);
  EXPECT_THROW(propagate(program, {{.value = x, .dim = 0, .axes = {7}}}), std::invalid_argument);
  EXPECT_THROW(propagate(program, {{.value = x, .dim = 3, .axes = {kDp}}}), std::invalid_argument);
}

TEST(Propagate, IsIdempotentAndNeverOverridesWhatIsClosed) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const Program program = random_program(random, kMesh);
    const std::vector<Annotation> wishes = random_annotations(random, program, 4);
    const Completed completed = propagate(program, wishes);
    for (std::size_t i = 0; i < wishes.size(); ++i) {
      const bool followed =
          std::find(completed.not_followed.begin(), completed.not_followed.end(), i) == completed.not_followed.end();
      if (wishes[i].closed && followed) {
        EXPECT_EQ(axes_of(completed.layouts[wishes[i].value][wishes[i].dim]), wishes[i].axes) << "seed " << seed;
      }
    }
    std::vector<Annotation> all;
    for (int value = 0; value < static_cast<int>(program.values.size()); ++value)
      for (int dim = 0; dim < 2; ++dim)
        all.push_back({.value = value, .dim = dim, .axes = axes_of(completed.layouts[value][dim]), .closed = true});
    EXPECT_EQ(propagate(program, all).layouts, completed.layouts) << "seed " << seed;
  }
}

// The same program with its operations and values in another order.
Program shuffled(const Program& program, std::mt19937& random, std::vector<int>& value_at) {
  value_at.resize(program.values.size());
  std::iota(value_at.begin(), value_at.end(), 0);
  std::shuffle(value_at.begin(), value_at.end(), random);
  Program other{.mesh = program.mesh, .values = program.values, .operations = program.operations};
  for (std::size_t i = 0; i < value_at.size(); ++i) other.values[value_at[i]] = program.values[i];
  for (Operation& operation : other.operations)
    for (auto* values : {&operation.operands, &operation.results})
      for (int& value : *values) value = value_at[value];
  std::shuffle(other.operations.begin(), other.operations.end(), random);
  return other;
}

TEST(Propagate, DoesNotDependOnTheOrderOfOperations) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const Program program = random_program(random, kMesh);
    std::vector<Annotation> wishes = random_annotations(random, program, 4);
    const Completed completed = propagate(program, wishes);
    std::vector<int> value_at;
    const Program other = shuffled(program, random, value_at);
    for (Annotation& wish : wishes) wish.value = value_at[wish.value];
    const Completed again = propagate(other, wishes);
    for (std::size_t i = 0; i < value_at.size(); ++i)
      EXPECT_EQ(again.layouts[value_at[i]], completed.layouts[i]) << "seed " << seed << ", value " << i;
  }
}

TEST(Sandwiches, AreMegatrons) {
  const Program program = block(kMesh, 2, 10, 4, 8);
  std::vector<std::string> found;
  for (const Sandwich& one : find_sandwiches(program, kTp)) {
    EXPECT_EQ(one.dim, 0);
    found.push_back(program.values[one.parameter].name);
  }
  EXPECT_EQ(found, (std::vector<std::string>{"q", "k", "v", "up"}));
}

std::map<std::string, int> counted(const Program& program, const Completed& completed) {
  std::map<std::string, int> counts;
  for (const Assigned& way : assign(program, completed.layouts, completed.wanted))
    for (const auto* tensors : {&way.before, &way.after})
      for (const std::vector<Step>& steps : *tensors)
        for (const Step& step : steps) ++counts[name(step.kind)];
  return counts;
}

TEST(Assign, LeavesTwoSumsOfABlock) {
  const Program program = block(kMesh, 2, 10, 4, 8);
  std::vector<Annotation> wishes;
  for (const Sandwich& one : find_sandwiches(program, kTp))
    wishes.push_back({.value = one.parameter, .dim = one.dim, .axes = {kTp}});
  // Queries, keys and values need the same of the norm, and share it when lowered.
  EXPECT_EQ(counted(program, propagate(program, wishes)), (std::map<std::string, int>{{"all_reduce", 2}, {"vary", 4}}));
}

TEST(Assign, GathersParametersThatAreOnlyKeptDivided) {
  const Program program = block(kMesh, 2, 10, 4, 8);
  std::vector<Annotation> wishes = {{.value = value_called(program, "x"), .dim = 0, .axes = {kDp}}};
  for (const char* name : {"q", "k", "v", "o", "up", "down"})
    wishes.push_back({.value = value_called(program, name), .dim = 0, .axes = {kDp}, .priority = 1, .spreads = false});
  EXPECT_EQ(counted(program, propagate(program, wishes)), (std::map<std::string, int>{{"all_gather", 6}}));
}

}  // namespace
}  // namespace merak::sharding
