// The extension module merak._C; merak/_C.pyi says what is in it.

#include "bindings/rooms.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "merak's C++ side. Private: import merak.backend instead.";
  merak::bind_transport(module);
  merak::bind_sparse(module);
  merak::bind_resharding(module);
  merak::bind_graph(module);
  merak::bind_pipeline(module);
  merak::bind_sharding(module);
  merak::bind_planner(module);
  merak::bind_backend(module);
  merak::bind_embedding(module);
  merak::bind_data(module);
}
