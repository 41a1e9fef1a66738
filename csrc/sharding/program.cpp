#include "sharding/program.h"

#include <algorithm>
#include <stdexcept>

namespace merak::sharding {
namespace {

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::invalid_argument(problem);
}

void check_tensors(const Program& program, const Operation& operation, const std::vector<int>& values,
                   const std::vector<TensorFactors>& tensors) {
  require(values.size() == tensors.size(), operation.name + " has a rule for another number of tensors");
  for (std::size_t t = 0; t < values.size(); ++t) {
    require(values[t] >= -1 && values[t] < static_cast<int>(program.values.size()),
            operation.name + " names a value that there is not");
    if (values[t] < 0) continue;
    const Value& value = program.values[values[t]];
    require(value.shape.size() == tensors[t].size(),
            operation.name + " has a rule that does not fit the dimensions of " + value.name);
    for (std::size_t dim = 0; dim < tensors[t].size(); ++dim) {
      for (int factor : tensors[t][dim])
        require(factor >= 0 && factor < static_cast<int>(operation.rule.factors.size()),
                operation.name + " has a rule with a factor that there is not");
      require(tensors[t][dim].empty() || operation.rule.size_of(tensors[t][dim]) == value.shape[dim],
              operation.name + " has a rule that does not fit dimension " + std::to_string(dim) + " of " + value.name);
    }
  }
}

std::string place(const Program& program, const Annotation& annotation) {
  const std::string label = annotation.label.empty() ? "" : " (" + annotation.label + ")";
  return "dimension " + std::to_string(annotation.dim) + " of " + program.values[annotation.value].name + label;
}

}  // namespace

void check_program(const Program& program) {
  for (const Axis& axis : program.mesh)
    require(axis.size >= 1, "axis " + axis.name + " of the mesh has size " + std::to_string(axis.size));
  for (const Operation& operation : program.operations) {
    check_tensors(program, operation, operation.operands, operation.rule.operands);
    check_tensors(program, operation, operation.results, operation.rule.results);
  }
}

void check_annotations(const Program& program, const std::vector<Annotation>& annotations) {
  for (const Annotation& one : annotations) {
    require(one.value >= 0 && one.value < static_cast<int>(program.values.size()),
            "an annotation names a value that there is not");
    const auto dims = static_cast<int>(program.values[one.value].shape.size());
    require(one.dim >= 0 && one.dim < dims, place(program, one) + " is not there: it has " + std::to_string(dims));
    require(!program.values[one.value].is_free || one.axes.empty(),
            place(program, one) + " cannot be divided: the batch determines it, so every rank has it whole");
    for (int axis : one.axes) {
      require(axis >= 0 && axis < static_cast<int>(program.mesh.size()),
              place(program, one) + " is to lie on an axis that the mesh has not");
      require(std::count(one.axes.begin(), one.axes.end(), axis) == 1,
              place(program, one) + " is to lie on axis " + program.mesh[axis].name + " twice");
    }
  }
  for (std::size_t i = 0; i < annotations.size(); ++i)
    for (std::size_t j = i + 1; j < annotations.size(); ++j) {
      const Annotation &one = annotations[i], &other = annotations[j];
      if (one.value != other.value || one.priority != other.priority) continue;
      const bool same_dim = one.dim == other.dim;
      require(!same_dim || one.axes == other.axes,
              place(program, one) + " and " + place(program, other) + " contradict each other");
      for (int axis : one.axes)
        require(same_dim || std::count(other.axes.begin(), other.axes.end(), axis) == 0,
                place(program, one) + " and " + place(program, other) + " both ask for axis " +
                    program.mesh[axis].name + ", which can divide only one of them");
    }
}

Layout undivided(const Shape& shape) {
  Layout layout;
  for (std::int64_t size : shape) layout.push_back(size == 1 ? Pieces{} : Pieces{{size, {}}});
  return layout;
}

std::vector<Part> parts_of(const Rule& rule, const DimFactors& factors) {
  std::vector<Part> parts;
  for (int factor : factors)
    parts.push_back({rule.factors[factor].size, rule.factors[factor].kind != FactorKind::kReplicate});
  return parts;
}

}  // namespace merak::sharding
