// The rules of PyTorch's operations, a line each: its name, and which of the forms below it has.

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "sharding/rule_builder.h"

namespace merak::sharding {
namespace {

using Form = void (*)(RuleBuilder&);

// Operands broadcast against the results, element by element.
void elementwise(RuleBuilder& b) {
  b.broadcast(0);
  b.rule().elementwise = true;
}

// The first operand's dimensions stay; those named in `dim` are needed whole. There may be several results alike.
void along(RuleBuilder& b, std::vector<int> whole) {
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool is_whole = std::find(whole.begin(), whole.end(), dim) != whole.end();
    const int factor = b.factor(b.size(0, dim), is_whole ? FactorKind::kReplicate : FactorKind::kPass);
    for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == b.dims(0) && b.size(tensor, dim) == b.size(0, dim)) b.operand(tensor, dim, factor);
    for (int result = 0; result < static_cast<int>(b.call().results.size()); ++result) {
      const Shape& shape = b.call().results[result];
      if (static_cast<int>(shape.size()) != b.dims(0)) continue;
      if (shape[dim] == b.size(0, dim)) b.result(result, dim, factor);
      if (shape[dim] != b.size(0, dim)) b.replicate_result(result, dim);
    }
  }
}

void along_dim(RuleBuilder& b) { along(b, {b.call().dim("dim", b.dims(0), -1)}); }
void along_dims(RuleBuilder& b) { along(b, b.call().dims("dims", b.dims(0))); }

void layer_norm(RuleBuilder& b) {
  const auto normalized = b.call().args.find("normalized_shape");
  const int last = normalized == b.call().args.end() ? 1 : static_cast<int>(normalized->second.size());
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool whole = dim >= b.dims(0) - last;
    const int factor = b.factor(b.size(0, dim), whole ? FactorKind::kReplicate : FactorKind::kPass);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    for (int tensor = 1; whole && tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == last) b.operand(tensor, dim - (b.dims(0) - last), factor);
  }
}

// Sums over `dim`, or over everything.
void reduction(RuleBuilder& b, FactorKind kind) {
  std::vector<int> dims = b.call().dims("dim", b.dims(0));
  const bool keep = b.call().arg("keepdim", 0) != 0;
  int to = 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool gone = dims.empty() || std::find(dims.begin(), dims.end(), dim) != dims.end();
    const int factor = b.factor(b.size(0, dim), gone ? kind : FactorKind::kPass);
    b.operand(0, dim, factor);
    if (!gone) b.result(0, to, factor);
    if (!gone || keep) ++to;
  }
}

void sum(RuleBuilder& b) { reduction(b, FactorKind::kReduce); }
void whole_reduction(RuleBuilder& b) { reduction(b, FactorKind::kReplicate); }

// ... x k times k x n, with leading dimensions that are broadcast. `second` is where the matrices are.
void product(RuleBuilder& b, int first, int second) {
  const int result_dims = static_cast<int>(b.call().results[0].size());
  const Shape& result = b.call().results[0];
  const int rows = b.dims(first) >= 2 ? 1 : 0, columns = b.dims(second) >= 2 ? 1 : 0;
  const int inner = b.factor(b.shape(first).back(), FactorKind::kReduce);
  b.operand(first, b.dims(first) - 1, inner);
  b.operand(second, b.dims(second) - 1 - columns, inner);
  const int batch = result_dims - rows - columns;
  for (int dim = 0; dim < batch; ++dim) {
    const int factor = b.factor(result[dim]);
    b.result(0, dim, factor);
    const int in_first = b.dims(first) - 1 - rows - (batch - dim);
    const int in_second = b.dims(second) - 1 - columns - (batch - dim);
    if (in_first >= 0 && b.size(first, in_first) == result[dim]) b.operand(first, in_first, factor);
    if (in_second >= 0 && b.size(second, in_second) == result[dim]) b.operand(second, in_second, factor);
  }
  if (rows) {
    const int factor = b.factor(result[batch]);
    b.operand(first, b.dims(first) - 2, factor);
    b.result(0, batch, factor);
  }
  if (columns) {
    const int factor = b.factor(result.back());
    b.operand(second, b.dims(second) - 1, factor);
    b.result(0, result_dims - 1, factor);
  }
}

