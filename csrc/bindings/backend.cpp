// merak::Backend for Python: created there, and from then on called through c10d's own bindings.

#include "backend/backend.h"

#include <pybind11/chrono.h>
#include <pybind11/functional.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <utility>

#include "backend/host_identity.h"
#include "bindings/rooms.h"

namespace merak {
namespace {

namespace py = pybind11;
using Options = Backend::Options;

// A Python callable that is called, and in the end released, with Python's lock, on whatever thread that happens.
std::shared_ptr<py::object> shared_with_gil(py::object callable) {
  return std::shared_ptr<py::object>(new py::object(std::move(callable)), [](py::object* object) {
    py::gil_scoped_acquire gil;
    delete object;
  });
}

c10::intrusive_ptr<Backend> create(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                   const c10::intrusive_ptr<Options>& options, const std::string& registered_name,
                                   const std::string& rendezvous_host, py::object make_cuda_backend) {
  Backend::Surroundings surroundings;
  surroundings.registered_name = registered_name, surroundings.rendezvous_host = rendezvous_host;
  surroundings.make_cuda_backend = [make = shared_with_gil(std::move(make_cuda_backend))](
                                       const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                       std::chrono::milliseconds timeout, const std::string& group) {
    py::gil_scoped_acquire gil;
    return (*make)(store, rank, size, timeout, group).cast<c10::intrusive_ptr<c10d::Backend>>();
  };
  py::gil_scoped_release no_gil;
  return c10::make_intrusive<Backend>(store, rank, size, options, std::move(surroundings));
}

py::dict costs_as_dict(const Costs& costs) {
  py::dict result;
  result["latency_s"] = costs.latency_s, result["seconds_per_byte"] = costs.seconds_per_byte;
  result["latency_inside_s"] = costs.latency_inside_s;
  result["seconds_per_byte_inside"] = costs.seconds_per_byte_inside;
  result["per_message_s"] = costs.per_message_s, result["reduce_seconds_per_byte"] = costs.reduce_seconds_per_byte;
  return result;
}

// (method, rows of the union, rows of each rank, [(method, seconds, bytes), ...], costs)
py::tuple plan_as_tuple(const TablePlan& plan) {
  py::list priced, counts;
  for (const Priced& one : plan.priced) priced.append(py::make_tuple(name(one.method), one.seconds, one.bytes));
  for (std::uint32_t count : plan.counts) counts.append(count);
  return py::make_tuple(name(plan.method), plan.union_rows, counts, priced, costs_as_dict(plan.costs));
}

using BackendClass = py::class_<Backend, c10d::Backend, c10::intrusive_ptr<Backend>>;

void bind_sparse_calls(BackendClass& backend) {
  backend.def(
      "sparse_all_reduce",
      [](Backend& self, const std::vector<at::Tensor>& tensors, const c10d::ReduceOp& op, const std::string& method,
         std::chrono::milliseconds timeout) { return self.sparse_all_reduce(tensors, op, method, timeout); },
      py::arg("tensors"), py::arg("op"), py::arg("method"), py::arg("timeout"),
      py::call_guard<py::gil_scoped_release>());

  backend.def(
      "sketch_all_reduce",
      [](Backend& self, const at::Tensor& tensor, const c10d::ReduceOp& op, std::uint64_t budget_bytes,
         std::uint64_t seed, bool feedback, std::chrono::milliseconds timeout) {
        return self.sketch_all_reduce(tensor, op, {budget_bytes, seed, feedback}, timeout);
      },
      py::arg("tensor"), py::arg("op"), py::arg("budget_bytes"), py::arg("seed"), py::arg("feedback"),
      py::arg("timeout"), py::call_guard<py::gil_scoped_release>());

  backend.def("refuse_sparse_all_reduce", &Backend::refuse_sparse_all_reduce, py::arg("reason"),
              py::call_guard<py::gil_scoped_release>());

  backend.def(
      "sparse_plans",
      [](Backend& self, const std::vector<at::Tensor>& tensors, const std::string& method,
         std::chrono::milliseconds timeout) {
        std::vector<TablePlan> plans;
        {
          py::gil_scoped_release no_gil;
          plans = self.sparse_plans(tensors, method, timeout);
        }
        py::list result;
        for (const TablePlan& plan : plans) result.append(plan_as_tuple(plan));
        return result;
      },
      py::arg("tensors"), py::arg("method"), py::arg("timeout"));
}

void bind_resharding_calls(py::module_& module, BackendClass& backend) {
  py::class_<Backend::Reshard>(module, "Reshard")
      .def_readonly("work", &Backend::Reshard::work)
      .def("agreed", [](const Backend::Reshard& started) { return started.agreed(); });
  const py::call_guard<py::gil_scoped_release> no_gil;
  backend.def("over", &Backend::over, py::arg("ranks"), no_gil);
  backend.def("end", &Backend::end, py::arg("reason"), no_gil);
  backend.def("network", &Backend::network, py::arg("timeout"), no_gil);
  backend.def("measure", &Backend::measure, py::arg("timeout"), no_gil);
  backend.def(
      "reshard",
      [](Backend& self, const std::shared_ptr<PlannedMoves>& planned, const Backend::SomeTensors& sources,
         const Backend::SomeTensors& targets, at::Device device, const std::string& problem, int priority,
         std::chrono::milliseconds timeout) {
        return self.reshard(planned, sources, targets, device, problem, priority, timeout);
      },
      py::arg("planned"), py::arg("sources"), py::arg("targets"), py::arg("device"), py::arg("problem"),
      py::arg("priority"), py::arg("timeout"), no_gil);
  backend.def("refuse_reshard", &Backend::refuse_reshard, py::arg("reason"), no_gil);
}

}  // namespace

void bind_backend(py::module_& module) {
  // The classes that ours derive from are bound there.
  py::module_::import("torch._C._distributed_c10d");

  BackendClass backend(module, "Backend");
  backend.def(py::init(&create), py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("options"), py::kw_only(),
              py::arg("registered_name"), py::arg("rendezvous_host"), py::arg("make_cuda_backend"));

  backend.def("average", &Backend::average, py::arg("tensor"), py::arg("priority"), py::arg("timeout"),
              py::call_guard<py::gil_scoped_release>());
  bind_sparse_calls(backend);
  bind_resharding_calls(module, backend);

  py::class_<Options, c10d::Backend::Options, c10::intrusive_ptr<Options>>(backend, "Options")
      .def(py::init<std::chrono::milliseconds>(), py::arg("timeout") = kBackendDefaultTimeout);

  module.def(
      "close_all_groups",
      [](std::chrono::milliseconds linger) {
        py::gil_scoped_release no_gil;
        Membership::close_all(linger);
      },
      py::arg("linger"));
  module.def("host_identity", &host_identity);
}

}  // namespace merak
