#pragma once
// What an optimizer does to rows of a table (embedding/update_rows.h), on tensors.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "embedding/update_rows.h"

namespace merak {

// "sgd", "momentum", "adagrad", "adam", "row_wise_adagrad"; throws std::invalid_argument for others.
UpdateKind update_kind_named(const std::string& name);

// `remembered`: what update_rows.h's `a` and `s` are, as many as the rule has. `ids`: int64, `gradients`: a row for
// each; `mean_squares`: a number for each, for row-wise Adagrad alone. Raises ValueError where they do not fit, or an
// id is outside the table.
void update_table(const UpdateRule& rule, std::uint64_t step, const at::Tensor& table,
                  const std::vector<at::Tensor>& remembered, const at::Tensor& ids, const at::Tensor& gradients,
                  const std::optional<at::Tensor>& mean_squares);

// For each row of `gradients`, [rows, columns], the sum of its squares (embedding/square_sums.h). Raises ValueError
// where they are no rows on CPU of one of a table's dtypes.
at::Tensor square_sums_of(const at::Tensor& gradients);

// That of one step, for some rows now and for others later. Keeps table and state alive.
struct TableUpdate {
  UpdateRule rule;
  std::uint64_t step;
  at::Tensor table;
  std::vector<at::Tensor> remembered;

  void operator()(const at::Tensor& ids, const at::Tensor& gradients,
                  const std::optional<at::Tensor>& mean_squares = {}) const {
    update_table(rule, step, table, remembered, ids, gradients, mean_squares);
  }
};

}  // namespace merak