// What is added to a product is broadcast against the result.
void added(RuleBuilder& b, int tensor) {
  const TensorFactors result = b.rule().results[0];
  b.rule().added = tensor;
  for (int back = 1; back <= b.dims(tensor); ++back) {
    const int dim = b.dims(tensor) - back, other = static_cast<int>(result.size()) - back;
    if (b.size(tensor, dim) == b.call().results[0][other])
      for (int factor : result[other]) b.operand(tensor, dim, factor);
  }
}

void matmul(RuleBuilder& b) { product(b, 0, 1); }
void addmm(RuleBuilder& b) {
  product(b, 1, 2);
  added(b, 0);
}

void linear(RuleBuilder& b) {
  const int inner = b.factor(b.shape(0).back(), FactorKind::kReduce), outer = b.factor(b.shape(1).front());
  for (int dim = 0; dim + 1 < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
  }
  b.operand(0, b.dims(0) - 1, inner);
  b.operand(1, 1, inner);
  b.operand(1, 0, outer);
  b.result(0, b.dims(0) - 1, outer);
  if (b.call().operands.size() > 2 && b.dims(2) == 1) {
    b.operand(2, 0, outer);
    b.rule().added = 2;
  }
}

void embedding(RuleBuilder& b) {
  b.operand(0, 0, b.factor(b.size(0, 0), FactorKind::kPartial));
  for (int dim = 0; dim < b.dims(1); ++dim) {
    const int factor = b.factor(b.size(1, dim));
    b.operand(1, dim, factor);
    b.result(0, dim, factor);
  }
  const int columns = b.factor(b.size(0, 1));
  b.operand(0, 1, columns);
  b.result(0, b.dims(1), columns);
}

void attention(RuleBuilder& b) {  // query [..., h, s, d], key [..., h, t, d], value [..., h, t, e], mask
  const int dims = b.dims(0);
  const std::int64_t keys = dims >= 3 ? b.size(1, dims - 3) : 1;
  std::vector<DimFactors> leading;
  for (int dim = 0; dim + 2 < dims; ++dim) {
    const bool grouped = dim == dims - 3 && b.size(0, dim) != keys;
    const int factor = b.factor(grouped ? keys : b.size(0, dim));
    leading.push_back({factor});
    if (grouped) leading.back().push_back(b.factor(b.size(0, dim) / keys));
    for (int part : leading.back()) {
      b.operand(0, dim, part);
      b.result(0, dim, part);
    }
    for (int tensor : {1, 2}) b.operand(tensor, dim, factor);
  }
  const bool causal = b.call().arg("is_causal", 0) != 0;
  const int rows = b.factor(b.size(0, dims - 2), causal ? FactorKind::kReplicate : FactorKind::kPass);
  const int columns = b.factor(b.size(1, dims - 2), FactorKind::kReplicate);
  const int inner = b.factor(b.size(0, dims - 1), FactorKind::kReplicate);
  const int outer = b.factor(b.size(2, dims - 1), FactorKind::kReplicate);
  for (auto [tensor, dim, factor] : {std::tuple{0, dims - 2, rows}, {0, dims - 1, inner}, {1, dims - 2, columns},
                                     {1, dims - 1, inner}, {2, dims - 2, columns}, {2, dims - 1, outer}})
    b.operand(tensor, dim, factor);
  b.result(0, dims - 2, rows);
  b.result(0, dims - 1, outer);
  if (b.call().operands.size() < 4) return;
  const int mask_dims = b.dims(3);
  for (int back = 1; back <= mask_dims; ++back) {
    const int dim = mask_dims - back, at = dims - back;
    if (b.size(3, dim) == 1 || at < 0) continue;
    if (back == 1) b.operand(3, dim, columns);
    if (back == 2) b.operand(3, dim, rows);
    if (back > 2)
      for (int part : leading[at]) b.operand(3, dim, part);
  }
}

