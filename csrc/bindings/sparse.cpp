// For merak.sparse.statistics().

#include <pybind11/stl.h>

#include "bindings/rooms.h"
#include "sparse/statistics.h"

namespace merak {
namespace {

namespace py = pybind11;

py::dict statistics() {
  const SparseStatistics all = SparseStatistics::of_process();
  py::dict tables, bytes;
  for (Method method : kMethods) {
    tables[name(method)] = all.methods[static_cast<std::size_t>(method)].tables;
    bytes[name(method)] = all.methods[static_cast<std::size_t>(method)].bytes_sent;
  }
  py::dict result;
  result["tables"] = tables, result["bytes_sent"] = bytes, result["announced_bytes"] = all.announced_bytes;
  result["table_rows"] = all.table_rows, result["union_rows"] = all.union_rows, result["own_rows"] = all.own_rows;
  result["seconds"] = all.seconds, result["waited_seconds"] = all.waited_seconds;
  return result;
}

}  // namespace

void bind_sparse(py::module_& module) { module.def("sparse_statistics", &statistics); }

}  // namespace merak
