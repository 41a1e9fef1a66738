#include "sparse/row_energies.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace merak {
namespace {

constexpr std::size_t kLanes = 8;  // partial sums that do not wait for each other

template <class T>
BFloat16 norm_of(const T* row, std::size_t elements) {
  double sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= elements; i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(row[i + lane]);
      sums[lane] += value * value;
    }
  double energy = 0;
  for (double sum : sums) energy += sum;
  for (; i < elements; ++i) energy += static_cast<double>(row[i]) * static_cast<double>(row[i]);
  const double norm = std::sqrt(energy);
  // What a conversion to float does with larger numbers is undefined.
  const bool fits = norm <= static_cast<double>(std::numeric_limits<float>::max());
  return BFloat16(fits ? static_cast<float>(norm) : std::numeric_limits<float>::infinity());
}

template <class T>
std::vector<BFloat16> norms_of_type(const T* values, std::size_t rows, std::size_t row_elements) {
  std::vector<BFloat16> norms(rows);
  for (std::size_t row = 0; row < rows; ++row) norms[row] = norm_of(values + row * row_elements, row_elements);
  return norms;
}

}  // namespace

std::vector<BFloat16> norms_of(DType dtype, const void* values, std::size_t rows, std::size_t row_elements) {
  if (dtype == DType::kFloat32) return norms_of_type(static_cast<const float*>(values), rows, row_elements);
  if (dtype == DType::kFloat64) return norms_of_type(static_cast<const double*>(values), rows, row_elements);
  throw std::invalid_argument(std::string("rows of ") + name(dtype) + " have no norm here");
}

void keep_heaviest(Bitmap& present, std::vector<BFloat16>& norms, std::size_t most) {
  if (norms.size() <= most) return;
  const std::vector<std::uint32_t> members = present.members();
  std::vector<std::uint32_t> heaviest(members.size());
  std::iota(heaviest.begin(), heaviest.end(), 0u);
  const auto before = [&](std::uint32_t a, std::uint32_t b) {  // norms are not negative: their bits are in order
    return norms[a].bits != norms[b].bits ? norms[a].bits > norms[b].bits : a < b;
  };
  std::nth_element(heaviest.begin(), heaviest.begin() + static_cast<std::ptrdiff_t>(most), heaviest.end(), before);
  heaviest.resize(most);
  std::sort(heaviest.begin(), heaviest.end());
  present = Bitmap(present.bits());
  std::vector<BFloat16> left;
  for (std::uint32_t i : heaviest) present.set(members[i]), left.push_back(norms[i]);
  norms = std::move(left);
}

std::vector<double> energies_of_union(const UnionRows& rows, const std::vector<std::vector<BFloat16>>& norms) {
  std::vector<double> energies(rows.rows());
  std::vector<std::size_t> next(norms.size());
  for (std::size_t u = 0; u < rows.rows(); ++u)
    for (std::uint32_t rank : rows.of(u)) {
      const double norm = static_cast<double>(static_cast<float>(norms[rank][next[rank]++]));
      energies[u] += norm * norm;
    }
  return energies;
}

}  // namespace merak