void cross_entropy(RuleBuilder& b) {  // scores [n, c, ...] or [c], targets
  const std::int64_t how = b.call().arg("reduction", 1);
  const bool probabilities = b.dims(1) == b.dims(0), weighted = b.call().operands.size() > 2 && b.dims(2) > 0;
  const int classes_at = b.dims(0) == 1 ? 0 : 1;
  const auto kind = how == 0   ? FactorKind::kPass
                    : how == 2 ? FactorKind::kReduce
                               : FactorKind::kReplicate;
  int of_target = 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool classes = dim == classes_at;
    const bool inside = classes && !probabilities && !weighted && b.dims(0) == 2;
    const int factor = b.factor(b.size(0, dim), !classes ? kind : inside ? FactorKind::kInside : FactorKind::kReplicate);
    b.operand(0, dim, factor);
    if (probabilities) b.operand_if_same(1, dim, factor);
    if (classes) {
      if (weighted) b.operand(2, 0, factor);
      continue;
    }
    if (!probabilities) b.operand_if_same(1, of_target, factor);
    if (how == 0) b.result(0, of_target, factor);
    ++of_target;
  }
}

// A loss of pairs of elements: as a sum over everything, or one for each.
void loss_of_pairs(RuleBuilder& b) {
  const std::int64_t how = b.call().arg("reduction", 1);
  if (how == 0) return elementwise(b);
  const auto kind = how == 2 ? FactorKind::kReduce : FactorKind::kReplicate;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), kind);
    for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.shape(tensor) == b.shape(0)) b.operand(tensor, dim, factor);
  }
}

void view(RuleBuilder& b) {
  reshape(b, 0, 0);
  b.rule().elementwise = true;
}

void moved(RuleBuilder& b, const std::vector<int>& from) {  // of each dimension of the result, which it was
  for (int to = 0; to < static_cast<int>(from.size()); ++to) {
    const int factor = b.factor(b.shape(0)[from[to]]);
    b.operand(0, from[to], factor);
    b.result(0, to, factor);
  }
  b.rule().elementwise = true;
}

void transpose(RuleBuilder& b) {
  std::vector<int> from;
  for (int dim = 0; dim < b.dims(0); ++dim) from.push_back(dim);
  if (b.dims(0) >= 2)
    std::swap(from[b.call().dim("dim0", b.dims(0), -2)], from[b.call().dim("dim1", b.dims(0), -1)]);
  moved(b, from);
}

void permute(RuleBuilder& b) { moved(b, b.call().dims("dims", b.dims(0))); }

// A dimension of which a part is taken stays whole; so does one that is padded, or put together.
void resized(RuleBuilder& b) {
  b.rule().elementwise = true;
  const int result_dims = static_cast<int>(b.call().results[0].size());
  for (int dim = 0; dim < result_dims; ++dim) {
    const std::int64_t size = b.call().results[0][dim];
    bool same = true;
    for (const Shape& shape : b.call().operands) same = same && static_cast<int>(shape.size()) == result_dims && shape[dim] == size;
    const int factor = b.factor(size, same ? FactorKind::kPass : FactorKind::kReplicate);
    b.result(0, dim, factor);
    for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor) {
      if (b.dims(tensor) != result_dims) continue;
      if (same) b.operand(tensor, dim, factor);
      if (!same) b.replicate_operand(tensor, dim);
    }
  }
}

void select(RuleBuilder& b) {
  const int gone = b.call().dim("dim", b.dims(0), 0);
  for (int dim = 0, to = 0; dim < b.dims(0); ++dim) {
    if (dim == gone) {
      b.replicate_operand(0, dim);
      continue;
    }
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    b.result(0, to++, factor);
  }
}

