// The rules of PyTorch's operations: a form for each name.

#include <sstream>
#include <stdexcept>

#include "sharding/forms.h"

namespace merak::sharding {
namespace {

using Form = void (*)(RuleBuilder&);

// By form, the names of operations: each stands for all its overloads, and for the same operation in place.
struct Family {
  Form form;
  const char* names;
};

constexpr Family kFamilies[] = {
    {elementwise,
     "abs add addcdiv addcmul alias bernoulli bitwise_and bitwise_not bitwise_or broadcast_to clamp clamp_max "
     "clamp_min clone "
     "contiguous cos detach div dropout elu empty_like eq erf exp expand expand_as fill float floor floor_divide "
     "full_like ge gelu gt hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp lift_fresh_copy log "
     "log1p logical_and logical_not logical_or lt masked_fill maximum minimum mish mul native_dropout ne neg ones_like "
     "pow rand_like randn_like reciprocal relu remainder rsqrt rsub selu sigmoid sign silu sin softplus sqrt square "
     "sub tanh threshold to _to_copy type_as where zeros_like __and__ __or__"},
    {view, "view reshape unsqueeze squeeze flatten unflatten _unsafe_view view_as reshape_as"},
    {transpose, "transpose"},
    {permute, "permute"},
    {reversed, "numpy_T"},
    {slice, "slice"},
    {narrow, "narrow"},
    {padded, "pad constant_pad_nd"},
    {joined, "cat"},
    {roll, "roll"},
    {flip, "flip"},
    {select, "select unbind"},
    {parts, "split chunk split_with_sizes"},
    {broadcast_together, "broadcast_tensors"},
    {triangle, "tril triu"},
    {gather, "gather"},
    {tokens, "merak::gather_tokens merak::place_tokens merak::scatter_tokens"},
    {along_dim, "softmax _softmax log_softmax _log_softmax cumsum cumprod sort topk argsort glu logcumsumexp"},
    {layer_norm, "layer_norm rms_norm"},
    {sum, "sum"},
    {whole_reduction, "mean amax amin max min argmax argmin all any prod std var logsumexp norm linalg_vector_norm"},
    {matmul, "matmul mm bmm"},
    {addmm, "addmm baddbmm"},
    {linear, "linear"},
    {embedding, "embedding"},
    {attention, "scaled_dot_product_attention"},
    {experts, "experts"},
    {convolution, "conv1d conv2d conv3d"},
    {pool, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"},
    {enlarged, "upsample_nearest1d upsample_nearest2d upsample_nearest3d"},
    {by_channel, "adaptive_avg_pool1d adaptive_avg_pool2d upsample_bilinear2d feature_dropout"},
    {batch_norm, "batch_norm"},
    {group_norm, "group_norm"},
    {cross_entropy, "cross_entropy_loss nll_loss"},
    {loss_of_pairs,
     "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits "
     "soft_margin_loss kl_div"},
};

const std::map<std::string, Form>& table() {
  static const std::map<std::string, Form> kTable = [] {
    std::map<std::string, Form> table;
    for (const Family& family : kFamilies) {
      std::istringstream names(family.names);
      for (std::string name; names >> name;) table[name] = family.form;
    }
    return table;
  }();
  return kTable;
}

bool fits(const Rule& rule, const std::vector<TensorFactors>& tensors, const std::vector<Shape>& shapes) {
  for (std::size_t t = 0; t < shapes.size(); ++t)
    for (std::size_t dim = 0; dim < shapes[t].size(); ++dim)
      if (!tensors[t][dim].empty() && rule.size_of(tensors[t][dim]) != shapes[t][dim]) return false;
  return true;
}

// Whether the factors make the sizes of a call that is broadcast, or without rows, as its form may not expect it.
bool fits(const Rule& rule, const Call& call) {
  return fits(rule, rule.operands, call.operands) && fits(rule, rule.results, call.results);
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
  try {
    if (found != table().end() && !call.results.empty() && !call.operands.empty()) {
      found->second(builder);
      Rule rule = builder.take();
      if (fits(rule, call)) return rule;
    }
  } catch (const std::out_of_range&) {
    // It was called in a way that its form does not know.
  }
  RuleBuilder whole(call);
  replicated(whole);
  return whole.take();
}

}  // namespace merak::sharding
