#include "transport/validate.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "transport/play.h"

namespace merak {
namespace {

constexpr auto kSend = StepKind::kSend, kReceive = StepKind::kReceive, kReduce = StepKind::kReduce,
               kCopy = StepKind::kCopy;
constexpr Place kIn{kInput, 0}, kOut{kOutput, 0}, kSpare{kScratch, 0};

// What validate() says of these steps of ranks 0, 1, ..., with ten bytes in every buffer; "" if it accepts them.
std::string verdict(const std::vector<std::vector<Step>>& ranks) {
  std::vector<Program> programs;
  for (const std::vector<Step>& steps : ranks) programs.push_back({steps, {10}});
  try {
    validate(programs, std::vector<BufferSizes>(ranks.size(), {10, 10}));
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "";
}

TEST(Validate, AcceptsAnExchange) {
  EXPECT_EQ(verdict({{{kSend, 1, kIn, {}, 10, {}}, {kReceive, 1, kOut, {}, 10, {}}},
                     {{kSend, 0, kIn, {}, 10, {}}, {kReceive, 0, kOut, {}, 10, {}}}}),
            "");
}

TEST(Validate, WantsEarlierSteps) {
  EXPECT_EQ(verdict({{{kCopy, -1, kOut, kIn, 10, {0}}}}),
            "rank 0, step 0 (copy of 10 bytes): comes after step 0, which is no earlier step");
}

TEST(Validate, WantsPeersInTheGroup) {
  for (int peer : {-1, 0, 2})
    EXPECT_EQ(verdict({{{kSend, peer, kIn, {}, 1, {}}}, {}}),
              "rank 0, step 0 (send of 1 bytes to rank " + std::to_string(peer) + "): there is no such peer");
}

TEST(Validate, WantsPlacesInsideBuffers) {
  EXPECT_EQ(verdict({{{kCopy, -1, {kOutput, 1}, kIn, 10, {}}}}),
            "rank 0, step 0 (copy of 10 bytes): bytes 1 to 11 of buffer 1, which has 10");
  EXPECT_EQ(verdict({{{kCopy, -1, kOut, {kScratch + 1, 0}, 1, {}}}}),
            "rank 0, step 0 (copy of 1 bytes): there is no buffer 3");
  EXPECT_EQ(verdict({{{kCopy, -1, kIn, kOut, 10, {}}}}), "rank 0, step 0 (copy of 10 bytes): writes to the input");
}

TEST(Validate, WantsSendsAndReceivesThatMatch) {
  const Step send{kSend, 1, kIn, {}, 4, {}}, receive{kReceive, 0, kOut, {}, 4, {}};
  EXPECT_EQ(verdict({{send, send}, {receive}}), "rank 0, step 1 (send of 4 bytes to rank 1): nobody receives it");
  EXPECT_EQ(verdict({{}, {receive}}), "rank 1, step 0 (receive of 4 bytes from rank 0): nothing is sent");
  EXPECT_EQ(
      verdict({{send}, {{kReceive, 0, kOut, {}, 5, {}}}}),
      "rank 0, step 0 (send of 4 bytes to rank 1): its receive is rank 1, step 0 (receive of 5 bytes from rank 0)");
}

TEST(Validate, FindsTwoReceivesIntoOnePlace) {
  const std::vector<Step> sender = {{kSend, 1, kIn, {}, 4, {}}, {kSend, 1, kIn, {}, 4, {}}};
  EXPECT_EQ(verdict({sender, {{kReceive, 0, kOut, {}, 4, {}}, {kReceive, 0, {kOutput, 3}, {}, 4, {}}}}),
            "rank 1, step 0 (receive of 4 bytes from rank 0): may run at the same time as rank 1, step 1 (receive of 4 "
            "bytes from rank 0), on the same memory");
  EXPECT_EQ(verdict({sender, {{kReceive, 0, kOut, {}, 4, {}}, {kReceive, 0, {kOutput, 3}, {}, 4, {0}}}}), "");
}

TEST(Validate, FindsASendOfWhatIsBeingReduced) {
  const std::vector<Step> receiver = {{kReceive, 0, kOut, {}, 4, {}}};
  EXPECT_NE(verdict({{{kReduce, -1, kOut, kIn, 4, {}}, {kSend, 1, kOut, {}, 4, {}}}, receiver}), "");
  EXPECT_EQ(verdict({{{kReduce, -1, kOut, kIn, 4, {}}, {kSend, 1, kOut, {}, 4, {0}}}, receiver}), "");
}

TEST(Validate, KnowsThatAnAnswerComesAfterWhatItAnswers) {
  const Step ask{kSend, 1, kOut, {}, 4, {}}, answer{kReceive, 1, kOut, {}, 4, {}};
  const Step heard{kReceive, 0, kSpare, {}, 4, {}};
  EXPECT_EQ(verdict({{ask, answer}, {heard, {kSend, 0, kSpare, {}, 4, {0}}}}), "");
  EXPECT_NE(verdict({{ask, answer}, {heard, {kSend, 0, kIn, {}, 4, {}}}}), "");
}

TEST(Validate, FindsAStepThatReadsWhatItWrites) {
  EXPECT_EQ(verdict({{{kCopy, -1, kOut, {kOutput, 2}, 4, {}}}}),
            "rank 0, step 0 (copy of 4 bytes): reads what it writes");
}

const std::vector<std::vector<Step>> kBothWait = {{{kReceive, 1, kOut, {}, 1, {}}, {kSend, 1, kIn, {}, 1, {0}}},
                                                  {{kReceive, 0, kOut, {}, 1, {}}, {kSend, 0, kIn, {}, 1, {0}}}};

// Rank 0's second message would be welcome, but grants go in order, and the first comes after the second.
const std::vector<std::vector<Step>> kGrantOutOfOrder = {
    {{kSend, 1, kIn, {}, 1, {}}, {kReceive, 1, kOut, {}, 1, {}}, {kSend, 1, kIn, {}, 1, {}}},
    {{kSend, 0, kIn, {}, 1, {}},
     {kReceive, 2, kOut, {}, 1, {}},
     {kReceive, 0, {kOutput, 1}, {}, 1, {1}},
     {kReceive, 0, {kOutput, 2}, {}, 1, {}},
     {kSend, 2, {kOutput, 2}, {}, 1, {3}}},
    {{kReceive, 1, kOut, {}, 1, {}}, {kSend, 1, kIn, {}, 1, {0}}}};

TEST(Validate, FindsADeadlock) {
  EXPECT_EQ(verdict(kBothWait), "rank 0, step 0 (receive of 1 bytes from rank 1): deadlock: waits for itself");
}

TEST(Validate, FindsADeadlockOfGrants) { EXPECT_NE(verdict(kGrantOutOfOrder).find("deadlock"), std::string::npos); }

TEST(Play, FindsTheSameDeadlocks) {
  for (const auto& ranks : {kBothWait, kGrantOutOfOrder}) {
    std::vector<Program> programs;
    for (const std::vector<Step>& steps : ranks) programs.push_back({steps, {10}});
    std::vector<Memory> memory(ranks.size(), {Message(10), Message(10)});
    EXPECT_THROW(play(programs, memory, {}, 0), std::runtime_error);
  }
}

}  // namespace
}  // namespace merak
