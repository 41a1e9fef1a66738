// The seeds of the fuzz targets, in fuzz/seeds, are what this version writes: well-formed inputs to start from.
// MERAK_WRITE_SEEDS=1 writes them anew after the format has changed.

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "transport/frame.h"
#include "transport/hello.h"

namespace merak {
namespace {

namespace fs = std::filesystem;

template <std::size_t kBytes, class Value, class Write>
std::string written(const Value& value, Write write) {
  std::array<std::byte, kBytes> bytes;
  write(value, bytes);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string frame(const Frame& value) { return written<kHeaderBytes>(value, write_header); }

std::map<std::string, std::string> seeds() {
  const Signature sum = {OperationKind::kAllReduce, DType::kFloat32, Reduction::kSum, -1, 4096};
  const Signature note = {OperationKind::kSend, DType::kInt64, Reduction::kNone, -1, 0};
  return {
      {"hello_fuzz/hello", written<kHelloBytes>(Hello{.token = {}, .from = 5, .to = 2}, write_hello)},
      {"hello_fuzz/welcome", written<kAnswerBytes>(Answer::kWelcome, write_answer)},
      {"frame_fuzz/data", frame({.kind = FrameKind::kData,
                                 .eager = true,
                                 .id = {.sequence = 7},
                                 .signature = sum,
                                 .message = 1,
                                 .payload = 1024,
                                 .message_bytes = 4096,
                                 .offset = 1024})},
      {"frame_fuzz/grant", frame({.kind = FrameKind::kGrant, .id = {.sequence = 7}, .signature = sum, .message = 2})},
      {"frame_fuzz/announce", frame({.kind = FrameKind::kAnnounce,
                                     .id = {.point_to_point = 1, .tag = 3, .sequence = 0},
                                     .signature = note,
                                     .message_bytes = 1 << 20})},
      {"frame_fuzz/credit", frame({.kind = FrameKind::kCredit, .message_bytes = 65536})},
      {"frame_fuzz/abort", frame({.kind = FrameKind::kAbort, .payload = 100})},
      {"frame_fuzz/goodbye", frame({.kind = FrameKind::kGoodbye})},
      {"address_fuzz/ipv4", "192.0.2.7:4711"},
      {"address_fuzz/ipv6", "[2001:db8::7]:4711"},
  };
}

TEST(FuzzSeeds, AreWhatThisVersionWrites) {
  const fs::path folder = fs::path(__FILE__).parent_path() / ".." / ".." / "fuzz" / "seeds";
  for (const auto& [name, bytes] : seeds()) {
    if (std::getenv("MERAK_WRITE_SEEDS") != nullptr) {
      fs::create_directories((folder / name).parent_path());
      std::ofstream(folder / name, std::ios::binary) << bytes;
    }
    std::ostringstream stored;
    stored << std::ifstream(folder / name, std::ios::binary).rdbuf();
    EXPECT_TRUE(stored.str() == bytes) << name << " is out of date: run this test with MERAK_WRITE_SEEDS=1";
  }
}

}  // namespace
}  // namespace merak
