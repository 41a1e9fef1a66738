#include "sharding/assign.h"

#include <algorithm>
#include <utility>

namespace merak::sharding {
namespace {

bool overlap(const Axes& one, const Axes& other) {
  return std::any_of(one.begin(), one.end(),
                     [&](int axis) { return std::find(other.begin(), other.end(), axis) != other.end(); });
}

class Assigning {
 public:
  Assigning(const Program& program, const Operation& operation, const std::vector<Layout>& layouts,
            const std::vector<Layout>& wanted)
      : program_(program), operation_(operation), rule_(operation.rule), layouts_(layouts), wanted_(wanted) {
    // The result first, then the operands: whose layout a way may begin with.
    for (std::size_t t = 0; t < operation.results.size(); ++t)
      if (operation.results[t] >= 0) tensors_.push_back({operation.results[t], &rule_.results[t]});
    for (std::size_t t = 0; t < operation.operands.size(); ++t)
      if (operation.operands[t] >= 0 && !value(operation.operands[t]).is_free)
        tensors_.push_back({operation.operands[t], &rule_.operands[t]});
  }

  Assigned best() const {
    Assigned best = with(std::vector<Pieces>(undivided_factors()));
    std::pair<double, double> least = cost(best);
    for (std::size_t leader = 0; leader < tensors_.size(); ++leader)
      for (bool completed : {true, false}) {
        std::vector<Pieces> factors = undivided_factors();
        take(tensors_[leader], factors);
        for (std::size_t other = 0; completed && other < tensors_.size(); ++other) take(tensors_[other], factors);
        divide_routed_rows(factors);
        Assigned way = with(std::move(factors));
        const std::pair<double, double> of_way = cost(way);
        if (of_way < least) best = std::move(way), least = of_way;
      }
    return best;
  }

 private:
  struct Tensor {
    int value;
    const TensorFactors* dims;
  };

  const Value& value(int number) const { return program_.values[number]; }

  std::vector<Pieces> undivided_factors() const {
    std::vector<Pieces> factors;
    for (const Factor& factor : rule_.factors) factors.push_back({{factor.size, {}}});
    return factors;
  }

  // Divides the factors that are not yet divided as a tensor's layout does, as far as that is possible.
  void take(const Tensor& tensor, std::vector<Pieces>& factors) const {
    for (std::size_t dim = 0; dim < tensor.dims->size(); ++dim) {
      const DimFactors& of_dim = (*tensor.dims)[dim];
      const Pieces& pieces = wanted_[tensor.value][dim];
      if (of_dim.empty() || axes_of(pieces).empty()) continue;
      const auto parts = split(pieces, parts_of(rule_, of_dim), program_.mesh);
      if (!parts) continue;
      for (std::size_t i = 0; i < of_dim.size(); ++i) {
        const Axes axes = axes_of((*parts)[i]);
        const FactorKind kind = rule_.factors[of_dim[i]].kind;
        if (axes.empty() || kind == FactorKind::kReplicate) continue;
        if (kind == FactorKind::kWindow && !is_in_chunks((*parts)[i])) continue;
        if (is_used(axes, of_dim[i], factors) || !axes_of(factors[of_dim[i]]).empty()) continue;
        factors[of_dim[i]] = (*parts)[i];
        if (kind == FactorKind::kWindow) take_tied(of_dim[i], factors);
      }
    }
  }

  // Whether a factor other than this one lies on any of the axes, in whose way it would be.
  bool is_used(const Axes& axes, int factor, const std::vector<Pieces>& factors) const {
    for (int other = 0; other < static_cast<int>(factors.size()); ++other)
      if (overlap(axes_of(factors[other]), axes) && !is_routed_there(factor, other)) return true;
    return false;
  }

  bool is_routed_there(int one, int other) const {
    const auto is_routed = [&](int factor) { return rule_.factors[factor].kind == FactorKind::kRouted; };
    return (is_routed(one) && other == rule_.routes) || (is_routed(other) && one == rule_.routes);
  }

