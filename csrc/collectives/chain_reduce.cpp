#include "collectives/chain_reduce.h"

#include "collectives/cut.h"
#include "collectives/slots.h"

namespace merak {
namespace {

using Segments = std::vector<Range>;

Program first_of_chain(int next, const Segments& segments) {
  Program program;
  for (const auto [offset, bytes] : segments) program.send(next, {kInput, offset}, bytes);
  return program;
}

Program middle_of_chain(int previous, int next, const Segments& segments) {
  Program program;
  Slots slots(program, segments.front().bytes, segments.size());
  for (const auto [offset, bytes] : segments) {
    const Slots::Slot slot = slots.take();
    const std::uint32_t arrival = program.receive(previous, slot.place, bytes, slot.after);
    const std::uint32_t sum = program.reduce(slot.place, {kInput, offset}, bytes, {arrival}, false);
    slots.release(slot, program.send(next, slot.place, bytes, {sum}));
  }
  return program;
}

Program root_out_of_place(int previous, const Segments& segments) {
  Program program;
  for (const auto [offset, bytes] : segments) {
    const std::uint32_t arrival = program.receive(previous, {kOutput, offset}, bytes);
    program.reduce({kOutput, offset}, {kInput, offset}, bytes, {arrival}, true);
  }
  return program;
}

Program root_in_place(int previous, const Segments& segments) {
  Program program;
  Slots slots(program, segments.front().bytes, segments.size());
  for (const auto [offset, bytes] : segments) {
    const Slots::Slot slot = slots.take();
    const std::uint32_t arrival = program.receive(previous, slot.place, bytes, slot.after);
    slots.release(slot, program.reduce({kOutput, offset}, slot.place, bytes, {arrival}, true));
  }
  return program;
}

}  // namespace

Program chain_reduce(const std::vector<int>& order, int position, std::size_t message_bytes, std::size_t segment_bytes,
                     bool in_place) {
  const int last = static_cast<int>(order.size()) - 1;
  const Segments segments = segments_of({0, message_bytes}, segment_bytes);
  Program program;
  if (segments.empty()) return program;
  if (last == 0) {
    if (!in_place) copy_in_steps(program, {kOutput, 0}, {kInput, 0}, message_bytes);
    return program;
  }
  if (position == 0) return first_of_chain(order[1], segments);
  if (position < last) return middle_of_chain(order[position - 1], order[position + 1], segments);
  return in_place ? root_in_place(order[last - 1], segments) : root_out_of_place(order[last - 1], segments);
}

}  // namespace merak
