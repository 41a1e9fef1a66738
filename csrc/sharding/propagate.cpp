#include "sharding/propagate.h"

#include <algorithm>
#include <optional>
#include <set>
#include <tuple>

#include "sharding/borders.h"

namespace merak::sharding {
namespace {

constexpr int kLevels = 4;  // elementwise; passing factors; all factors; from what is broadcast

struct Proposal {
  int value = 0, dim = 0;
  Pieces pieces;
  double weight = 0;  // bytes of the tensor that it comes from
  int annotation = -1, operation = -1;
};

bool begins_with(const Axes& axes, const Axes& prefix) {
  return prefix.size() <= axes.size() && std::equal(prefix.begin(), prefix.end(), axes.begin());
}

// Whether two layouts of a dimension are alike up to a divided piece, whose units one has several of in each of its
// own: of 8 x 8 elements, say, 4 times 16 and not 8 times 8.
bool has_larger_units(const Pieces& one, const Pieces& other) {
  const auto [mine, theirs] = std::mismatch(one.begin(), one.end(), other.begin(), other.end());
  return mine != one.end() && theirs != other.end() && !mine->axes.empty() && mine->axes == theirs->axes &&
         mine->size < theirs->size && theirs->size % mine->size == 0;
}

// Whether a layout of a dimension says more than another: more axes, or the same cut into more pieces or larger units.
bool is_more(const Pieces& one, const Pieces& other) {
  const Axes axes = axes_of(one), others = axes_of(other);
  if (!begins_with(axes, others)) return false;
  if (axes.size() > others.size()) return true;
  return !axes.empty() && (one.size() > other.size() || (one.size() == other.size() && has_larger_units(one, other)));
}

class Propagation {
 public:
  Propagation(const Program& program, const std::vector<Annotation>& annotations)
      : program_(program), annotations_(annotations), users_(program.values.size()) {
    for (const Value& value : program.values) {
      result_.layouts.push_back(undivided(value.shape));
      result_.annotations.emplace_back(value.shape.size(), -1);
      result_.operations.emplace_back(value.shape.size(), -1);
      closed_.emplace_back(value.shape.size(), value.is_free || value.is_whole);
    }
    for (int o = 0; o < static_cast<int>(program.operations.size()); ++o)
      for (const auto* tensors : {&program.operations[o].operands, &program.operations[o].results})
        for (int value : *tensors)
          if (value >= 0) users_[value].insert(o);
  }

  Completed run() {
    std::set<int> priorities;
    for (const Annotation& one : annotations_) priorities.insert(one.priority);
    for (bool spreads : {true, false}) {
      for (int priority : priorities) {
        touched_.clear();
        for (int i = 0; i < static_cast<int>(annotations_.size()); ++i)
          if (annotations_[i].priority == priority && annotations_[i].spreads == spreads) install(i);
        for (level_ = 0; spreads && level_ < kLevels; ++level_) spread();
      }
      if (spreads) result_.wanted = result_.layouts;
    }
    return std::move(result_);
  }

 private:
  void install(int number) {
    const Annotation& one = annotations_[number];
    const Value& value = program_.values[one.value];
    Pieces& pieces = result_.layouts[one.value][one.dim];
    if (!begins_with(axes_of(pieces), one.axes)) {
      const Pieces wanted = canonical({{value.shape[one.dim], one.axes}}, program_.mesh);
      if (closed_[one.value][one.dim] || !begins_with(one.axes, axes_of(pieces)) ||
          !are_free(one.value, one.dim, one.axes)) {
        result_.not_followed.push_back(number);
        return;
      }
      pieces = wanted;
      result_.annotations[one.value][one.dim] = number;
    } else if (one.axes.empty() && !axes_of(pieces).empty()) {
      result_.not_followed.push_back(number);
      return;
    }
    if (result_.annotations[one.value][one.dim] < 0) result_.annotations[one.value][one.dim] = number;
    if (one.closed) closed_[one.value][one.dim] = true;
    touched_.insert(users_[one.value].begin(), users_[one.value].end());
  }

  // Whether no other dimension of the value lies on any of these axes.
  bool are_free(int value, int dim, const Axes& axes) const {
    const Layout& layout = result_.layouts[value];
    for (int other = 0; other < static_cast<int>(layout.size()); ++other)
      for (int axis : axes_of(layout[other]))
        if (other != dim && std::count(axes.begin(), axes.end(), axis)) return false;
    return true;
  }

  // Operations none of whose tensors has changed in this round have settled in an earlier one, at every level.
  void spread() {
    std::set<int> dirty = touched_;
    while (!dirty.empty()) {
      std::vector<Proposal> proposals;
      for (int operation : dirty) propose(operation, proposals);
      std::stable_sort(proposals.begin(), proposals.end(), [&](const Proposal& a, const Proposal& b) {
        return std::make_tuple(-a.weight, program_.values[a.value].name, a.dim, axes_of(a.pieces)) <
               std::make_tuple(-b.weight, program_.values[b.value].name, b.dim, axes_of(b.pieces));
      });
      dirty.clear();
      for (const Proposal& proposal : proposals)
        if (take(proposal)) dirty.insert(users_[proposal.value].begin(), users_[proposal.value].end());
      touched_.insert(dirty.begin(), dirty.end());
    }
  }

  bool take(const Proposal& proposal) {
    Pieces& pieces = result_.layouts[proposal.value][proposal.dim];
    if (!is_more(proposal.pieces, pieces) || !are_free(proposal.value, proposal.dim, axes_of(proposal.pieces)))
      return false;
    const bool only_cut = axes_of(pieces).size() == axes_of(proposal.pieces).size();
    if (closed_[proposal.value][proposal.dim] && !only_cut) return false;
    pieces = proposal.pieces;
    if (!only_cut) {
      result_.annotations[proposal.value][proposal.dim] = proposal.annotation;
      result_.operations[proposal.value][proposal.dim] = proposal.operation;
    }
    return true;
  }