  // Ranks that have some experts each have some rows each, so that none is computed twice.
  void divide_routed_rows(std::vector<Pieces>& factors) const {
    if (rule_.routes < 0) return;
    Pieces& rows = factors[rule_.routes];
    for (std::size_t f = 0; f < factors.size(); ++f)
      if (rule_.factors[f].kind == FactorKind::kRouted)
        for (int axis : axes_of(factors[f]))
          if (!overlap(axes_of(rows), {axis})) rows.back().axes.push_back(axis);
  }

  // The other dimensions of a factor's windows are divided over its axis, each in chunks of its own.
  void take_tied(int factor, std::vector<Pieces>& factors) const {
    const Axes axes = axes_of(factors[factor]);
    int to = factor;
    for (const Window& window : rule_.windows)
      if (window.from == factor) to = window.to;
    for (const Window& window : rule_.windows) {
      if (window.to != to) continue;
      if (to != factor) factors[to] = own_chunks(operation_.results[0], window.result_dim, axes, to);
      if (window.from != factor && rule_.factors[window.from].size > 1)
        factors[window.from] = own_chunks(operation_.operands[window.operand], window.dim, axes, window.from);
    }
  }

  // As the value is kept, if that is over these axes.
  Pieces own_chunks(int number, int dim, const Axes& axes, int factor) const {
    const Pieces plain = {{rule_.factors[factor].size, axes}};
    if (number < 0) return plain;
    const Pieces& pieces = wanted_[number][dim];
    return is_in_chunks(pieces) && axes_of(pieces) == axes ? pieces : plain;
  }

  Layout layout_of(const TensorFactors& dims, const Shape& shape, const std::vector<Pieces>& factors) const {
    Layout layout;
    for (std::size_t dim = 0; dim < dims.size(); ++dim) {
      std::vector<Pieces> parts;
      for (int factor : dims[dim]) parts.push_back(factors[factor]);
      layout.push_back(dims[dim].empty() ? undivided({shape[dim]})[0] : join(parts, program_.mesh));
    }
    return layout;
  }

  Assigned with(std::vector<Pieces> factors) const {
    Assigned way;
    Axes partial;
    for (std::size_t f = 0; f < factors.size(); ++f) {
      if (is_operands_only(static_cast<int>(f))) continue;
      const Axes axes = axes_of(factors[f]);
      way.divided.insert(way.divided.end(), axes.begin(), axes.end());
      const FactorKind kind = rule_.factors[f].kind;
      if (kind == FactorKind::kReduce || kind == FactorKind::kPartial)
        partial.insert(partial.end(), axes.begin(), axes.end());
      if ((kind == FactorKind::kInside || kind == FactorKind::kRouted) && !axes.empty())
        way.inside.push_back(static_cast<int>(f));
    }
    std::sort(way.divided.begin(), way.divided.end());
    way.divided.erase(std::unique(way.divided.begin(), way.divided.end()), way.divided.end());
    for (std::size_t t = 0; t < operation_.operands.size(); ++t) {
      const int number = operation_.operands[t];
      if (number < 0) {
        way.operands.emplace_back();
        way.before.emplace_back();
        continue;
      }
      const bool is_added_later = static_cast<int>(t) == rule_.added && !partial.empty();
      const std::vector<Pieces> of_operand = is_added_later ? factors_of_result() : factors_of_operand(t, factors);
      way.operands.push_back(layout_of(rule_.operands[t], value(number).shape, of_operand));
      way.before.push_back(steps_between(program_.mesh, {layouts_[number]}, {way.operands.back()},
                                         varying(is_added_later ? axes_of_result() : way.divided, way.operands.back()),
                                         value(number).bytes, value(number).has_gradient));
      add_borders(t, of_operand, way);
    }
    for (std::size_t t = 0; t < operation_.results.size(); ++t) {
      const int number = operation_.results[t];
      way.results.push_back(
          {number < 0 ? Layout{} : layout_of(rule_.results[t], value(number).shape, factors), partial});
      way.after.emplace_back();
      if (number >= 0)
        way.after.back() = steps_between(program_.mesh, way.results.back(), {layouts_[number]}, {}, value(number).bytes,
                                         value(number).has_gradient);
    }
    way.factors = std::move(factors);
    return way;
  }

  // The axes of a window are counted with its result.
  bool is_operands_only(int factor) const {
    return std::any_of(rule_.windows.begin(), rule_.windows.end(),
                       [&](const Window& window) { return window.from == factor; });
  }

