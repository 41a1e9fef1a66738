// For `merak env` and merak.backend.statistics().

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/rooms.h"
#include "transport/engine.h"
#include "transport/environment.h"
#include "transport/local_address.h"

namespace merak {
namespace {

namespace py = pybind11;

py::dict statistics() {
  const Traffic traffic = Engine::process().traffic();
  py::dict result;
  result["bytes_sent"] = traffic.bytes_sent;
  result["bytes_received"] = traffic.bytes_received;
  result["operations"] = traffic.operations;
  return result;
}

std::string problem_of(const environment::Variable& variable) {
  try {
    variable.check();
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

// (name, type, default, doc, value or None, what is wrong with it or ""), sorted by name.
py::list environment_variables() {
  py::list result;
  for (const auto& variable : environment::all_variables()) {
    result.append(py::make_tuple(variable.name, variable.type, variable.fallback, variable.doc,
                                 environment::text_of(variable.name), problem_of(variable)));
  }
  return result;
}

py::list interfaces() {
  py::list result;
  for (const NetworkInterface& one : network_interfaces()) {
    result.append(py::make_tuple(one.name, one.address.host()));
  }
  return result;
}

std::string listening_address(const std::string& rendezvous_host) {
  return choose_address({.interfaces = environment::socket_interfaces(),
                         .address = environment::socket_address(),
                         .rendezvous_host = rendezvous_host})
      .host();
}

}  // namespace

void bind_transport(py::module_& module) {
  module.def("statistics", &statistics);
  module.def("environment_variables", &environment_variables);
  module.def("network_interfaces", &interfaces);
  module.def("listening_address", &listening_address, py::arg("rendezvous_host"));
}

}  // namespace merak
