#pragma once
// How heavy rows are, in two bytes a row: the *energy* of a row is the sum of the squares of its elements, rounded to a
// bfloat16. Ranks announce the energies of their rows (announcement.h), so that all know which rows of the union matter
// most; eight significant bits are enough for that.

#include <cstddef>
#include <span>
#include <vector>

#include "collectives/half.h"
#include "sparse/bitmap.h"
#include "sparse/union_rows.h"
#include "transport/signature.h"

namespace merak {

// Of `rows` rows, one behind the other. Of a row with an element that is infinite or NaN, or too large to be squared:
// infinity. `dtype`: fp32 or fp64.
std::vector<BFloat16> energies_of(DType dtype, const void* values, std::size_t rows, std::size_t row_elements);

// Leaves of the rows `present`, whose energies are given, the `most` heaviest; of equally heavy ones the lower.
void keep_heaviest(Bitmap& present, std::vector<BFloat16>& energies, std::size_t most);

// `energies`: by rank, of the rows that it has, ascending. Returns for each row of the union the sum over ranks: the
// same number on all ranks, since nothing but additions make it, in the order of ranks.
std::vector<double> energies_of_union(const UnionRows& rows, const std::vector<std::vector<BFloat16>>& energies);

}  // namespace merak