  // What is whole, and has no gradient, stays so for windows: a rank finds its interval there.
  std::vector<Pieces> factors_of_operand(std::size_t t, std::vector<Pieces> factors) const {
    for (const Window& window : rule_.windows) {
      if (window.operand != static_cast<int>(t)) continue;
      const int number = operation_.operands[t];
      if (!value(number).has_gradient && axes_of(layouts_[number][window.dim]).empty())
        factors[window.from] = undivided_factors()[window.from];
    }
    return factors;
  }

  // The steps behind all others that give a rank the intervals of its windows.
  void add_borders(std::size_t t, const std::vector<Pieces>& factors, Assigned& way) const {
    for (const Window& window : rule_.windows) {
      const Axes axes = axes_of(factors[window.to]);
      if (window.operand != static_cast<int>(t) || axes.empty()) continue;
      const Pieces& from = factors[window.from];
      Borders borders = borders_of(window, from, factors[window.to], program_.mesh);
      way.windows.push_back({window, axes.front(), borders});
      if (!is_exchanged(borders)) continue;
      Step step{.kind = StepKind::kInterval, .axes = axes, .dim = window.dim};
      if (!axes_of(from).empty()) {
        const double each = bytes_of_element(way.operands[t], window, operation_.operands[t]);
        step.kind = StepKind::kBorders;
        step.bytes = each * static_cast<double>(most_sent(borders));
        if (value(operation_.operands[t]).has_gradient)
          step.backward_bytes = each * static_cast<double>(most_received(borders));
      }
      step.borders = std::move(borders);
      way.before[t].push_back(std::move(step));
    }
  }

  // Of a rank's part, those that are one element of a window's dimension.
  double bytes_of_element(const Layout& layout, const Window& window, int number) const {
    double bytes = value(number).bytes / static_cast<double>(rule_.factors[window.from].size);
    for (std::size_t dim = 0; dim < layout.size(); ++dim)
      if (static_cast<int>(dim) != window.dim) bytes /= ranks_along(program_.mesh, axes_of(layout[dim]));
    return bytes;
  }

  // Of the result as it is kept, when its sum is complete: what is added then has to be laid out like it.
  std::vector<Pieces> factors_of_result() const {
    std::vector<Pieces> factors = undivided_factors();
    take({operation_.results[0], &rule_.results[0]}, factors);
    return factors;
  }

  Axes axes_of_result() const {
    Axes all;
    for (const Pieces& pieces : layouts_[operation_.results[0]]) {
      const Axes axes = axes_of(pieces);
      all.insert(all.end(), axes.begin(), axes.end());
    }
    return all;
  }

  // The axes over which the operation is divided and an operand is not.
  static Axes varying(const Axes& divided, const Layout& layout) {
    Axes axes;
    for (int axis : divided)
      if (std::none_of(layout.begin(), layout.end(),
                       [&](const Pieces& pieces) { return overlap(axes_of(pieces), {axis}); }))
        axes.push_back(axis);
    return axes;
  }

  static double bytes_moved(const Assigned& way) {
    double bytes = 0;
    for (const auto* tensors : {&way.before, &way.after})
      for (const std::vector<Step>& steps : *tensors) bytes += bytes_of(steps);
    return bytes;
  }

  std::pair<double, double> cost(const Assigned& way) const {
    const double bytes = bytes_moved(way), share = work(way);
    return rule_.is_product() ? std::pair{share, bytes} : std::pair{bytes, share};
  }

  // The share of the work that a rank does.
  double work(const Assigned& way) const { return 1.0 / ranks_along(program_.mesh, way.divided); }

  const Program& program_;
  const Operation& operation_;
  const Rule& rule_;
  const std::vector<Layout>&layouts_, &wanted_;
  std::vector<Tensor> tensors_;
};

}  // namespace

std::vector<Assigned> assign(const Program& program, const std::vector<Layout>& layouts,
                             const std::vector<Layout>& wanted) {
  std::vector<Assigned> all;
  for (const Operation& operation : program.operations)
    all.push_back(Assigning(program, operation, layouts, wanted).best());
  return all;
}

}  // namespace merak::sharding
