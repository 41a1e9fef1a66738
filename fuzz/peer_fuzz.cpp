// A rank at work whose peer sends anything: whatever comes, the rank's operations end with an error or stay within
// their memory.
//
// The input is a script: what the rank starts, then frames, with more starts in between. Bytes of the script choose a
// frame's fields one by one, so that most headers get past the parser (frame_fuzz.cpp is for those that do not).

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>

#include "transport/engine.h"
#include "transport/frame.h"
#include "transport/in_process_link.h"

namespace {

using namespace merak;

// Hands out one link, whose other end is the fuzzer's.
class OneLink : public Transport {
 public:
  explicit OneLink(std::unique_ptr<Link> link) : link_(std::move(link)) {}
  void start(OnLink on_link) override { on_link(1, std::move(link_), ""); }
  void connect(int) override {}
  void close() override {}

 private:
  std::unique_ptr<Link> link_;
};

class Script {
 public:
  Script(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
  bool done() const { return left_ == 0; }
  std::uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  // Small numbers mostly, now and then any.
  std::uint64_t number() {
    const std::uint8_t first = byte();
    if (first < 200) return first;
    if (first < 250) return static_cast<std::uint64_t>(first - 199) << (byte() % 20);
    std::uint64_t any = 0;
    for (int i = 0; i < 8; ++i) any = any << 8 | byte();
    return any;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

constexpr std::size_t kBytes = 160;

Signature signature_of(Script& script) {
  return {static_cast<OperationKind>(script.byte() % kOperationKinds), static_cast<DType>(script.byte() % kDTypes),
          static_cast<Reduction>(script.byte() % kReductions), static_cast<std::int8_t>(script.byte()), kBytes};
}

std::string frame_of(Script& script) {
  Frame frame;
  frame.kind = static_cast<FrameKind>(1 + script.byte() % 6);
  frame.eager = script.byte() % 2;
  frame.id = {script.byte() % 2u, static_cast<std::uint32_t>(script.number()), script.number()};
  frame.signature = signature_of(script);
  if (script.byte() % 4 > 0) frame.signature = {OperationKind::kAllReduce, DType::kInt32, Reduction::kSum, -1, kBytes};
  frame.message = static_cast<std::uint32_t>(script.number());
  frame.message_bytes = script.number();
  frame.offset = script.number();
  const bool carries = frame.kind == FrameKind::kData || frame.kind == FrameKind::kAbort;
  frame.payload = carries ? static_cast<std::uint32_t>(script.number() % 1024) : 0;
  std::array<std::byte, kHeaderBytes> header;
  write_header(frame, header);
  std::string bytes(reinterpret_cast<const char*>(header.data()), header.size());
  bytes.append(frame.payload, static_cast<char>(script.byte()));
  if (script.byte() == 255) bytes.resize(script.byte() % bytes.size());
  return bytes;
}

std::shared_ptr<const PreparedProgram> exchange() {
  Program program;
  const int scratch = program.add_scratch(kBytes);
  const auto first = program.receive(1, {scratch, 0}, kBytes / 2);
  program.send(1, {kInput, 0}, kBytes);
  const auto second = program.receive(1, {scratch, kBytes / 2}, kBytes / 2, {first});
  program.copy({kOutput, 0}, {scratch, 0}, kBytes, {second});
  return std::make_shared<PreparedProgram>(std::move(program));
}

// The rank under attack.
struct Rank {
  Engine& engine;
  std::unique_ptr<Link> other_end;
  std::shared_ptr<Group> group;
  std::array<std::byte, kBytes> input{}, output{};

  explicit Rank(Engine& shared) : engine(shared) {
    auto [mine, other] = in_process_link();
    other_end = std::move(other);
    group = engine.open({"main", 0, 2}, std::make_unique<OneLink>(std::move(mine)));
  }

  void start(std::uint8_t what) {
    Request request;
    request.signature = {OperationKind::kAllReduce, DType::kInt32, Reduction::kSum, -1, kBytes};
    request.program = exchange();
    request.input = Buffer(input.data(), kBytes);
    request.output = Buffer(output.data(), kBytes);
    if (what & 1) engine.start(*group, request);
    request.signature = {.kind = OperationKind::kSend, .dtype = DType::kInt32};
    if (what & 2) engine.send(*group, 1, what % 3, request);
    if (what & 4) engine.receive(*group, 1, what % 3, request);
    if (what & 8) engine.receive(*group, kAnySource, what % 3, request);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Engine& engine = *new Engine(Engine::Drive::kManual);  // starting its threads would take most of the time
  Script script(data, size);
  Rank rank(engine);
  rank.start(script.byte());
  try {
    for (int frames = 0; !script.done() && frames < 64; ++frames) {
      const std::string bytes = frame_of(script);
      const iovec piece = {const_cast<char*>(bytes.data()), bytes.size()};
      rank.other_end->write({&piece, 1});
      rank.engine.run_once(Clock::duration::zero());
      if (script.byte() % 8 == 0) rank.start(script.byte());
    }
  } catch (const LinkClosed&) {  // the rank has had enough
  }
  for (int i = 0; i < 3; ++i) engine.run_once(Clock::duration::zero());
  engine.close(*rank.group, Clock::duration::zero());
  rank.other_end.reset();
  engine.run_once(Clock::duration::zero());  // lets go of the link
  return 0;
}
