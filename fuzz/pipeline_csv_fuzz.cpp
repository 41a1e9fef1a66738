// Schedules as text that the fuzzer draws: refused, or read, and written so that they are read as they were. Those that
// are right run to their end in any order of events, and in the simulation, within the memory that was counted.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "pipeline/any_order.h"
#include "pipeline/check.h"
#include "pipeline/csv.h"
#include "pipeline/simulate.h"

namespace {

using namespace merak::pipeline;

void run(const Schedule& schedule) {
  Costs costs;
  costs.seconds.assign(schedule.rank_of_stage.size(), {1, 2, 1, 1, 1, 1});
  costs.bytes.assign(schedule.rank_of_stage.size(), {.fixed = 1, .activation = 1, .checkpoint = 1});
  costs.edges.assign(schedule.edges.size(), {1, 1, 0.5, 1});
  const Simulation simulation = simulate(schedule, costs);
  const std::vector<Peak> most = AnyOrder(simulation.schedule, 0).run();
  for (std::size_t rank = 0; rank < most.size(); ++rank) {
    const Peak& counted = simulation.memory.ranks[rank];
    if (most[rank].activations > counted.activations || most[rank].receives > counted.receives) std::abort();
  }
  for (const std::vector<ActionSpan>& spans : simulation.actions)
    for (const ActionSpan& span : spans)
      if (span.end_s < span.start_s || span.end_s > simulation.seconds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Schedule schedule;
  try {
    schedule = read_csv(std::string_view(reinterpret_cast<const char*>(data), size)).schedule;
  } catch (const std::invalid_argument&) {
    return 0;
  }
  if (read_csv(write_csv(schedule)).schedule != schedule) std::abort();
  if (check(schedule).empty()) run(schedule);
  return 0;
}
