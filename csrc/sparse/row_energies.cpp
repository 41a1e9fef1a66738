#include "sparse/row_energies.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "sparse/whole_rows.h"

namespace merak {
namespace {

template <class T>
std::vector<double> energies_of_type(const T* from, const RowSums& rows) {
  using Body = EnergiesOfStrips<T, kCpuStrip<T>>;
  Body body{from, rows.first.data(), rows.from.data(), rows.row_bytes / sizeof(T), nullptr};
  std::vector<double> of_strips(rows.rows() * body.strips()), energies(rows.rows());
  body.energies = of_strips.data();
  for_each_whole_row(body, rows.rows(), rows.from.size());
  for_each(OnCpu{}, rows.rows(), EnergiesOfRows{of_strips.data(), body.strips(), energies.data()});
  return energies;
}

}  // namespace

std::vector<double> energies_of_rows(DType dtype, const void* from, const RowSums& rows) {
  if (dtype == DType::kFloat32) return energies_of_type(static_cast<const float*>(from), rows);
  if (dtype == DType::kFloat64) return energies_of_type(static_cast<const double*>(from), rows);
  throw std::invalid_argument(std::string("rows of ") + name(dtype) + " have no norm here");
}

std::vector<BFloat16> norms_of(std::span<const double> energies) {
  constexpr auto kLargest = static_cast<double>(std::numeric_limits<float>::max());
  std::vector<BFloat16> norms;
  norms.reserve(energies.size());
  for (double energy : energies) {
    const double norm = std::sqrt(energy);
    // What a conversion to float does with larger numbers is undefined.
    norms.emplace_back(norm <= kLargest ? static_cast<float>(norm) : std::numeric_limits<float>::infinity());
  }
  return norms;
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
