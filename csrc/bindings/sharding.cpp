// Shardings for Python, as plain tuples: what merak.sharding completes, explains and lowers.

#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/rooms.h"
#include "sharding/assign.h"
#include "sharding/propagate.h"
#include "sharding/sandwich.h"

namespace merak::sharding {
namespace {

namespace py = pybind11;

// As Python writes them:
//   value       (name, shape, bytes, has a gradient, is a parameter, is free, stays whole)
//   operation   (name, what it calls, operands, results, numbers by name); a value of -1 is not given
//   rule        (whether it is elementwise, factors (size, kind), and by dimension which, of operands and of results)
//   annotation  (value, dimension, axes, closed, priority, whether it spreads, label)
//   layout      by dimension, pieces (size, axes)
using ValueTuple = std::tuple<std::string, Shape, double, bool, bool, bool, bool>;
using OperationTuple = std::tuple<std::string, std::string, std::vector<int>, std::vector<int>,
                                  std::map<std::string, std::vector<std::int64_t>>>;
using RuleTuple = std::tuple<bool, std::vector<std::pair<std::int64_t, std::string>>, std::vector<TensorFactors>,
                             std::vector<TensorFactors>>;
using AnnotationTuple = std::tuple<int, int, Axes, bool, int, bool, std::string>;
using LayoutTuple = std::vector<std::vector<std::pair<std::int64_t, Axes>>>;

std::vector<Shape> shapes_of(const Program& program, const std::vector<int>& values) {
  std::vector<Shape> shapes;
  for (int value : values)
    shapes.push_back(value >= 0 && value < static_cast<int>(program.values.size()) ? program.values[value].shape
                                                                                   : Shape{});
  return shapes;
}

constexpr const char* kKinds[] = {"pass", "reduce", "partial", "inside", "replicate", "window", "routed"};

Rule rule_of(const RuleTuple& tuple) {
  Rule rule;
  const auto& [elementwise, factors, operands, results] = tuple;
  for (const auto& [size, kind] : factors) {
    const auto* const found = std::find(std::begin(kKinds), std::end(kKinds), kind);
    if (found == std::end(kKinds)) throw std::invalid_argument("a factor is of kind " + kind + ", which is none");
    rule.factors.push_back({size, static_cast<FactorKind>(found - std::begin(kKinds))});
  }
  rule.operands = operands, rule.results = results, rule.elementwise = elementwise;
  return rule;
}

// `rules`: by number of an operation, in the place of the one that its name has. `varying`: numbers that stand for what
// depends on the batch.
std::unique_ptr<Program> program_of(const std::vector<std::pair<std::string, int>>& mesh,
                                    const std::vector<ValueTuple>& values,
                                    const std::vector<OperationTuple>& operations,
                                    const std::map<int, RuleTuple>& rules, const std::set<std::int64_t>& varying) {
  auto program = std::make_unique<Program>();
  for (const auto& [name, size] : mesh) program->mesh.push_back({name, size});
  for (const auto& [name, shape, bytes, has_gradient, is_parameter, is_free, is_whole] : values)
    program->values.push_back({name, shape, bytes, has_gradient, is_parameter, is_free, is_whole});
  for (const auto& [name, calls, operands, results, args] : operations) {
    const Call call{calls, shapes_of(*program, operands), shapes_of(*program, results), args, varying};
    const auto given = rules.find(static_cast<int>(program->operations.size()));
    program->operations.push_back(
        {name, operands, results, given == rules.end() ? rule_of(call) : rule_of(given->second)});
  }
  check_program(*program);
  return program;
}

LayoutTuple tuple_of(const Layout& layout) {
  LayoutTuple tuple;
  for (const Pieces& pieces : layout) {
    tuple.emplace_back();
    for (const Piece& piece : pieces) tuple.back().emplace_back(piece.size, piece.axes);
  }
  return tuple;
}

Layout layout_of(const LayoutTuple& tuple) {
  Layout layout;
  for (const auto& pieces : tuple) {
    layout.emplace_back();
    for (const auto& [size, axes] : pieces) layout.back().push_back({size, axes});
  }
  return layout;
}

std::vector<Annotation> annotations_of(const std::vector<AnnotationTuple>& tuples) {
  std::vector<Annotation> annotations;
  for (const auto& [value, dim, axes, closed, priority, spreads, label] : tuples)
    annotations.push_back({value, dim, axes, closed, priority, spreads, label});
  return annotations;
}

py::dict dict_of(const Step& step) {
  py::dict result;
  result["kind"] = name(step.kind);
  result["axes"] = step.axes;
  result["dim"] = step.dim;
  result["piece"] = step.piece;
  result["pieces"] = tuple_of(Layout{step.pieces})[0];
  result["to_dim"] = step.to_dim;
  result["to_piece"] = step.to_piece;
  result["to_pieces"] = tuple_of(Layout{step.to_pieces})[0];
  result["varies"] = step.varies;
  result["nbytes"] = step.bytes;
  result["backward_nbytes"] = step.backward_bytes;
  if (!step.borders.have.empty()) {  // by rank, where what it has begins and ends, and two such ranges that it needs
    std::vector<std::int64_t> have, need;
    for (const Range& range : step.borders.have) have.insert(have.end(), {range.begin, range.end});
    for (const auto& ranges : step.borders.need)
      for (const Range& range : ranges) need.insert(need.end(), {range.begin, range.end});
    result["have"] = have;
    result["need"] = need;
  }
  return result;
}

py::list list_of(const std::vector<std::vector<Step>>& tensors) {
  py::list result;
  for (const std::vector<Step>& steps : tensors) {
    py::list of_tensor;
    for (const Step& step : steps) of_tensor.append(dict_of(step));
    result.append(std::move(of_tensor));
  }
  return result;
}

py::dict dict_of(const DividedWindow& divided) {
  py::dict result;
  result["operand"] = divided.window.operand;
  result["dim"] = divided.window.dim;
  result["result_dim"] = divided.window.result_dim;
  result["axis"] = divided.axis;
  result["padding"] = divided.borders.padding;
  result["lengths"] = divided.borders.lengths;
  return result;
}

py::dict dict_of(const Assigned& way) {
  py::list operands, results, factors;
  for (const Layout& layout : way.operands) operands.append(tuple_of(layout));
  for (const State& state : way.results) results.append(py::make_tuple(tuple_of(state.layout), state.partial));
  for (const Pieces& pieces : way.factors) factors.append(tuple_of({pieces})[0]);
  py::list windows;
  for (const DividedWindow& window : way.windows) windows.append(dict_of(window));
  py::dict result;
  result["factors"] = std::move(factors);
  result["operands"] = std::move(operands);
  result["results"] = std::move(results);
  result["before"] = list_of(way.before);
  result["after"] = list_of(way.after);
  result["divided"] = way.divided;
  result["inside"] = way.inside;
  result["windows"] = std::move(windows);
  return result;
}

std::vector<Layout> layouts_of(const std::vector<LayoutTuple>& tuples) {
  std::vector<Layout> layouts;
  for (const LayoutTuple& tuple : tuples) layouts.push_back(layout_of(tuple));
  return layouts;
}

py::list list_of(const std::vector<Layout>& layouts) {
  py::list result;
  for (const Layout& layout : layouts) result.append(tuple_of(layout));
  return result;
}

py::dict complete(const Program& program, const std::vector<AnnotationTuple>& annotations) {
  Completed completed;
  {
    const std::vector<Annotation> wishes = annotations_of(annotations);
    const py::gil_scoped_release no_gil;
    completed = propagate(program, wishes);
  }
  py::dict result;
  result["layouts"] = list_of(completed.layouts);
  result["wanted"] = list_of(completed.wanted);
  result["annotations"] = completed.annotations;
  result["operations"] = completed.operations;
  result["not_followed"] = completed.not_followed;
  return result;
}

py::list assign_all(const Program& program, const std::vector<LayoutTuple>& layout_tuples,
                    const std::vector<LayoutTuple>& wanted_tuples) {
  const std::vector<Layout> layouts = layouts_of(layout_tuples), wanted = layouts_of(wanted_tuples);
  std::vector<Assigned> ways;
  {
    const py::gil_scoped_release no_gil;
    ways = assign(program, layouts, wanted);
  }
  py::list result;
  for (const Assigned& way : ways) result.append(dict_of(way));
  return result;
}

py::list sandwiches(const Program& program, int axis) {
  if (axis < 0 || axis >= static_cast<int>(program.mesh.size())) throw py::value_error("the mesh has no such axis");
  py::list result;
  for (const Sandwich& one : find_sandwiches(program, axis))
    result.append(py::make_tuple(one.parameter, one.dim, one.is_vocabulary));
  return result;
}

// From one layout of a tensor of one byte, which has a gradient, to another.
py::list steps_list(const std::vector<std::pair<std::string, int>>& axes, const LayoutTuple& from, const Axes& partial,
                    const LayoutTuple& to, const Axes& varies) {
  Mesh mesh;
  for (const auto& [name, size] : axes) mesh.push_back({name, size});
  const auto canonical_layout = [&](const LayoutTuple& tuple) {
    Layout layout = layout_of(tuple);
    for (Pieces& pieces : layout) pieces = canonical(pieces, mesh);
    return layout;
  };
  return list_of({steps_between(mesh, {canonical_layout(from), partial}, {canonical_layout(to)}, varies, 1, true)})[0];
}

// By factor its size and kind; of each operand and result, by dimension, which factors.
py::tuple rule_tuple(const Program& program, int operation) {
  const Rule& rule = program.operations.at(operation).rule;
  py::list factors;
  for (const Factor& factor : rule.factors)
    factors.append(py::make_tuple(factor.size, kKinds[static_cast<int>(factor.kind)]));
  return py::make_tuple(std::move(factors), rule.operands, rule.results);
}

}  // namespace
}  // namespace merak::sharding

namespace merak {

void bind_sharding(pybind11::module_& module) {
  namespace py = pybind11;
  using namespace sharding;
  module.def("sharding_rules", &names_of_rules);
  module.def("sharding_steps", &steps_list, py::arg("mesh"), py::arg("from_layout"), py::arg("partial"),
             py::arg("to_layout"), py::arg("varies"));
  py::class_<Program>(module, "ShardingProgram")
      .def(py::init(&program_of), py::arg("mesh"), py::arg("values"), py::arg("operations"),
           py::arg("rules") = std::map<int, RuleTuple>{}, py::arg("varying") = std::set<std::int64_t>{})
      .def("rule", &rule_tuple, py::arg("operation"))
      .def("complete", &complete, py::arg("annotations"))
      .def("assign", &assign_all, py::arg("layouts"), py::arg("wanted"))
      .def("sandwiches", &sandwiches, py::arg("axis"));
}

}  // namespace merak
