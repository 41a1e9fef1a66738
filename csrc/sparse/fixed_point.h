#pragma once
// Floating-point values as integers with one exponent for all of them, where that loses nothing: sums of integers do
// not depend on their order, and can be taken apart again (peeling.h).
//
// A value is an integer times 2^low, for some low; its magnitude is less than 2^high. Over all values of all ranks, let
// low be the smallest and high the largest. Then every sum of n values, counted in units of 2^low, is an integer below
// n 2^(high - low), which fits 32 (64) bits when high - low + ceil(log2 n) is at most 31 (63). Values of a type that is
// an integer already, which wraps around, fit as they are.

#include <climits>
#include <cstddef>
#include <cstdint>

#include "transport/signature.h"

namespace merak {

struct ExponentRange {
  int low = INT_MAX, high = INT_MIN;  // of zeros alone, this empty range
  bool representable = true;          // no infinity, no NaN, no negative zero

  void include(const ExponentRange& other);
  bool empty() const { return low > high; }
  bool operator==(const ExponentRange&) const = default;
};

// Of `count` values. Of integer types: the empty range.
ExponentRange exponents_of(DType dtype, const void* values, std::size_t count);

// How many bits the integers need: 32, 64 or, where 64 do not hold them, 0. `ranks`: how many values are added up.
int bits_for(DType dtype, const ExponentRange& range, int ranks);

// To integers of 32 or 64 bits, in units of 2^range.low, and back, divided by `divisor` (of an average; else 1).
// Needs a range that includes the values, and bits_for() them.
void to_fixed_point(DType dtype, const void* values, std::size_t count, const ExponentRange& range, int bits,
                    void* integers);
void from_fixed_point(DType dtype, const void* integers, std::size_t count, const ExponentRange& range, int bits,
                      int divisor, void* values);

}  // namespace merak