  // What one tensor of an operation says of a factor.
  struct Opinion {
    Pieces pieces;
    double weight = 0;
    std::string name;
    int annotation = -1;
  };

  void propose(int number, std::vector<Proposal>& proposals) {
    const Operation& operation = program_.operations[number];
    if (level_ == 0 && !operation.rule.elementwise) return;
    std::vector<std::optional<Opinion>> merged(operation.rule.factors.size());
    for_each_tensor(operation, [&](int value, const TensorFactors& dims, bool is_operand) {
      if (is_operand && level_ < kLevels - 1 && is_broadcast(operation, dims)) return;
      collect(operation, value, dims, merged);
    });
    pass_through_windows(operation.rule, merged);
    for_each_tensor(operation, [&](int value, const TensorFactors& dims, bool) {
      for (int dim = 0; dim < static_cast<int>(dims.size()); ++dim) {
        Proposal proposal{.value = value, .dim = dim, .pieces = {}, .operation = number};
        if (proposes(operation, dims[dim], merged, proposal)) proposals.push_back(std::move(proposal));
      }
    });
  }

  template <typename Visit>
  void for_each_tensor(const Operation& operation, Visit visit) const {
    for (std::size_t t = 0; t < operation.results.size(); ++t)
      if (operation.results[t] >= 0) visit(operation.results[t], operation.rule.results[t], false);
    for (std::size_t t = 0; t < operation.operands.size(); ++t)
      if (operation.operands[t] >= 0 && !program_.values[operation.operands[t]].is_free)
        visit(operation.operands[t], operation.rule.operands[t], true);
  }

  static bool is_broadcast(const Operation& operation, const TensorFactors& dims) {
    if (!operation.rule.elementwise) return false;
    std::size_t in_operand = 0, in_result = 0;
    for (const DimFactors& factors : dims) in_operand += factors.size();
    for (const DimFactors& factors : operation.rule.results[0]) in_result += factors.size();
    return in_operand < in_result;
  }

  void collect(const Operation& operation, int value, const TensorFactors& dims,
               std::vector<std::optional<Opinion>>& merged) const {
    for (std::size_t dim = 0; dim < dims.size(); ++dim) {
      const Pieces& pieces = result_.layouts[value][dim];
      if (axes_of(pieces).empty() || dims[dim].empty()) continue;
      const auto factors = split(pieces, parts_of(operation.rule, dims[dim]), program_.mesh);
      if (!factors) continue;
      for (std::size_t i = 0; i < factors->size(); ++i) {
        const int factor = dims[dim][i];
        if (axes_of((*factors)[i]).empty() || !spreads(operation.rule.factors[factor].kind)) continue;
        const Value& from = program_.values[value];
        Opinion opinion{(*factors)[i], from.bytes, from.name, result_.annotations[value][dim]};
        std::optional<Opinion>& known = merged[factor];
        if (!known || is_better(opinion, *known)) known = std::move(opinion);
      }
    }
  }

  // What is said of one dimension of a window goes for the other, in chunks of its own size.
  static void pass_through_windows(const Rule& rule, std::vector<std::optional<Opinion>>& merged) {
    for (bool forward : {true, false})
      for (const Window& window : rule.windows) {
        const int from = forward ? window.from : window.to, to = forward ? window.to : window.from;
        if (!merged[from] || !is_in_chunks(merged[from]->pieces) || rule.factors[to].size <= 1) continue;
        Opinion opinion = *merged[from];
        opinion.pieces = {{rule.factors[to].size, axes_of(opinion.pieces)}};
        if (!merged[to] || is_better(opinion, *merged[to])) merged[to] = std::move(opinion);
      }
  }

  bool spreads(FactorKind kind) const {
    return kind == FactorKind::kPass || (kind != FactorKind::kReplicate && level_ >= 2);
  }

  // One that says more of the same; else that of the larger tensor.
  static bool is_better(const Opinion& one, const Opinion& other) {
    if (is_more(one.pieces, other.pieces)) return true;
    if (is_more(other.pieces, one.pieces)) return false;
    return std::make_tuple(-one.weight, one.name) < std::make_tuple(-other.weight, other.name);
  }

  bool proposes(const Operation& operation, const DimFactors& factors,
                const std::vector<std::optional<Opinion>>& merged, Proposal& proposal) const {
    const Pieces& now = result_.layouts[proposal.value][proposal.dim];
    const auto own = split(now, parts_of(operation.rule, factors), program_.mesh);
    if (factors.empty() || !own) return false;
    std::vector<Pieces> wanted = *own;
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const std::optional<Opinion>& opinion = merged[factors[i]];
      if (!opinion || !is_more(opinion->pieces, wanted[i])) continue;
      wanted[i] = opinion->pieces;
      proposal.weight = std::max(proposal.weight, opinion->weight);
      proposal.annotation = opinion->annotation;
    }
    proposal.pieces = join(wanted, program_.mesh);
    return is_more(proposal.pieces, now);
  }

  const Program& program_;
  const std::vector<Annotation>& annotations_;
  std::vector<std::set<int>> users_;       // by value: operations that make or take it
  std::vector<std::vector<bool>> closed_;  // by value and dimension
  Completed result_;
  int level_ = 0;
  std::set<int> touched_;  // operations to look at in this round
};

}  // namespace

Completed propagate(const Program& program, const std::vector<Annotation>& annotations) {
  check_program(program);
  check_annotations(program, annotations);
  return Propagation(program, annotations).run();
}

}  // namespace merak::sharding
