#pragma once
// Who owns each row of the union: gathers what the others contribute to it, adds it up, and sends the sum to all.
//
// What a rank sends and receives follows from what it owns. Counted in rows, rank p starts with out = the rows that it
// contributes and in = the rows of the union, since every contribution leaves and every sum arrives. Owning a row with
// c contributors, one of them this rank, changes that: its own contribution stays, c - 1 others arrive, n - 1 sums
// leave instead of one arriving:
//
//   a contributor owns it    out + n - 2    in + c - 2
//   another rank owns it     out + n - 1    in + c - 1
//
// but if another rank owns a row with one contributor, the sum does not go back to that one: n - 2 sums leave, and the
// contributor's in falls by 1.
//
// So a contributor is the cheaper owner, and with contributors as owners all ranks together send k n + (n - 2) U rows,
// where k is the mean number of contributed rows and U the size of the union: fewer than the (n - 1)(k + U) of owners
// dealt without regard to who contributes. What counts for time is the largest out or in. Rows are therefore dealt one
// by one, those with the fewest contributors first (they have the fewest cheap owners), each to the contributor that
// ends up with the smallest load, or to another rank when all contributors are far above it: as where one rank
// contributes nearly everything.
//
// A pure function of what all ranks know: every rank deals alike.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sparse/union_rows.h"

namespace merak {

struct Deal {
  std::vector<std::uint32_t> owner;    // by row of the union
  std::vector<std::uint64_t> out, in;  // by rank: rows that it sends and receives

  std::uint64_t most() const;  // of all out and in: what a full-duplex wire is busy with
};

Deal deal(const UnionRows& rows);

}  // namespace merak
