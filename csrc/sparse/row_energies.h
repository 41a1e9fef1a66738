#pragma once
// How heavy rows are, in two bytes a row: the *norm* of a row is the root of the sum of the squares of its elements,
// here rounded to a bfloat16; its square is the row's *energy*. Ranks announce the norms of their rows
// (announcement.h), so that all know which rows of the union matter most; eight significant bits are enough for that.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collectives/half.h"
#include "sparse/bitmap.h"
#include "sparse/sum_rows.h"
#include "sparse/union_rows.h"
#include "transport/row_sums.h"
#include "transport/signature.h"

namespace merak {

MERAK_VECTORISE

// The energies of strips of rows, which are sums of rows themselves: those that the input holds several times. Like
// SumRows, but that nothing is written of the sums.
template <class T, std::size_t kStrip>
struct EnergiesOfStrips {
  using Element = T;
  using Wide = typename WideOf<T>::type;

  const T* from;
  const std::uint32_t *first, *sources;  // of RowSums: first, from
  std::size_t elements;                  // of a row
  double* energies;                      // strips() a row

  MERAK_HD std::size_t strips() const { return (elements + kStrip - 1) / kStrip; }

  MERAK_HD void operator()(std::size_t i) const { strip(i / strips(), i % strips() * kStrip); }

  MERAK_HD const T* source_at(std::uint32_t source, std::size_t begin) const {
    return from + RowSums::row_of(source) * elements + begin;
  }

  MERAK_HD void strip(std::size_t row, std::size_t begin) const {
    const SumRows<T, kStrip> sums{nullptr, from, nullptr, first, sources, elements, elements, elements, 1};
    double* to = energies + row * strips() + begin / kStrip;
    sums.visit(row, begin, [to](const Wide* values, auto count) { *to = energy_of(values, count); });
  }

 private:
  static constexpr std::size_t kLanes = 8;  // partial sums that do not wait for each other

  template <class Count>
  MERAK_HD static double energy_of(const Wide* values, Count count) {
    double sums[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        sums[lane] += static_cast<double>(values[i + lane]) * static_cast<double>(values[i + lane]);
    for (std::size_t lane = 0; lane < kLanes && i + lane < count; ++lane)
      sums[lane] += static_cast<double>(values[i + lane]) * static_cast<double>(values[i + lane]);
    double energy = 0;
    for (double sum : sums) energy += sum;
    return energy;
  }
};

MERAK_VECTORISE_END

// Of each row, from those of its strips.
struct EnergiesOfRows {
  const double* of_strips;
  std::size_t strips;  // of a row
  double* energies;

  MERAK_HD void operator()(std::size_t row) const {
    double energy = 0;
    for (std::size_t strip = 0; strip < strips; ++strip) energy += of_strips[row * strips + strip];
    energies[row] = energy;
  }
};

// `rows`: what each row is the sum of. `dtype`: fp32 or fp64, else throws std::invalid_argument.
std::vector<double> energies_of_rows(DType dtype, const void* from, const RowSums& rows);

// Of an energy that is infinite or NaN, and where the norm is too large for an fp32: infinity.
std::vector<BFloat16> norms_of(std::span<const double> energies);

// Leaves of the rows `present`, whose norms are given, the `most` heaviest; of equally heavy ones the lower.
void keep_heaviest(Bitmap& present, std::vector<BFloat16>& norms, std::size_t most);

// `norms`: by rank, of the rows that it has, ascending. Returns for each row of the union the sum of energies over
// ranks: the same number on all ranks, since squares of 8 bits are exact, and sums are in the order of ranks.
std::vector<double> energies_of_union(const UnionRows& rows, const std::vector<std::vector<BFloat16>>& norms);

}  // namespace merak
