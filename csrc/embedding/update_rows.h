#pragma once
// How an optimizer changes rows of a table: those that have a gradient, and no others; what it remembers of the others
// stays as it is, too. Rows may so be changed in parts, some now and some later: of the same step, in any order, it is
// the same.
//
//   g the gradient, w the row, r the learning rate, t the step from 1 on; element by element, but for s of row-wise
//   Adagrad
//
//   SGD       w -= r g;   with momentum m: a = m a + g, w -= r a
//   Adagrad   s += g g,   w -= r / (1 + (t - 1) d) g / (sqrt(s) + e)
//             row-wise: one s a row, s += the mean of g g over the row, w -= r / (sqrt(s) + e) g
//   Adam      w -= r c w, a += (1 - m) (g - a), s += (1 - v) (g g - s),
//             w -= r sqrt(1 - v^t) / (1 - m^t) a / (sqrt(s) + e)
//
// In their form on all rows these are those of torch.optim: Adam with c = 0 is SparseAdam, with c > 0 AdamW, but that
// epsilon is added before the correction of s, as SparseAdam does; row-wise Adagrad is FBGEMM's. Arithmetic of 16-bit
// tables is in fp32.

#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/signature.h"

namespace merak {

enum class UpdateKind : std::uint8_t { kSgd, kMomentum, kAdagrad, kAdam, kRowWiseAdagrad };

struct UpdateRule {
  UpdateKind kind = UpdateKind::kSgd;
  double rate = 0;          // r
  double first = 0;         // m: the momentum, or Adam's first beta
  double second = 0;        // v: Adam's second beta; of Adagrad d, the decay of the rate
  double epsilon = 0;       // e
  double weight_decay = 0;  // c
};

// How many arrays it remembers: a, s; as large as the table, or a number a row. Of fp32 where the table has 16-bit
// elements, else of the table's dtype; zeros at first, or what Adagrad begins with.
int remembered(UpdateKind kind);

struct TableRows {
  DType dtype;                      // fp32, fp64, bf16, fp16
  void* table;                      // [rows, columns]
  void *a = nullptr, *s = nullptr;  // of Adagrad, row-wise too, s alone, of momentum a alone
  std::size_t columns;
  // Of row-wise Adagrad: the mean of g g, one for each id, in the dtype of s. Where a table's columns are split over
  // ranks it is that of all columns, which square_sums.h and an all-reduce give.
  const void* mean_squares = nullptr;
};

// `ids`: rows of the table, all different; `gradients`: one for each, in the dtype of the table. Throws
// std::invalid_argument for other dtypes.
void update_rows(const UpdateRule& rule, std::uint64_t step, const TableRows& rows, std::span<const std::int64_t> ids,
                 const void* gradients);

}  // namespace merak
