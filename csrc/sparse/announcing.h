#pragma once
// How all ranks come to know which rows each of them has: an all-gather of their announcements (announcement.h), and,
// where bitmaps do not come with those, an exchange of what each announced the length of.

#include <cstddef>
#include <vector>

#include "collectives/topology.h"
#include "sparse/announcement.h"
#include "transport/operation.h"

namespace merak {

// Used by one thread at a time. Must live as long as its acts.
class Announcing {
 public:
  // `signature`: of the operation whose first acts these are; bytes are filled in.
  Announcing(Announcement own, int rank, const Topology& topology, const Signature& signature);

  int acts() const { return carries_bitmaps(own_) ? 1 : 2; }
  Act first();
  // The second act, after the first; of one that has two. Throws MismatchError when the ranks disagree.
  Act second();
  // By rank, after all acts. Throws likewise. Called once.
  std::vector<Announcement> heard();

  const Announcement& own() const { return own_; }

 private:
  void hear();

  Announcement own_;
  const int rank_;
  const Topology topology_;
  const Signature signature_;
  std::vector<std::byte> announced_, all_announced_;
  std::vector<std::byte> presence_, presences_;  // what comes later: of this rank, of all
  std::vector<Announcement> all_;                // by rank; what comes later is added
};

}  // namespace merak
