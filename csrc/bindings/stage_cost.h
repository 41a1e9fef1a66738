#pragma once
// What a stage takes, as merak.graph.cutting.StageCost has it.

#include <pybind11/pybind11.h>

#include "graph/assess.h"

namespace merak {

inline pybind11::dict dict_of(const StageCost& stage) {
  pybind11::dict result;
  result["rank"] = stage.rank;
  result["first"] = stage.first;
  result["end"] = stage.end;
  result["recomputed"] = stage.recomputed;
  result["forward_s"] = stage.forward_s;
  result["backward_s"] = stage.backward_s;
  result["recompute_s"] = stage.recompute_s;
  result["receive_s"] = stage.receive_s;
  result["return_s"] = stage.return_s;
  result["parameter_bytes"] = stage.parameter_bytes;
  result["input_bytes"] = stage.input_bytes;
  result["saved_bytes"] = stage.saved_bytes;
  result["kept_bytes"] = stage.kept_bytes;
  result["memory_bytes"] = stage.memory_bytes;
  result["crossing_bytes"] = stage.crossing_bytes;
  return result;
}

}  // namespace merak
