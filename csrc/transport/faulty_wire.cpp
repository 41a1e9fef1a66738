#include "transport/faulty_wire.h"

#include <sys/socket.h>

#include <algorithm>

namespace merak {

void FaultyWire::attach(int end, int descriptor) {
  std::lock_guard lock(mutex_);
  descriptors_[end] = descriptor;
}

void FaultyWire::detach(int end) {
  bells_[end]->set({});
  std::lock_guard lock(mutex_);
  descriptors_[end] = -1;
}

void FaultyWire::die() {
  {
    std::lock_guard lock(mutex_);
    dead_ = true;
    for (int descriptor : descriptors_)
      if (descriptor >= 0) ::shutdown(descriptor, SHUT_RDWR);  // shows where the link is waited for
  }
  for (const auto& bell : bells_) bell->ring();
}

bool FaultyWire::dead() const {
  std::lock_guard lock(mutex_);
  return dead_;
}

std::uint64_t FaultyWire::left() const {
  std::lock_guard lock(mutex_);
  if (dead_) return 0;
  return lifetime_ == kNoLimit ? kNoLimit : lifetime_ - (lanes_[0].written + lanes_[1].written);
}

void FaultyWire::wrote(int end, std::size_t bytes, Clock::duration delay) {
  std::lock_guard lock(mutex_);
  Lane& lane = lanes_[1 - end];
  lane.written += bytes;
  if (!timer_ || bytes == 0) return;
  auto arrives = Clock::now() + delay;
  if (!lane.on_the_way.empty()) arrives = std::max(arrives, lane.on_the_way.back().arrives);
  lane.on_the_way.push_back({lane.written, arrives});
  timer_->at(arrives, [bell = std::weak_ptr(bells_[1 - end])] {
    if (const auto there = bell.lock()) there->ring();
  });
}

std::uint64_t FaultyWire::readable(int end) {
  std::lock_guard lock(mutex_);
  if (!timer_ || dead_) return kNoLimit;
  Lane& lane = lanes_[end];
  for (; !lane.on_the_way.empty() && lane.on_the_way.front().arrives <= Clock::now(); lane.on_the_way.pop_front())
    lane.arrived = lane.on_the_way.front().until;
  return lane.arrived - lane.read;
}

void FaultyWire::did_read(int end, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  lanes_[end].read += bytes;
}

}  // namespace merak
