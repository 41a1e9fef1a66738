#include "sharding/sandwich.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

namespace merak::sharding {
namespace {

// What a search has met.
struct Followed {
  bool is_blocked = false, meets_loss = false;
  std::set<int> contractions;  // operations
};

class Search {
 public:
  Search(const Program& program, int axis) : program_(program), axis_(axis) {}

  // From a dimension of an operation's result on.
  Followed follow(int first, int value, int dim) {
    reached_.clear();
    Layout layout = undivided(program_.values[value].shape);
    layout[dim] = {{program_.values[value].shape[dim], {axis_}}};
    reached_[value] = layout;
    Followed followed;
    for (int o = first + 1; o < static_cast<int>(program_.operations.size()) && !followed.is_blocked; ++o)
      pass(o, followed);
    return followed;
  }

 private:
  void pass(int number, Followed& followed) {
    const Operation& operation = program_.operations[number];
    std::map<int, Pieces> divided;
    for (std::size_t t = 0; t < operation.operands.size(); ++t) {
      const auto at = reached_.find(operation.operands[t]);
      if (at == reached_.end()) continue;
      if (!collect(operation, operation.rule.operands[t], at->second, divided)) followed.is_blocked = true;
    }
    if (divided.empty() || followed.is_blocked) return;
    for (const auto& [factor, pieces] : divided) meet(number, factor, followed);
    if (!followed.is_blocked) hand_on(operation, divided);
  }

  // Which factors the axis divides; false if that cannot be said.
  bool collect(const Operation& operation, const TensorFactors& dims, const Layout& layout,
               std::map<int, Pieces>& divided) const {
    for (std::size_t dim = 0; dim < dims.size(); ++dim) {
      if (axes_of(layout[dim]).empty()) continue;
      const auto parts = split(layout[dim], parts_of(operation.rule, dims[dim]), program_.mesh);
      if (!parts) return false;
      for (std::size_t i = 0; i < parts->size(); ++i)
        if (!axes_of((*parts)[i]).empty()) divided[dims[dim][i]] = (*parts)[i];
    }
    return divided.size() <= 1;
  }

  void meet(int number, int factor, Followed& followed) const {
    const Operation& operation = program_.operations[number];
    const FactorKind kind = operation.rule.factors[factor].kind;
    if (kind == FactorKind::kPass) return;
    if (kind == FactorKind::kInside) {
      followed.meets_loss = true;
    } else if (kind == FactorKind::kReduce && has_parameter_with(operation, factor)) {
      followed.contractions.insert(number);
    } else {
      followed.is_blocked = true;
    }
  }

  bool has_parameter_with(const Operation& operation, int factor) const {
    for (std::size_t t = 0; t < operation.operands.size(); ++t) {
      if (operation.operands[t] < 0 || !program_.values[operation.operands[t]].is_parameter) continue;
      for (const DimFactors& factors : operation.rule.operands[t])
        if (std::count(factors.begin(), factors.end(), factor)) return true;
    }
    return false;
  }

  void hand_on(const Operation& operation, const std::map<int, Pieces>& divided) {
    for (std::size_t t = 0; t < operation.results.size(); ++t) {
      if (operation.results[t] < 0) continue;
      const Shape& shape = program_.values[operation.results[t]].shape;
      Layout layout = undivided(shape);
      bool any = false;
      for (std::size_t dim = 0; dim < shape.size(); ++dim) {
        std::vector<Pieces> parts;
        for (int factor : operation.rule.results[t][dim]) {
          const auto at = divided.find(factor);
          any = any || at != divided.end();
          parts.push_back(at != divided.end() ? at->second : Pieces{{operation.rule.factors[factor].size, {}}});
        }
        if (!parts.empty()) layout[dim] = join(parts, program_.mesh);
      }
      if (any) reached_[operation.results[t]] = layout;
    }
  }

  const Program& program_;
  int axis_;
  std::map<int, Layout> reached_;
};

// The parameter of a product whose dimension becomes that of the result; nothing if there is none.
std::optional<Sandwich> columns_of(const Program& program, const Operation& operation, int& result_dim) {
  if (operation.results.size() != 1 || operation.results[0] < 0 || operation.rule.elementwise) return std::nullopt;
  if (!operation.rule.is_product()) return std::nullopt;
  for (std::size_t t = 0; t < operation.operands.size(); ++t) {
    const int number = operation.operands[t];
    if (number < 0 || !program.values[number].is_parameter || program.values[number].shape.size() < 2) continue;
    const TensorFactors& dims = operation.rule.operands[t];
    for (std::size_t dim = 0; dim < dims.size(); ++dim) {
      if (dims[dim].size() != 1 || operation.rule.factors[dims[dim][0]].kind != FactorKind::kPass) continue;
      const TensorFactors& result = operation.rule.results[0];
      for (std::size_t to = 0; to < result.size(); ++to)
        if (result[to] == dims[dim]) {
          result_dim = static_cast<int>(to);
          return Sandwich{number, static_cast<int>(dim)};
        }
    }
  }
  return std::nullopt;
}

}  // namespace

std::vector<Sandwich> find_sandwiches(const Program& program, int axis) {
  struct Candidate {
    int operation;
    Sandwich columns;
    Followed followed;
  };
  std::vector<Candidate> candidates;
  std::set<int> scoring, contracted;  // products that make scores, and those that an earlier sandwich ends in
  Search search(program, axis);
  for (int o = 0; o < static_cast<int>(program.operations.size()); ++o) {
    int result_dim = 0;
    auto columns = columns_of(program, program.operations[o], result_dim);
    if (!columns) continue;
    Followed followed = search.follow(o, program.operations[o].results[0], result_dim);
    if (followed.is_blocked || (followed.contractions.empty() && !followed.meets_loss)) continue;
    columns->is_vocabulary = followed.contractions.empty();
    if (columns->is_vocabulary) scoring.insert(o);
    candidates.push_back({o, *columns, std::move(followed)});
  }
  std::vector<Sandwich> found;
  for (const auto& [operation, columns, followed] : candidates) {
    const std::set<int>& ends = followed.contractions;
    // What makes scores is divided by words, and so not by what it sums over.
    const bool ends_in_scores = std::any_of(ends.begin(), ends.end(), [&](int end) { return scoring.count(end) > 0; });
    if (contracted.count(operation) || ends_in_scores) continue;
    contracted.insert(ends.begin(), ends.end());
    found.push_back(columns);
  }
  return found;
}

}  // namespace merak::sharding
