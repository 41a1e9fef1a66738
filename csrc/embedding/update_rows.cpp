#include "embedding/update_rows.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "collectives/kernels.h"
#include "sparse/sum_rows.h"
#include "transport/for_each.h"
#include "transport/vectorise.h"

namespace merak {
namespace {

// What is the same for all elements, in the arithmetic's type.
template <class Wide>
struct Factors {
  Wide rate, first, not_first, not_second, epsilon, keep;

  Factors(const UpdateRule& rule, std::uint64_t step)
      : rate(static_cast<Wide>(effective_rate(rule, static_cast<double>(step)))),
        first(static_cast<Wide>(rule.first)),
        not_first(static_cast<Wide>(1 - rule.first)),
        not_second(static_cast<Wide>(1 - rule.second)),
        epsilon(static_cast<Wide>(rule.epsilon)),
        keep(static_cast<Wide>(1 - rule.rate * rule.weight_decay)) {}

  static double effective_rate(const UpdateRule& rule, double step) {
    if (rule.kind == UpdateKind::kAdagrad) return rule.rate / (1 + (step - 1) * rule.second);
    if (rule.kind != UpdateKind::kAdam) return rule.rate;
    return rule.rate * std::sqrt(1 - std::pow(rule.second, step)) / (1 - std::pow(rule.first, step));
  }
};

MERAK_VECTORISE

template <class T, UpdateKind kKind>
struct UpdateRow {
  using Wide = typename WideOf<T>::type;

  T* table;
  Wide *a, *s;
  const std::int64_t* ids;
  const T* gradients;
  const Wide* mean_squares;
  std::size_t columns;
  Factors<Wide> by;

  void operator()(std::size_t i) const {
    const auto row = static_cast<std::size_t>(ids[i]);
    const Wide rate = rate_of_row(row, i);
    const std::size_t begin = row * columns;
    for (std::size_t j = 0; j < columns; ++j)
      change(table[begin + j], begin + j, Wide(gradients[i * columns + j]), rate);
  }

 private:
  Wide rate_of_row(std::size_t row, std::size_t i) const {
    if constexpr (kKind == UpdateKind::kRowWiseAdagrad) {
      s[row] += mean_squares[i];
      return by.rate / (std::sqrt(s[row]) + by.epsilon);
    } else {
      return by.rate;
    }
  }

  void change(T& w, std::size_t at, Wide g, Wide rate) const {
    if constexpr (kKind == UpdateKind::kSgd || kKind == UpdateKind::kRowWiseAdagrad) {
      w = T(Wide(w) - rate * g);
    } else if constexpr (kKind == UpdateKind::kMomentum) {
      a[at] = by.first * a[at] + g;
      w = T(Wide(w) - rate * a[at]);
    } else if constexpr (kKind == UpdateKind::kAdagrad) {
      s[at] += g * g;
      w = T(Wide(w) - rate * (g / (std::sqrt(s[at]) + by.epsilon)));
    } else {
      a[at] += by.not_first * (g - a[at]);
      s[at] += by.not_second * (g * g - s[at]);
      w = T(Wide(w) * by.keep - rate * (a[at] / (std::sqrt(s[at]) + by.epsilon)));
    }
  }
};

MERAK_VECTORISE_END

template <class T, UpdateKind kKind>
void update(const UpdateRule& rule, std::uint64_t step, const TableRows& rows, std::span<const std::int64_t> ids,
            const T* gradients) {
  using Wide = typename WideOf<T>::type;
  const UpdateRow<T, kKind> body{static_cast<T*>(rows.table),
                                 static_cast<Wide*>(rows.a),
                                 static_cast<Wide*>(rows.s),
                                 ids.data(),
                                 gradients,
                                 static_cast<const Wide*>(rows.mean_squares),
                                 rows.columns,
                                 Factors<Wide>(rule, step)};
  with_longest_vectors(body, [&](const auto& row) { for_each(OnCpu{}, ids.size(), row); });
}

}  // namespace

int remembered(UpdateKind kind) {
  constexpr int kArrays[] = {0, 1, 1, 2, 1};
  return kArrays[static_cast<std::size_t>(kind)];
}

void update_rows(const UpdateRule& rule, std::uint64_t step, const TableRows& rows, std::span<const std::int64_t> ids,
                 const void* gradients) {
  with_summable_type(rows.dtype, [&]<class T>(kernels::Type<T>) {
    if constexpr (std::is_integral_v<T>) {
      throw std::invalid_argument(std::string("tables of ") + name(rows.dtype) + " cannot be trained");
    } else {
      const auto* values = static_cast<const T*>(gradients);
      switch (rule.kind) {
        case UpdateKind::kSgd:
          return update<T, UpdateKind::kSgd>(rule, step, rows, ids, values);
        case UpdateKind::kMomentum:
          return update<T, UpdateKind::kMomentum>(rule, step, rows, ids, values);
        case UpdateKind::kAdagrad:
          return update<T, UpdateKind::kAdagrad>(rule, step, rows, ids, values);
        case UpdateKind::kAdam:
          return update<T, UpdateKind::kAdam>(rule, step, rows, ids, values);
        case UpdateKind::kRowWiseAdagrad:
          return update<T, UpdateKind::kRowWiseAdagrad>(rule, step, rows, ids, values);
      }
    }
  });
}

}  // namespace merak
