#pragma once
// How heavy rows are, in two bytes a row: the *norm* of a row is the root of the sum of the squares of its elements,
// here rounded to a bfloat16; its square is the row's *energy*. Ranks announce the norms of their rows
// (announcement.h), so that all know which rows of the union matter most; eight significant bits are enough for that.

#include <cstddef>
#include <span>
#include <vector>

#include "collectives/half.h"
#include "sparse/bitmap.h"
#include "sparse/union_rows.h"
#include "transport/signature.h"

namespace merak {

// Of `rows` rows, one behind the other. Of a row with an element that is infinite or NaN, or whose norm is too large
// for an fp32: infinity. `dtype`: fp32 or fp64.
std::vector<BFloat16> norms_of(DType dtype, const void* values, std::size_t rows, std::size_t row_elements);

// Leaves of the rows `present`, whose norms are given, the `most` heaviest; of equally heavy ones the lower.
void keep_heaviest(Bitmap& present, std::vector<BFloat16>& norms, std::size_t most);

// `norms`: by rank, of the rows that it has, ascending. Returns for each row of the union the sum of energies over
// ranks: the same number on all ranks, since squares of 8 bits are exact, and sums are in the order of ranks.
std::vector<double> energies_of_union(const UnionRows& rows, const std::vector<std::vector<BFloat16>>& norms);

}  // namespace merak