// A dimension that is cut into equal parts is (parts, part); each result has the part.
void parts(RuleBuilder& b) {
  const int cut = b.call().dim("dim", b.dims(0), 0);
  const std::vector<Shape>& results = b.call().results;
  const auto count = static_cast<std::int64_t>(results.size());
  const bool equal = std::all_of(results.begin(), results.end(), [&](const Shape& shape) {
    return shape.empty() || shape.at(cut) * count == b.size(0, cut);  // empty: nobody uses it
  });
  for (int dim = 0; dim < b.dims(0); ++dim) {
    if (dim == cut && !equal) {
      b.replicate_operand(0, dim);
      for (int result = 0; result < count; ++result)
        if (!results[result].empty()) b.replicate_result(result, dim);
      continue;
    }
    if (dim == cut) b.operand(0, dim, b.factor(count, FactorKind::kReplicate));
    const int factor = b.factor(dim == cut ? b.size(0, dim) / count : b.size(0, dim));
    b.operand(0, dim, factor);
    for (int result = 0; result < count; ++result)
      if (!results[result].empty()) b.result(result, dim, factor);
  }
}

// One result for each index of a dimension, which is gone.
void unbind(RuleBuilder& b) {
  const int gone = b.call().dim("dim", b.dims(0), 0);
  for (int dim = 0, to = 0; dim < b.dims(0); ++dim) {
    if (dim == gone) {
      b.replicate_operand(0, dim);
      continue;
    }
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    for (int result = 0; result < static_cast<int>(b.call().results.size()); ++result)
      if (!b.call().results[result].empty()) b.result(result, to, factor);
    ++to;
  }
}

void gather(RuleBuilder& b) {  // from a tensor, by indices
  const int from = b.call().dim("dim", b.dims(0), 0);
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const bool same = dim != from && b.size(0, dim) == b.size(1, dim);
    const int factor = b.factor(b.size(1, dim));
    b.operand(1, dim, factor);
    b.result(0, dim, factor);
    if (same) b.operand(0, dim, factor);
    if (!same) b.replicate_operand(0, dim);
  }
}

// Channels in, channels out, and what is convolved along.
void convolution(RuleBuilder& b) {
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
    b.replicate_operand(0, dim);
    b.replicate_operand(1, dim);
    b.replicate_result(0, dim);
  }
}

// Rows and channels stay as they are; what comes behind is needed whole.
void by_channel(RuleBuilder& b) {
  const int kept = b.dims(0) == static_cast<int>(b.call().results[0].size()) ? std::min(2, b.dims(0)) : 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    if (dim >= kept) {
      b.replicate_operand(0, dim);
      if (dim < static_cast<int>(b.call().results[0].size())) b.replicate_result(0, dim);
      continue;
    }
    const int factor = b.factor(b.size(0, dim));
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
  }
}

// Statistics are of all rows: in training every rank needs them all, and all write the same to the running ones.
void batch_norm(RuleBuilder& b) {
  const bool training = b.call().arg("training", 1) != 0;
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), training ? FactorKind::kReplicate : FactorKind::kPass);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    for (int tensor = 1; dim == 1 && tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == 1) b.operand(tensor, 0, factor);
  }
}

void group_norm(RuleBuilder& b) {
  for (int dim = 0; dim < b.dims(0); ++dim) {
    const int factor = b.factor(b.size(0, dim), dim == 0 ? FactorKind::kPass : FactorKind::kReplicate);
    b.operand(0, dim, factor);
    b.result(0, dim, factor);
    for (int tensor = 1; dim == 1 && tensor < static_cast<int>(b.call().operands.size()); ++tensor)
      if (b.dims(tensor) == 1) b.operand(tensor, 0, factor);
  }
}

void replicated(RuleBuilder& b) {
  for (int tensor = 0; tensor < static_cast<int>(b.call().operands.size()); ++tensor)
    for (int dim = 0; dim < b.dims(tensor); ++dim) b.replicate_operand(tensor, dim);
  for (int result = 0; result < static_cast<int>(b.call().results.size()); ++result)
    for (int dim = 0; dim < static_cast<int>(b.call().results[result].size()); ++dim) b.replicate_result(result, dim);
}

