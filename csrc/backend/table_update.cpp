#include "backend/table_update.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <stdexcept>

#include "backend/tensor_checks.h"
#include "embedding/square_sums.h"

namespace merak {
namespace {

void require(bool fine, const std::string& what) { TORCH_CHECK_VALUE(fine, "an optimizer of rows: " + what); }

bool is_plain(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.is_contiguous();
}

bool is_trainable(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
}

// Of what is remembered of a table, and of the arithmetic.
at::ScalarType wide(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

void check_ids(const at::Tensor& ids, std::int64_t rows) {
  require(is_plain(ids) && ids.dim() == 1 && ids.scalar_type() == at::kLong, "ids have to be int64, of one dimension.");
  const auto* begin = ids.const_data_ptr<std::int64_t>();
  const bool inside = std::all_of(begin, begin + ids.numel(), [&](std::int64_t id) { return 0 <= id && id < rows; });
  require(inside, "an id is outside the table.");
}

void check_remembered(UpdateKind kind, const at::Tensor& table, const std::vector<at::Tensor>& remembered) {
  require(static_cast<int>(remembered.size()) == merak::remembered(kind), "its state is not that of its kind.");
  const at::IntArrayRef shape = kind == UpdateKind::kRowWiseAdagrad ? table.sizes().slice(0, 1) : table.sizes();
  for (const at::Tensor& one : remembered)
    require(is_plain(one) && one.sizes() == shape && one.scalar_type() == wide(table.scalar_type()),
            "its state does not fit its table.");
}

void check_mean_squares(UpdateKind kind, const at::Tensor& table, const at::Tensor& ids,
                        const std::optional<at::Tensor>& means) {
  require(means.has_value() == (kind == UpdateKind::kRowWiseAdagrad), "mean squares are for row-wise Adagrad.");
  if (means)
    require(is_plain(*means) && means->sizes() == ids.sizes() && means->scalar_type() == wide(table.scalar_type()),
            "the mean squares do not fit the gradient.");
}

}  // namespace

UpdateKind update_kind_named(const std::string& name) {
  const char* const names[] = {"sgd", "momentum", "adagrad", "adam", "row_wise_adagrad"};
  for (std::size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return static_cast<UpdateKind>(i);
  throw std::invalid_argument("there is no optimizer of rows '" + name + "'");
}

void update_table(const UpdateRule& rule, std::uint64_t step, const at::Tensor& table,
                  const std::vector<at::Tensor>& remembered, const at::Tensor& ids, const at::Tensor& gradients,
                  const std::optional<at::Tensor>& mean_squares) {
  const at::ScalarType dtype = table.scalar_type();
  require(is_plain(table) && table.dim() == 2, "a table has to be of two dimensions, contiguous, on CPU.");
  require(is_trainable(dtype), "a table has to be of float32, float64, bfloat16 or float16.");
  const at::Tensor rows = gradients.contiguous();
  require(is_plain(rows) && rows.dim() == 2 && rows.size(0) == ids.numel() && rows.size(1) == table.size(1) &&
              rows.scalar_type() == dtype,
          "the gradient does not fit its table.");
  check_ids(ids, table.size(0));
  check_remembered(rule.kind, table, remembered);
  check_mean_squares(rule.kind, table, ids, mean_squares);
  TableRows there{.dtype = dtype_of(dtype),
                  .table = table.mutable_data_ptr(),
                  .columns = static_cast<std::size_t>(table.size(1)),
                  .mean_squares = mean_squares ? mean_squares->const_data_ptr() : nullptr};
  const auto memory = [&](std::size_t i) { return i < remembered.size() ? remembered[i].mutable_data_ptr() : nullptr; };
  if (rule.kind == UpdateKind::kAdagrad || rule.kind == UpdateKind::kRowWiseAdagrad)
    there.s = memory(0);
  else
    there.a = memory(0), there.s = memory(1);
  update_rows(rule, step, there, {ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel())},
              rows.const_data_ptr());
}

at::Tensor square_sums_of(const at::Tensor& gradients) {
  const at::ScalarType dtype = gradients.scalar_type();
  const at::Tensor rows = gradients.contiguous();
  require(is_plain(rows) && rows.dim() == 2 && is_trainable(dtype), "a gradient has to be rows as a table has them.");
  const at::Tensor sums = at::empty({rows.size(0)}, rows.options().dtype(wide(dtype)));
  square_sums(dtype_of(dtype), rows.const_data_ptr(), static_cast<std::size_t>(rows.size(0)),
              static_cast<std::size_t>(rows.size(1)), sums.mutable_data_ptr());
  return sums;
}

}  // namespace merak
