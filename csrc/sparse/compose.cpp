#include "sparse/compose.h"

namespace merak {

std::vector<std::uint32_t> append(Program& whole, const Program& part, const Mapping& mapping,
                                  const std::vector<std::uint32_t>& after) {
  const auto first_step = static_cast<std::uint32_t>(whole.steps.size());
  const auto first_sums = static_cast<std::uint32_t>(whole.row_sums.size());
  const int first_scratch = static_cast<int>(whole.scratch.size());
  const auto moved = [&](Place place) -> Place {
    if (place.buffer >= kScratch) return {place.buffer + first_scratch, place.offset};
    const Place base = place.buffer == kInput ? mapping.input : mapping.output;
    return {base.buffer, base.offset + place.offset};
  };
  std::vector<bool> last(part.steps.size(), true);
  for (Step step : part.steps) {
    for (std::uint32_t& before : step.after) {
      last[before] = false;
      before += first_step;
    }
    if (step.after.empty()) step.after = after;
    step.at = moved(step.at), step.from = moved(step.from), step.row_sums += first_sums;
    whole.steps.push_back(std::move(step));
  }
  whole.scratch.insert(whole.scratch.end(), part.scratch.begin(), part.scratch.end());
  whole.row_sums.insert(whole.row_sums.end(), part.row_sums.begin(), part.row_sums.end());
  std::vector<std::uint32_t> ends;
  for (std::uint32_t i = 0; i < last.size(); ++i)
    if (last[i]) ends.push_back(first_step + i);
  return ends;
}

}  // namespace merak
