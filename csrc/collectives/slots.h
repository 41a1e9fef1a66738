#pragma once
// Scratch memory that is used over and over: a few equal slots, taken in turn. Whoever takes a slot writes to it only
// after the step that last used it; so a long message needs little scratch memory, and what bounds it is the grants of
// the receives into it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "transport/program.h"

namespace merak {

class Slots {
 public:
  static constexpr std::size_t kBytes = 6 * 1024 * 1024;  // of all slots, unless there must be more

  // `takes`: how often a slot will be taken. Where there is room for as many slots, no receive has to wait for one.
  // `fewest`: how many there must be nevertheless. `program` outlives the slots.
  Slots(Program& program, std::size_t slot_bytes, std::size_t takes, std::size_t fewest = 2)
      : slot_bytes_(slot_bytes),
        used_(std::min(takes, std::max(fewest, kBytes / slot_bytes))),
        buffer_(program.add_scratch(slot_bytes * used_.size())) {}

  struct Slot {
    std::size_t number;
    Place place;
    std::vector<std::uint32_t> after;  // the step that must be done before it is written
  };

  Slot take() {
    const std::size_t number = next_++ % used_.size();
    return {number, {buffer_, number * slot_bytes_}, std::move(used_[number])};
  }

  // The slot may be written again after that step.
  void release(const Slot& slot, std::uint32_t last_use) { used_[slot.number] = {last_use}; }

 private:
  const std::size_t slot_bytes_;
  std::vector<std::vector<std::uint32_t>> used_;  // by slot
  const int buffer_;
  std::size_t next_ = 0;
};

}  // namespace merak
