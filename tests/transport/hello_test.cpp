#include "transport/hello.h"

#include <gtest/gtest.h>

#include <array>

#include "transport/link_helpers.h"
#include "transport/token.h"

namespace merak {
namespace {

Hello example() {
  Hello hello{.from = 5, .to = 2};
  for (std::size_t i = 0; i < hello.token.size(); ++i) hello.token[i] = static_cast<std::byte>(i);
  return hello;
}

TEST(Hello, ComesBackAsWritten) {
  std::array<std::byte, kHelloBytes> bytes;
  write_hello(example(), bytes);
  EXPECT_EQ(parse_hello(bytes), example());
}

TEST(Hello, IsTheseBytes) {  // what ranks of other builds rely on
  std::array<std::byte, kHelloBytes> bytes;
  write_hello(example(), bytes);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), 8), std::string("MRKH\1\0\0\0", 8));
  EXPECT_EQ(bytes[8], std::byte{0});
  EXPECT_EQ(bytes[39], std::byte{31});
  EXPECT_EQ(bytes[40], std::byte{5});
  EXPECT_EQ(bytes[44], std::byte{2});
}

TEST(Hello, IsRecognisedFromItsFirstByteOn) {
  std::array<std::byte, kHelloBytes> bytes;
  write_hello(example(), bytes);
  for (std::size_t length = 0; length <= bytes.size(); ++length)
    EXPECT_TRUE(may_be_hello({bytes.data(), length})) << length;
  bytes[0] = std::byte{'G'};
  EXPECT_FALSE(may_be_hello({bytes.data(), 1}));
}

TEST(Hello, OfAnotherVersionSaysSo) {
  std::array<std::byte, kHelloBytes> bytes;
  write_hello(example(), bytes);
  bytes[4] = std::byte{9};
  EXPECT_TRUE(contains(error_of<OtherVersion>([&] { parse_hello(bytes); }), "another version"));
}

TEST(Answer, ComesBackAsWritten) {
  std::array<std::byte, kAnswerBytes> bytes;
  for (Answer answer : {Answer::kWelcome, Answer::kOtherVersion, Answer::kNoSuchRank, Answer::kConnected}) {
    write_answer(answer, bytes);
    EXPECT_EQ(parse_answer(bytes), answer);
    EXPECT_NE(std::string(describe(answer)), "");
  }
}

TEST(Answer, OfANewerVersionIsUnderstoodWhenItRefusesOurs) {
  std::array<std::byte, kAnswerBytes> bytes;
  write_answer(Answer::kOtherVersion, bytes);
  bytes[4] = std::byte{9};
  EXPECT_EQ(parse_answer(bytes), Answer::kOtherVersion);
  write_answer(Answer::kWelcome, bytes);
  bytes[4] = std::byte{9};
  EXPECT_THROW(parse_answer(bytes), OtherVersion);
}

TEST(Answer, IsNotTheHelloThatComesBackOnAConnectionToOneself) {
  std::array<std::byte, kHelloBytes> bytes;
  write_hello(example(), bytes);
  EXPECT_THROW(parse_answer(std::span(bytes).first<kAnswerBytes>()), MismatchError);
}

TEST(Answer, UnknownIsRefused) {
  std::array<std::byte, kAnswerBytes> bytes;
  write_answer(static_cast<Answer>(77), bytes);
  EXPECT_THROW(parse_answer(bytes), MismatchError);
}

TEST(Token, IsNeverTheSameTwice) {
  const Token a = random_token(), b = random_token();
  EXPECT_FALSE(equal_in_constant_time(a, b));
  EXPECT_TRUE(equal_in_constant_time(a, a));
}

TEST(Token, DiffersWhereverOneBitDiffers) {
  const Token a = random_token();
  for (std::size_t i = 0; i < a.size(); ++i) {
    Token b = a;
    b[i] ^= std::byte{0x80};
    EXPECT_FALSE(equal_in_constant_time(a, b));
  }
}

}  // namespace
}  // namespace merak
