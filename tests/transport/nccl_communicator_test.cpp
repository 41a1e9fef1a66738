// Deadlines and failures of a communicator, on the NCCL in memory of fake_nccl.h.

#include "transport/nccl_communicator.h"

#include <gtest/gtest.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "transport/errors.h"
#include "transport/fake_nccl.h"

namespace merak {
namespace {

using namespace std::chrono_literals;

const NcclApi kApi = FakeNccl::api();

template <class Error, class Call>
std::string text_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Runs body(rank) on a thread for each rank.
template <class Body>
void on_ranks(int size, Body body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

TEST(NcclCommunicator, CarriesMessagesAndEndsInPeace) {
  FakeNccl nccl(2);
  std::vector<int> got(2);
  on_ranks(2, [&](int rank) {
    NcclCommunicator communicator(kApi, nccl.id(), rank, 2, 20s);
    communicator.group_start();
    communicator.send(&rank, sizeof(int), 1 - rank, nullptr);
    communicator.receive(&got[rank], sizeof(int), 1 - rank, nullptr);
    communicator.group_end(20s);
    communicator.check();
  });
  EXPECT_EQ(got, (std::vector<int>{1, 0}));
  EXPECT_EQ(nccl.destroyed(), 2);
  EXPECT_EQ(nccl.aborted(), 0);
}

TEST(NcclCommunicator, WhatTheCheckThrowsEndsAWait) {
  FakeNccl nccl(2);
  int checks = 0;
  const auto check = [&] {
    if (++checks == 2) throw std::out_of_range("enough");
  };
  EXPECT_EQ(text_of<std::out_of_range>([&] { NcclCommunicator(kApi, nccl.id(), 0, 2, 60s, check); }), "enough");
  EXPECT_EQ(nccl.aborted(), 1);
}

TEST(NcclCommunicator, MeetingHasADeadline) {
  FakeNccl nccl(2);
  const std::string text = text_of<TimeoutError>([&] { NcclCommunicator(kApi, nccl.id(), 0, 2, 50ms); });
  EXPECT_NE(text.find("rank 0 of 2: meeting the other ranks"), std::string::npos) << text;
  EXPECT_EQ(nccl.aborted(), 1);
  EXPECT_EQ(nccl.destroyed(), 0);
}

TEST(NcclCommunicator, AMessageThatNobodyTakesHasADeadline) {
  FakeNccl nccl(2);
  std::string text, after;
  on_ranks(2, [&](int rank) {
    NcclCommunicator communicator(kApi, nccl.id(), rank, 2, 20s);
    if (rank == 1) return communicator.abort();
    communicator.group_start();
    communicator.send(&rank, sizeof(int), 1, nullptr);
    text = text_of<TimeoutError>([&] { communicator.group_end(50ms); });
    after = text_of<NetworkError>([&] { communicator.check(); });
  });
  EXPECT_NE(text.find("rank 0 of 2: starting messages"), std::string::npos) << text;
  EXPECT_NE(after.find("was aborted"), std::string::npos) << after;
  EXPECT_EQ(nccl.aborted(), 2);
}

TEST(NcclCommunicator, WhatFailsInAGroupShowsAtItsEndAndTheGroupIsClosed) {
  FakeNccl nccl(1), next(1);
  int value = 0;
  NcclCommunicator communicator(kApi, nccl.id(), 0, 1, 20s);
  nccl.break_sends(0, FakeNccl::kRemoteError);
  communicator.group_start();
  communicator.send(&value, sizeof(int), 0, nullptr);
  communicator.receive(&value, sizeof(int), 0, nullptr);
  const std::string text = text_of<NetworkError>([&] { communicator.group_end(20s); });
  EXPECT_NE(text.find("remote error"), std::string::npos) << text;
  EXPECT_EQ(nccl.aborted(), 1);

  NcclCommunicator another(kApi, next.id(), 0, 1, 20s);
  another.group_start();
  EXPECT_NO_THROW(another.group_end(20s)) << "a group of the first was left open";
}

TEST(NcclCommunicator, ChecksTheDevice) {
  FakeNccl nccl(1);
  NcclCommunicator communicator(kApi, nccl.id(), 0, 1, 20s);
  EXPECT_NO_THROW(communicator.check());
  nccl.break_device(0, FakeNccl::kRemoteError);
  EXPECT_NE(text_of<NetworkError>([&] { communicator.check(); }).find("remote error"), std::string::npos);
  EXPECT_EQ(nccl.aborted(), 1);
}

TEST(NcclCommunicator, AbortEndsAWait) {
  FakeNccl nccl(2);
  std::optional<NcclCommunicator> first, second;
  on_ranks(2, [&](int rank) { (rank == 0 ? first : second).emplace(kApi, nccl.id(), rank, 2, 20s); });
  int value = 0;
  std::string text;
  std::thread waiting([&] {
    first->group_start();
    first->receive(&value, sizeof(int), 1, nullptr);
    text = text_of<NetworkError>([&] { first->group_end(60s); });
  });
  std::this_thread::sleep_for(20ms);
  first->abort();
  waiting.join();
  EXPECT_NE(text.find("was aborted"), std::string::npos) << text;
  second->abort();
}

TEST(NcclCommunicator, AnIdThatCannotBeMadeSaysWhy) {
  EXPECT_NE(text_of<NetworkError>([] { new_nccl_id(kApi); }).find("NCCL_DEBUG=WARN"), std::string::npos);
}

}  // namespace
}  // namespace merak
