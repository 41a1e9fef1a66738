#include "sparse/deal.h"

#include <algorithm>
#include <numeric>

namespace merak {
namespace {

class Dealer {
 public:
  explicit Dealer(const UnionRows& rows) : rows_(rows), ranks_(static_cast<std::uint32_t>(rows.size)) {
    deal_.owner.resize(rows.rows());
    deal_.out.assign(rows.counts.begin(), rows.counts.end());
    deal_.in.assign(ranks_, rows.rows());
    // What is saved by moving a row away from the contributors must be worth the extra message.
    slack_ = 2 * ranks_ + rows.rows() / 64;
  }

  Deal run() {
    for (std::uint32_t u : by_contributors()) give(u, choose(u));
    return std::move(deal_);
  }

 private:
  // A stable counting sort.
  std::vector<std::uint32_t> by_contributors() const {
    std::vector<std::size_t> begin(ranks_ + 2, 0);
    for (std::size_t u = 0; u < rows_.rows(); ++u) ++begin[rows_.of(u).size() + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<std::uint32_t> order(rows_.rows());
    for (std::size_t u = 0; u < rows_.rows(); ++u) order[begin[rows_.of(u).size()]++] = static_cast<std::uint32_t>(u);
    return order;
  }

  std::uint64_t load(std::uint32_t rank) const { return std::max(deal_.out[rank], deal_.in[rank]); }
  // Of two with the same load, the one with less of both.
  bool lighter(std::uint32_t a, std::uint32_t b) const {
    return load(a) != load(b) ? load(a) < load(b) : deal_.out[a] + deal_.in[a] < deal_.out[b] + deal_.in[b];
  }

  std::uint32_t choose(std::uint32_t u) const {
    const auto contributors = rows_.of(u);
    std::uint32_t cheap = contributors.front();
    for (std::uint32_t rank : contributors)
      if (lighter(rank, cheap)) cheap = rank;
    if (contributors.size() == ranks_) return cheap;
    std::uint32_t any = cheap;
    for (std::uint32_t rank = 0; rank < ranks_; ++rank)
      if (lighter(rank, any)) any = rank;
    return load(any) + slack_ < load(cheap) ? any : cheap;
  }

  void give(std::uint32_t u, std::uint32_t owner) {
    const auto contributors = rows_.of(u);
    const std::size_t c = contributors.size();
    const bool contributes = std::find(contributors.begin(), contributors.end(), owner) != contributors.end();
    const bool alone = c == 1 && !contributes;
    // Differences: what wraps around below zero comes back.
    const std::uint64_t own = contributes ? 1 : 0, kept_back = alone ? 1 : 0;
    deal_.owner[u] = owner;
    deal_.out[owner] += std::uint64_t{ranks_} - 1 - own - kept_back;
    deal_.in[owner] += c - own - 1;
    if (alone) deal_.in[contributors.front()] -= 1;
  }

  const UnionRows& rows_;
  const std::uint32_t ranks_;
  std::uint64_t slack_ = 0;
  Deal deal_;
};

}  // namespace

std::uint64_t Deal::most() const {
  std::uint64_t most = 0;
  for (std::size_t rank = 0; rank < out.size(); ++rank) most = std::max({most, out[rank], in[rank]});
  return most;
}

Deal deal(const UnionRows& rows) { return Dealer(rows).run(); }

}  // namespace merak
