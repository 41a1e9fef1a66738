#pragma once
// Scratch memory that is used over and over: a fixed number of equal slots, taken in turn. Whoever takes a slot writes
// to it only after the steps that last used it; so a long message needs little scratch memory, and what bounds it is
// the grants of the receives into it.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/program.h"

namespace merak {

class Slots {
 public:
  // `program` outlives the slots.
  Slots(Program& program, std::size_t slot_bytes, std::size_t count)
      : slot_bytes_(slot_bytes), used_(count), buffer_(program.add_scratch(slot_bytes * count)) {}

  struct Slot {
    std::size_t number;
    Place place;
    std::vector<std::uint32_t> after;  // the steps that must be done before it is written
  };

  Slot take() {
    const std::size_t number = next_++ % used_.size();
    return {number, {buffer_, number * slot_bytes_}, std::move(used_[number])};
  }

  // The slot may be written again after that step.
  void release(const Slot& slot, std::uint32_t last_use) { used_[slot.number] = {last_use}; }

 private:
  const std::size_t slot_bytes_;
  std::vector<std::vector<std::uint32_t>> used_;  // by slot: the step that used it last
  const int buffer_;
  std::size_t next_ = 0;
};

}  // namespace merak
