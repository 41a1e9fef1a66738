// Operations along dimensions of which an element of the result needs what lies around it in the operand.

#include <algorithm>

#include "sharding/forms.h"

namespace merak::sharding {

// Channels in, channels out, and what is convolved along.
void convolution(RuleBuilder& b) {
  if (b.dims(0) != b.dims(1)) return replicated(b);  // without rows
  const bool one_group = b.call().arg("groups", 1) == 1;
  const int rows = b.factor(b.size(0, 0));
  b.operand(0, 0, rows);
  b.result(0, 0, rows);
  const int outer = b.factor(b.size(1, 0), one_group ? FactorKind::kPass : FactorKind::kReplicate);
  b.operand(1, 0, outer);
  b.result(0, 1, outer);
  if (b.call().operands.size() > 2 && b.dims(2) == 1) {
    b.operand(2, 0, outer);
    b.rule().added = 2;
  }
  if (one_group) {
    const int inner = b.factor(b.size(0, 1), FactorKind::kReduce);
    b.operand(0, 1, inner);
    b.operand(1, 1, inner);
  } else {
    b.replicate_operand(0, 1);
    b.replicate_operand(1, 1);
  }
  for (int dim = 2; dim < b.dims(0); ++dim) {
    const std::int64_t reach = b.call().item("dilation", dim - 2, 1) * (b.size(1, dim) - 1);
    const std::int64_t before = b.call().has("padding=same") ? reach / 2 : b.call().item("padding", dim - 2, 0);
    b.window(0, dim, dim, {b.call().item("stride", dim - 2, 1), before, reach + 1});
    b.replicate_operand(1, dim);
  }
}

// Along the last dimensions, as many as the operation's name says.
void pool(RuleBuilder& b) {
  const std::size_t digit = b.call().name.find_first_of("123");
  const int first = b.dims(0) - (b.call().name.at(digit) - '0');
  const bool is_mean = b.call().name.rfind("avg", 0) == 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int i = dim - first;
    if (i < 0) {
      const int factor = b.factor(b.size(0, dim));
      b.operand(0, dim, factor);
      b.result(0, dim, factor);
      continue;
    }
    const std::int64_t kernel = b.call().item("kernel_size", i, 0), before = b.call().item("padding", i, 0);
    // Means at the edges may be of fewer elements than others.
    const bool is_uneven =
        is_mean && (b.call().arg("ceil_mode", 0) != 0 || (before > 0 && b.call().arg("count_include_pad", 1) == 0));
    if (kernel == 0 || is_uneven) {
      b.replicate_operand(0, dim);
      b.replicate_result(0, dim);
      continue;
    }
    const std::int64_t reach = b.call().item("dilation", i, 1) * (kernel - 1);
    b.window(0, dim, dim, {b.call().item("stride", i, kernel), before, reach + 1});
  }
}

// Each element of the last dimensions becomes several; by a factor that is exact in floating point, in which the
// operation looks for the nearest.
void enlarged(RuleBuilder& b) {
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const std::int64_t in = b.size(0, dim), out = b.call().results[0].at(dim);
    const std::int64_t times = dim < 2 ? 1 : b.call().item("scale_factors", dim - 2, 0);
    if (in * times != out || (times & (times - 1)) != 0) {
      b.replicate_operand(0, dim);
      b.replicate_result(0, dim);
      continue;
    }
    const int factor = b.factor(in);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    b.result(0, dim, b.factor(times, FactorKind::kReplicate));
  }
}

// One operand, and for each dimension where its elements come from.
template <typename Where>
static void moved_along(RuleBuilder& b, Where where) {
  b.rule().elementwise = true;
  for (int dim = 0; dim < b.dims(0); ++dim) b.window(0, dim, dim, where(dim));
}

static void part_of(RuleBuilder& b, std::int64_t step) {
  const int along = b.call().dim("dim", b.dims(0), 0);
  std::int64_t start = b.call().arg("start", 0);
  if (b.varies(start)) return replicated(b);
  start = std::clamp<std::int64_t>(start < 0 ? start + b.size(0, along) : start, 0, b.size(0, along));
  moved_along(b, [&](int dim) { return dim == along ? Window{step, -start} : Window{}; });
}

void slice(RuleBuilder& b) { part_of(b, b.call().arg("step", 1)); }
void narrow(RuleBuilder& b) { part_of(b, 1); }

void padded(RuleBuilder& b) {  // with a constant; in `pad` the last dimension comes first
  if (b.call().name == "pad" && !b.call().has("mode=constant")) return replicated(b);
  const std::vector<std::int64_t>& pads = b.call().args.at("pad");
  if (std::any_of(pads.begin(), pads.end(), [&](std::int64_t pad) { return b.varies(pad); })) return replicated(b);
  moved_along(b, [&](int dim) {
    const std::size_t at = 2 * static_cast<std::size_t>(b.dims(0) - 1 - dim);
    return at < pads.size() ? Window{1, pads[at]} : Window{};
  });
}

void joined(RuleBuilder& b) {  // operands one behind the other
  const std::vector<Shape>& operands = b.call().operands;
  const Shape& result = b.call().results[0];
  const auto all = [&](auto holds) { return std::all_of(operands.begin(), operands.end(), holds); };
  const int along = b.call().dim("dim", static_cast<int>(result.size()), 0);
  b.rule().elementwise = true;
  for (int dim = 0; dim < static_cast<int>(result.size()); ++dim) {
    const bool fits =
        all([&](const Shape& shape) { return dim == along ? !b.varies(shape.at(dim)) : shape.at(dim) == result[dim]; });
    const int factor = b.factor(result[dim], fits ? FactorKind::kPass : FactorKind::kReplicate);
    if (!fits || dim != along) b.result(0, dim, factor);
    std::int64_t offset = 0;
    for (int tensor = 0; tensor < static_cast<int>(operands.size()); ++tensor) {
      const std::int64_t size = b.size(tensor, dim);
      if (!fits) b.replicate_operand(tensor, dim);
      if (fits && dim != along) b.operand(tensor, dim, factor);
      if (fits && dim == along && size > 0) b.window(tensor, dim, dim, {1, offset});
      offset += size;
    }
  }
}

void roll(RuleBuilder& b) {
  const std::vector<int> dims = b.call().dims("dims", b.dims(0));
  const std::vector<std::int64_t>& shifts = b.call().args.at("shifts");
  const bool varies = std::any_of(shifts.begin(), shifts.end(), [&](std::int64_t shift) { return b.varies(shift); });
  if (dims.empty() || varies) return replicated(b);  // without dimensions, all of them are one
  moved_along(b, [&](int dim) {
    std::int64_t shift = 0;
    for (std::size_t i = 0; i < dims.size(); ++i)
      if (dims[i] == dim) shift += shifts.at(i);
    shift = b.size(0, dim) > 0 ? shift % b.size(0, dim) : 0;
    return Window{1, shift, 1, shift != 0};
  });
}

void flip(RuleBuilder& b) {
  const std::vector<int> dims = b.call().dims("dims", b.dims(0));
  moved_along(b, [&](int dim) {
    const bool is_flipped = std::find(dims.begin(), dims.end(), dim) != dims.end();
    return is_flipped ? Window{-1, 1 - b.size(0, dim)} : Window{};
  });
}

}  // namespace merak::sharding
