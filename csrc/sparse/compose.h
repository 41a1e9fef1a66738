#pragma once
// Programs made of programs.

#include <cstdint>
#include <vector>

#include "transport/program.h"

namespace merak {

// Where a part finds its input and its output in the whole.
struct Mapping {
  Place input = {kInput, 0}, output = {kOutput, 0};
};

// Appends a copy of `part`; its first steps come after the steps `after` of the whole. Returns the last steps of the
// part, those that no other one comes after. Scratch memory is not shared.
std::vector<std::uint32_t> append(Program& whole, const Program& part, const Mapping& mapping = {},
                                  const std::vector<std::uint32_t>& after = {});

}  // namespace merak
