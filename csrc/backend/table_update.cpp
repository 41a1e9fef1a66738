#include "backend/table_update.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <stdexcept>

#include "backend/tensor_checks.h"

namespace merak {
namespace {

void require(bool fine, const std::string& what) { TORCH_CHECK_VALUE(fine, "an optimizer of rows: " + what); }

bool is_plain(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.is_contiguous();
}

void check_ids(const at::Tensor& ids, std::int64_t rows) {
  require(is_plain(ids) && ids.dim() == 1 && ids.scalar_type() == at::kLong, "ids have to be int64, of one dimension.");
  const auto* begin = ids.const_data_ptr<std::int64_t>();
  const bool inside = std::all_of(begin, begin + ids.numel(), [&](std::int64_t id) { return 0 <= id && id < rows; });
  require(inside, "an id is outside the table.");
}

}  // namespace

UpdateKind update_kind_named(const std::string& name) {
  const char* const names[] = {"sgd", "momentum", "adagrad", "adam"};
  for (std::size_t i = 0; i < std::size(names); ++i)
    if (name == names[i]) return static_cast<UpdateKind>(i);
  throw std::invalid_argument("there is no optimizer of rows '" + name + "'");
}

void update_table(const UpdateRule& rule, std::uint64_t step, const at::Tensor& table,
                  const std::vector<at::Tensor>& remembered, const at::Tensor& ids, const at::Tensor& gradients) {
  const at::ScalarType dtype = table.scalar_type();
  require(is_plain(table) && table.dim() == 2, "a table has to be of two dimensions, contiguous, on CPU.");
  require(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
          "a table has to be of float32, float64, bfloat16 or float16.");
  const at::Tensor rows = gradients.contiguous();
  require(is_plain(rows) && rows.dim() == 2 && rows.size(0) == ids.numel() && rows.size(1) == table.size(1) &&
              rows.scalar_type() == dtype,
          "the gradient does not fit its table.");
  check_ids(ids, table.size(0));
  require(static_cast<int>(remembered.size()) == merak::remembered(rule.kind), "its state is not that of its kind.");
  for (const at::Tensor& one : remembered)
    require(is_plain(one) && one.sizes() == table.sizes() &&
                one.scalar_type() == (dtype == at::kDouble ? at::kDouble : at::kFloat),
            "its state does not fit its table.");
  TableRows there{
      .dtype = dtype_of(dtype), .table = table.mutable_data_ptr(), .columns = static_cast<std::size_t>(table.size(1))};
  const auto memory = [&](std::size_t i) { return i < remembered.size() ? remembered[i].mutable_data_ptr() : nullptr; };
  if (rule.kind == UpdateKind::kAdagrad)
    there.s = memory(0);
  else
    there.a = memory(0), there.s = memory(1);
  update_rows(rule, step, there, {ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel())},
              rows.const_data_ptr());
}

}  // namespace merak
