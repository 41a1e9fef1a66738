// Tables that are split over the ranks, for Python: what the backend's calls on them take and give.

#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include <array>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "backend/backend.h"
#include "bindings/rooms.h"

namespace merak {
namespace {

namespace py = pybind11;
using BackendClass = py::class_<Backend, c10d::Backend, c10::intrusive_ptr<Backend>>;
using BatchPtr = std::shared_ptr<PreparedBatch>;
using Milliseconds = std::chrono::milliseconds;

// For pybind11, which has no holders of what is const.
BatchPtr unlocked(const Backend::BatchPtr& batch) { return std::const_pointer_cast<PreparedBatch>(batch); }

SplitBy split_named(const std::string& by) {
  if (by != "columns" && by != "rows")
    throw std::invalid_argument("split is '" + by + "'; a table is split by 'columns' or by 'rows'");
  return by == "rows" ? SplitBy::kRows : SplitBy::kColumns;
}

// Slices of Python's, of what a rank holds.
py::slice slice(const Interval& interval) {
  return {static_cast<py::ssize_t>(interval.begin), static_cast<py::ssize_t>(interval.end), 1};
}

void bind_split(py::module_& module) {
  py::class_<Split>(module, "TableSplit")
      .def(py::init([](const std::string& by, std::size_t rows, std::size_t columns, int ranks, int table) {
             if (ranks < 1) throw std::invalid_argument("a table is split over one rank at least");
             return Split{split_named(by), rows, columns, ranks, table};
           }),
           py::arg("by"), py::arg("rows"), py::arg("columns"), py::arg("ranks"), py::arg("table") = -1)
      .def_property_readonly("by_rows", [](const Split& split) { return split.by == SplitBy::kRows; })
      .def(
          "rows", [](const Split& split, int rank) { return slice(split.rows(rank)); }, py::arg("rank"))
      .def(
          "columns", [](const Split& split, int rank) { return slice(split.columns(rank)); }, py::arg("rank"));
}

void bind_batches(py::module_& module) {
  const py::call_guard<py::gil_scoped_release> no_gil;
  py::class_<PreparedBatch, BatchPtr>(module, "EmbeddingBatch")
      .def_property_readonly("rows", [](const PreparedBatch& prepared) { return prepared.batch().rows.rows(); })
      .def_property_readonly("own_rows",
                             [](const PreparedBatch& prepared) { return prepared.batch().own.first.size() - 1; });
  py::class_<BatchPair>(module, "EmbeddingBatchPair")
      .def(py::init<const PreparedBatch&, const PreparedBatch&>(), py::arg("first"), py::arg("second"), no_gil)
      .def_property_readonly("prior", [](const BatchPair& pair) { return unlocked(pair.prior); })
      .def_property_readonly("delayed", [](const BatchPair& pair) { return unlocked(pair.delayed); })
      .def_property_readonly("late", [](const BatchPair& pair) { return unlocked(pair.late); })
      .def_property_readonly("early", [](const BatchPair& pair) { return unlocked(pair.early); });

  py::class_<Backend::Lookup>(module, "EmbeddingLookup")
      .def_readonly("work", &Backend::Lookup::work)
      .def("batch", [](const Backend::Lookup& lookup) { return unlocked(lookup.batch()); });
}

void bind_updates(py::module_& module) {
  py::class_<TableUpdate>(module, "TableUpdate")
      .def(py::init([](const std::string& kind, const std::array<double, 5>& options, std::uint64_t step,
                       const at::Tensor& table, const std::vector<at::Tensor>& remembered) {
             const auto [rate, first, second, epsilon, weight_decay] = options;
             const UpdateRule rule{update_kind_named(kind), rate, first, second, epsilon, weight_decay};
             return TableUpdate{rule, step, table, remembered};
           }),
           py::arg("kind"), py::arg("options"), py::arg("step"), py::arg("table"), py::arg("remembered"))
      .def("__call__", &TableUpdate::operator(), py::arg("ids"), py::arg("gradients"),
           py::arg("mean_squares") = std::nullopt, py::call_guard<py::gil_scoped_release>());
  module.def("square_sums", &square_sums_of, py::arg("gradients"), py::call_guard<py::gil_scoped_release>());
}

void bind_lookups(BackendClass& backend) {
  const py::call_guard<py::gil_scoped_release> no_gil;
  backend.def("new_table", &Backend::new_table);
  backend.def("embedding_lookup", &Backend::embedding_lookup, py::arg("shard"), py::arg("ids"), py::arg("split"),
              py::arg("padding"), py::arg("prepare_gradient"), py::arg("priority"), py::arg("timeout"), no_gil);
  backend.def("embedding_announce", &Backend::embedding_announce, py::arg("shard"), py::arg("ids"), py::arg("split"),
              py::arg("padding"), py::arg("priority"), py::arg("timeout"), no_gil);
  backend.def("refuse_embedding", &Backend::refuse_embedding, py::arg("reason"), no_gil);
  backend.def(
      "embedding_rows",
      [](Backend& self, const BatchPtr& batch, const at::Tensor& shard, const at::Tensor& rows, int priority,
         Milliseconds timeout) { return self.embedding_rows(batch, shard, rows, priority, timeout); },
      py::arg("batch"), py::arg("shard"), py::arg("rows"), py::arg("priority"), py::arg("timeout"), no_gil);
}

void bind_gradients(BackendClass& backend) {
  const py::call_guard<py::gil_scoped_release> no_gil;
  backend.def(
      "embedding_gradient",
      [](Backend& self, const BatchPtr& batch, const at::Tensor& gradient, int priority, Milliseconds timeout) {
        return self.embedding_gradient(batch, gradient, priority, timeout);
      },
      py::arg("batch"), py::arg("gradient"), py::arg("priority"), py::arg("timeout"), no_gil);
  backend.def(
      "embedding_update",
      [](Backend& self, const BatchPtr& batch, const at::Tensor& gradient, const TableUpdate& update,
         const BatchPtr& next, const at::Tensor& rows, int priority, Milliseconds timeout) {
        return self.embedding_update(batch, gradient, update, next, rows, priority, timeout);
      },
      py::arg("batch"), py::arg("gradient"), py::arg("update"), py::arg("next"), py::arg("rows"), py::arg("priority"),
      py::arg("timeout"), no_gil);
}

}  // namespace

void bind_embedding(py::module_& module) {
  bind_split(module);
  bind_batches(module);
  bind_updates(module);
  auto backend = py::reinterpret_borrow<BackendClass>(module.attr("Backend"));
  bind_lookups(backend);
  bind_gradients(backend);
}

}  // namespace merak
