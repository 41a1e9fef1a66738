// What is late is named, where an operation can tell what its messages carry.

#include <gtest/gtest.h>

#include "transport/engine_helpers.h"
#include "transport/in_process_transport.h"

namespace merak {
namespace {

using std::chrono::milliseconds, std::chrono::seconds;

class Pair {
 public:
  Pair() : fabric_(2, 1 << 20) {
    for (int rank = 0; rank < 2; ++rank) {
      engines_[rank] = std::make_unique<Engine>(Engine::Drive::kManual);
      groups_[rank] = engines_[rank]->open({"main", rank, 2}, fabric_.transport(rank));
    }
  }

  std::shared_ptr<Operation> start(int rank, Program program, Values& values, Clock::duration timeout) {
    Request request;
    request.signature = {.kind = OperationKind::kReshard};
    request.program = std::make_shared<PreparedProgram>(std::move(program));
    request.output = Buffer(values.data(), values.size() * kValueBytes);
    request.timeout = timeout;
    request.carries = [](std::uint32_t step) { return "part " + std::to_string(step); };
    return engines_[rank]->start(*groups_[rank], std::move(request));
  }

  void run(const Operation& until, bool both) {
    for (int turn = 0; turn < 100'000 && !until.done(); ++turn)
      for (int rank = 0; rank < (both ? 2 : 1); ++rank) engines_[rank]->run_once(milliseconds(1));
  }

 private:
  InProcessFabric fabric_;
  std::unique_ptr<Engine> engines_[2];
  std::shared_ptr<Group> groups_[2];
};

std::string text_of(Operation& operation) {
  try {
    finish(operation);
  } catch (const TimeoutError& error) {
    return error.what();
  }
  return "";
}

TEST(Carries, NamesTheFirstMessageThatHasNotCome) {
  Pair pair;
  Values received(100'000), given(100'000);
  constexpr std::size_t kPart = 25'000 * kValueBytes;
  Program receiver, sender;
  for (std::size_t part = 0; part < 4; ++part) receiver.receive(1, {kOutput, part * kPart}, kPart);
  for (std::size_t part = 0; part < 2; ++part) sender.send(0, {kOutput, part * kPart}, kPart);
  // The rest of it waits for what never comes.
  const std::uint32_t never = sender.receive(0, {kOutput, 0}, 4);
  for (std::size_t part = 2; part < 4; ++part) sender.send(0, {kOutput, part * kPart}, kPart, {never});
  const auto waits = pair.start(0, receiver, received, milliseconds(300));
  const auto gives = pair.start(1, sender, given, seconds(60));
  pair.run(*waits, true);
  const std::string text = text_of(*waits);
  EXPECT_NE(text.find("data from rank 1 (part 2)"), std::string::npos) << text;
}

TEST(Carries, NamesTheFirstMessageThatMayNotBeSent) {
  Pair pair;
  Values given(100'000);
  Program sender;
  sender.send(1, {kOutput, 0}, 50'000 * kValueBytes);
  sender.send(1, {kOutput, 50'000 * kValueBytes}, 50'000 * kValueBytes);
  const auto gives = pair.start(0, sender, given, milliseconds(300));
  pair.run(*gives, false);
  const std::string text = text_of(*gives);
  EXPECT_NE(text.find("sending to rank 1 (part 0)"), std::string::npos) << text;
}

}  // namespace
}  // namespace merak
