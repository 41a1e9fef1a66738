// What is issued, in which order, to which memory.

#include "transport/nccl_programs.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace merak {
namespace {

class Recorder : public DeviceCalls {
 public:
  explicit Recorder(std::map<const std::byte*, std::string> names) : names_(std::move(names)) {}

  void group_start() override { lines.push_back("group"); }
  void group_end() override { lines.push_back("end"); }
  void send(int peer, const std::byte* from, std::size_t bytes) override {
    lines.push_back("send " + place(from, bytes) + " to " + std::to_string(peer));
  }
  void receive(int peer, std::byte* to, std::size_t bytes) override {
    lines.push_back("receive " + place(to, bytes) + " from " + std::to_string(peer));
  }
  void reduce(std::byte* at, const std::byte* from, std::size_t bytes, bool completes) override {
    lines.push_back((completes ? "complete " : "reduce ") + place(at, bytes) + " with " + place(from, bytes));
  }
  void copy(std::byte* at, const std::byte* from, std::size_t bytes) override {
    lines.push_back("copy " + place(at, bytes) + " from " + place(from, bytes));
  }

  void copy_strided(std::byte* at, const std::byte* from, const StridedCopy& copy) override {
    lines.push_back("strided copy " + place(at, copy.at_bytes()) + " from " + place(from, copy.from_bytes()));
  }

  void sum_rows(std::byte* at, const std::byte* from, const RowSums& sums, std::uint32_t index,
                bool completes) override {
    lines.push_back((completes ? "complete sums " : "sums ") + std::to_string(index) + " " +
                    place(at, sums.at_bytes()) + " of " + place(from, sums.from_bytes()));
  }

  std::vector<std::string> lines;

 private:
  std::string place(const std::byte* address, std::size_t bytes) const {
    const auto above = std::prev(names_.upper_bound(address));
    return above->second + "+" + std::to_string(address - above->first) + ":" + std::to_string(bytes);
  }

  const std::map<const std::byte*, std::string> names_;
};

TEST(NcclPrograms, IssuesRoundByRound) {
  Program program;
  const int first = program.add_scratch(10), second = program.add_scratch(8);
  const std::uint32_t copy = program.copy({second, 0}, {kInput, 8}, 8);
  const std::uint32_t arrival = program.receive(2, {first, 2}, 8);
  program.send(1, {second, 0}, 8, {copy});
  program.reduce({kOutput, 16}, {first, 2}, 8, {arrival}, true);
  const Rounds rounds{{0, {0}, {1, 2}}, {4, {3}, {}}};

  std::vector<std::byte> input(32), output(32), scratch(scratch_bytes(program));
  ASSERT_EQ(scratch.size(), 512u) << "each buffer begins at a boundary of 256 bytes";
  Recorder recorder({{input.data(), "input"},
                     {output.data(), "output"},
                     {scratch.data(), "first"},
                     {scratch.data() + 256, "second"}});
  issue(program, rounds, {{input.data(), 32}, {output.data(), 32}, scratch.data()}, recorder);
  EXPECT_EQ(recorder.lines,
            (std::vector<std::string>{"copy second+0:8 from input+8:8", "group", "receive first+2:8 from 2",
                                      "send second+0:8 to 1", "end", "complete output+16:8 with first+2:8"}));
}

TEST(NcclPrograms, IssuesSumsOfRows) {
  Program program;
  RowSums sums(8);
  sums.add(0), sums.add(2), sums.end_row(1);
  program.sum_rows({kOutput, 4}, {kInput, 0}, sums, {}, true);
  std::vector<std::byte> input(32), output(32);
  Recorder recorder({{input.data(), "input"}, {output.data(), "output"}});
  issue(program, {{0, {0}, {}}}, {{input.data(), 32}, {output.data(), 32}, nullptr}, recorder);
  EXPECT_EQ(recorder.lines, std::vector<std::string>{"complete sums 0 output+4:16 of input+0:24"});
}

TEST(NcclPrograms, FindsThePieceOfAStep) {
  Program program;
  program.copy({kOutput, 8}, {kInput, 12}, 8);
  program.copy({kOutput, 0}, {kInput, 0}, 4);
  program.copy({kOutput, 16}, {kInput, 20}, 0);
  std::vector<std::byte> first(4), empty(1), second(16), output(16);
  Recorder recorder({{nullptr, "none"}, {first.data(), "first"}, {second.data(), "second"}, {output.data(), "output"}});
  DeviceMemory memory{{first.data(), 4}, {output.data(), 16}, nullptr};
  memory.input.append(empty.data(), 0), memory.input.append(second.data(), 16);
  issue(program, {{0, {0, 1, 2}, {}}}, memory, recorder);
  EXPECT_EQ(recorder.lines,
            (std::vector<std::string>{"copy output+8:8 from second+8:8", "copy output+0:4 from first+0:4",
                                      "copy none+0:0 from none+0:0"}));
}

TEST(NcclPrograms, AProgramOfNoStepsIssuesNothing) {
  Recorder recorder({});
  issue({}, {}, {}, recorder);
  EXPECT_EQ(scratch_bytes({}), 0u);
  EXPECT_TRUE(recorder.lines.empty());
}

}  // namespace
}  // namespace merak