// A name may stand for its overloads, and for the same operation in place.
const std::map<std::string, Form>& table() {
  static const std::map<std::string, Form> kTable = [] {
    std::map<std::string, Form> table;
    for (const char* name :
         {"abs",         "add",        "alias",      "bernoulli",  "bitwise_and", "bitwise_not", "bitwise_or",
          "clamp",       "clamp_min",  "clamp_max",  "clone",      "contiguous",  "cos",         "detach",
          "div",         "dropout",    "elu",        "eq",         "erf",         "exp",         "expand_as",
          "fill",        "floor",      "floor_divide", "full_like", "ge",         "gelu",        "gt",
          "hardtanh",    "isfinite",   "isinf",      "isnan",      "le",          "leaky_relu",  "lerp",
          "lift_fresh_copy", "log",    "log1p",      "logical_and", "logical_not", "logical_or", "lt",
          "masked_fill", "maximum",    "minimum",    "mul",        "native_dropout", "ne",       "neg",
          "ones_like",   "pow",        "rand_like",  "randn_like", "reciprocal",  "relu",        "remainder",
          "rsqrt",       "rsub",       "sigmoid",    "sign",       "silu",        "sin",         "softplus",
          "sqrt",        "square",     "sub",        "tanh",       "threshold",   "to",          "_to_copy",
          "type_as",     "where",      "zeros_like", "empty_like", "__and__",     "__or__",      "mish",
          "hardswish",   "hardsigmoid", "selu",      "addcmul",    "addcdiv",     "float",       "expand"})
      table[name] = elementwise;
    for (const char* name : {"view", "reshape", "unsqueeze", "squeeze", "flatten", "unflatten", "_unsafe_view",
                             "view_as", "reshape_as"})
      table[name] = view;
    for (const char* name : {"softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "topk",
                             "argsort", "glu", "logcumsumexp"})
      table[name] = along_dim;
    for (const char* name : {"flip", "roll"}) table[name] = along_dims;
    for (const char* name : {"mean", "amax", "amin", "max", "min", "argmax", "argmin", "all", "any", "prod", "std",
                             "var", "logsumexp", "norm", "linalg_vector_norm"})
      table[name] = whole_reduction;
    for (const char* name : {"slice", "cat", "pad", "constant_pad_nd"}) table[name] = resized;
    for (const char* name : {"split", "chunk", "split_with_sizes"}) table[name] = parts;
    for (const char* name : {"matmul", "mm", "bmm"}) table[name] = matmul;
    for (const char* name : {"addmm", "baddbmm"}) table[name] = addmm;
    for (const char* name : {"conv1d", "conv2d", "conv3d"}) table[name] = convolution;
    for (const char* name : {"max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d",
                             "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "feature_dropout"})
      table[name] = by_channel;
    for (const char* name : {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
                             "binary_cross_entropy_with_logits", "soft_margin_loss", "kl_div"})
      table[name] = loss_of_pairs;
    for (const char* name : {"layer_norm", "rms_norm"}) table[name] = layer_norm;
    for (const char* name : {"cross_entropy_loss", "nll_loss"}) table[name] = cross_entropy;
    table["sum"] = sum;
    table["linear"] = linear;
    table["embedding"] = embedding;
    table["scaled_dot_product_attention"] = attention;
    table["transpose"] = transpose;
    table["permute"] = permute;
    table["select"] = select;
    table["gather"] = gather;
    table["unbind"] = unbind;
    table["batch_norm"] = batch_norm;
    table["group_norm"] = group_norm;
    return table;
  }();
  return kTable;
}

}  // namespace

bool has_rule(const std::string& name) { return table().count(name) > 0; }

std::vector<std::string> names_of_rules() {
  std::vector<std::string> names;
  for (const auto& [name, form] : table()) names.push_back(name);
  return names;
}

Rule rule_of(const Call& call) {
  RuleBuilder builder(call);
  const auto found = table().find(call.name);
  if (found != table().end() && !call.results.empty() && !call.operands.empty()) try {
      found->second(builder);
      return builder.take();
    } catch (const std::out_of_range&) {
      // It was called in a way that its form does not know.
    }
  RuleBuilder whole(call);
  replicated(whole);
  return whole.take();
}

}  // namespace merak::sharding
