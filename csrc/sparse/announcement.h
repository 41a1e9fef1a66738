#pragma once
// What each rank tells all others first, in one message of the same length everywhere: what it was asked to do, and a
// bitmap of the rows that it contributes to each table. Bitmaps of large tables come later, in fewer bytes
// (presence.h); the announcement then says in how many.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "sparse/bitmap.h"
#include "sparse/fixed_point.h"
#include "sparse/plan.h"
#include "sparse/row_energies.h"
#include "sparse/sketch_layout.h"

namespace merak {

struct Announcement {
  const char* call = "sparse_all_reduce";  // of which operation, for errors
  std::string problem = {};                // what is wrong with what this rank was given; then all ranks fail
  Method method = Method::kAuto;
  bool on_device = false;    // where the rows are; the same on all ranks
  bool only_plans = false;   // nothing is reduced; the same on all ranks
  bool from_zeros = true;    // contributions.h; ranks may differ, and one that wants it is enough
  SketchBudget sketch = {};  // of kSketch
  std::vector<Shape> tables = {};
  std::vector<ExponentRange> exponents = {};      // by table, of this rank's rows; of kSketchExact alone
  std::vector<Bitmap> present = {};               // by table, where bitmaps come with it
  std::vector<std::vector<BFloat16>> norms = {};  // by table, of this rank's rows; of kSketch alone, comes later
  std::size_t presence_bytes = 0;                 // of what comes later
};

inline constexpr std::size_t kMostBitmapBytes = 16 * 1024;  // that come with an announcement

// Whether bitmaps come with the announcement. This and the next two follow from the method and the tables alone.
bool carries_bitmaps(const Announcement& announcement);
// Of what comes later: never more than that.
std::size_t most_presence_bytes(const Announcement& announcement);
std::size_t announcement_bytes(const Announcement& announcement);

void write(const Announcement& announcement, std::byte* to);

// `expected`: this rank's own, with which another rank's must agree; `rank` is whose it is. Throws MismatchError,
// naming both ranks and what they disagree about, or which rank has what problem.
Announcement parse_announcement(const std::byte* from, const Announcement& expected, int rank, int own_rank);

// What comes later: which rows the rank has of each table, and of kSketch their norms.
std::vector<std::byte> write_presence(const Announcement& announcement);
// Completes what `announced` says with it. Throws MismatchError where it makes no sense.
void parse_presence(std::span<const std::byte> bytes, Announcement& announced);

}  // namespace merak
