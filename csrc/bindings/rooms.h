#pragma once
// What each room adds to the module merak._C.

#include <pybind11/pybind11.h>

namespace merak {

void bind_transport(pybind11::module_& module);
void bind_sparse(pybind11::module_& module);
void bind_resharding(pybind11::module_& module);
void bind_graph(pybind11::module_& module);
void bind_pipeline(pybind11::module_& module);
void bind_sharding(pybind11::module_& module);
void bind_planner(pybind11::module_& module);  // after graph
void bind_backend(pybind11::module_& module);  // after resharding
void bind_data(pybind11::module_& module);
void bind_embedding(pybind11::module_& module);  // after the backend

}  // namespace merak
