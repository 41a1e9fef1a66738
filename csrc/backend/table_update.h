#pragma once
// What an optimizer does to rows of a table (embedding/update_rows.h), on tensors.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "embedding/update_rows.h"

namespace merak {

// "sgd", "momentum", "adagrad", "adam"; throws std::invalid_argument for others.
UpdateKind update_kind_named(const std::string& name);

// `remembered`: what update_rows.h's `a` and `s` are, as many as the rule has. `ids`: int64, `gradients`: a row for
// each. Raises ValueError where they do not fit, or an id is outside the table.
void update_table(const UpdateRule& rule, std::uint64_t step, const at::Tensor& table,
                  const std::vector<at::Tensor>& remembered, const at::Tensor& ids, const at::Tensor& gradients);

// That of one step, for some rows now and for others later. Keeps table and state alive.
struct TableUpdate {
  UpdateRule rule;
  std::uint64_t step;
  at::Tensor table;
  std::vector<at::Tensor> remembered;

  void operator()(const at::Tensor& ids, const at::Tensor& gradients) const {
    update_table(rule, step, table, remembered, ids, gradients);
  }
};

}  // namespace merak
