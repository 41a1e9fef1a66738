#include "sparse/compose.h"

namespace merak {

void append(Program& whole, const Program& part, const Mapping& mapping, const OnStep& on_step) {
  const auto first_step = static_cast<std::uint32_t>(whole.steps.size());
  const auto first_sums = static_cast<std::uint32_t>(whole.row_sums.size());
  const auto first_copies = static_cast<std::uint32_t>(whole.strided_copies.size());
  const int first_scratch = static_cast<int>(whole.scratch.size());
  const auto moved = [&](Place place) -> Place {
    if (place.buffer >= kScratch) return {place.buffer + first_scratch, place.offset};
    const Place base = place.buffer == kInput ? mapping.input : mapping.output;
    return {base.buffer, base.offset + place.offset};
  };
  for (const Step& original : part.steps) {
    Step step = original;
    for (std::uint32_t& before : step.after) before += first_step;
    step.at = moved(step.at), step.from = moved(step.from), step.row_sums += first_sums;
    step.strided_copy += first_copies;
    if (on_step) on_step(original, static_cast<std::uint32_t>(whole.steps.size()), step);
    whole.steps.push_back(std::move(step));
  }
  whole.scratch.insert(whole.scratch.end(), part.scratch.begin(), part.scratch.end());
  whole.row_sums.insert(whole.row_sums.end(), part.row_sums.begin(), part.row_sums.end());
  whole.strided_copies.insert(whole.strided_copies.end(), part.strided_copies.begin(), part.strided_copies.end());
}

void append_after(Program& whole, const Program& part, const Mapping& mapping,
                  const std::vector<std::uint32_t>& after) {
  append(whole, part, mapping, [&](const Step& step, std::uint32_t, Step& moved) {
    if (step.after.empty()) moved.after = after;
  });
}

}  // namespace merak
