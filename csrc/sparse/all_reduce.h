#pragma once
// The sparse all-reduce of one rank, in two acts (transport/operation.h): first every rank announces which rows it
// contributes; then all of them make the same plan, and carry it out.

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "sparse/announcement.h"
#include "sparse/own_rows.h"
#include "sparse/plan.h"
#include "transport/operation.h"

namespace merak {

struct SparseTable {  // what this rank has of it
  Shape shape;
  OwnRows own;
  Buffer values;            // the rows of the input, one run of memory
  bool into_table = false;  // the result is a whole table, not the rows of the union
};

struct SparseTask {
  std::string problem = {};  // announcement.h
  std::vector<SparseTable> tables = {};
  Method method = Method::kAuto;
  bool only_plans = false;  // nothing is reduced; the same on all ranks
  bool from_zeros = true;
  Signature signature;  // its kind, dtype and reduction
  Reducer reducer;      // make_sparse_reducer()
  int rank = 0;
  Topology topology;
  Costs costs = {};
  // Makes room for the result of a table, called once for each, in order, when its rows are known: one run of memory
  // for ids.size() rows, that of row ids[u] at u; or for the table, with zeros in the rows that are not among `ids`.
  std::function<void*(std::size_t table, const std::vector<std::uint32_t>& ids)> allocate;
};

// Used by one thread at a time: the one that starts the operation, then a callback thread. Must live as long as the
// operation.
class SparseAllReduce {
 public:
  explicit SparseAllReduce(SparseTask task);

  Act announce();
  Act reduce();  // throws MismatchError when the ranks disagree

  const std::vector<TablePlan>& plans() const { return plans_; }  // by table, once reduce() was called

 private:
  std::vector<UnionRows> unite_tables();

  SparseTask task_;
  Announcement own_;
  std::vector<std::byte> announced_, all_announced_;
  std::vector<TablePlan> plans_;
};

}  // namespace merak
