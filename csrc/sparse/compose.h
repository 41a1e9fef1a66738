#pragma once
// Programs made of programs.

#include <cstdint>
#include <functional>
#include <vector>

#include "transport/program.h"

namespace merak {

// Where a part finds its input and its output in the whole.
struct Mapping {
  Place input = {kInput, 0}, output = {kOutput, 0};
};

// Called for each step of the part: `moved` is what it becomes in the whole, where it gets that index; more steps that
// it comes after may be added to it.
using OnStep = std::function<void(const Step& step, std::uint32_t index, Step& moved)>;

// Appends a copy of `part`. Scratch memory is not shared.
void append(Program& whole, const Program& part, const Mapping& mapping = {}, const OnStep& on_step = {});

// The same, after the steps `after` of the whole.
void append_after(Program& whole, const Program& part, const Mapping& mapping, const std::vector<std::uint32_t>& after);

}  // namespace merak
