#pragma once
// The sparse all-reduce of one rank, in acts (transport/operation.h): first every rank announces which rows it
// contributes (of large tables in an act of its own); then all of them make the same plan, and carry it out. With
// kSketchExact there is one act more: the ranks have added up a sketch of all rows (exact_sketch.h), from which each
// recovers the sums by itself; should that fail, which shows on all ranks alike, the last act is that of kBalanced.
// With kSketch the heaviest rows are announced with their norms, and the plan is which rows share the cells of the
// sketch (lossy_sketch.h).
//
// Of rows on a device (on_device) the acts make the plan alone: what they exchange lies in the host's memory. Then each
// rank carries out its device_share() itself (transport/nccl_programs.h).

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "sparse/announcing.h"
#include "sparse/exact_sketch.h"
#include "sparse/lossy_sketch.h"
#include "sparse/own_rows.h"
#include "sparse/plan.h"
#include "sparse/sketch_layout.h"
#include "transport/nccl_rounds.h"
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
  SketchBudget sketch = {};   // of kSketch, which takes one table, of fp32 or fp64, and a cell at least
  bool only_plans = false;    // nothing is reduced; the same on all ranks
  bool on_device = false;     // where values and results are; not with kSketchExact
  bool spoil_sketch = false;  // for tests: nothing can be recovered from it; the same on all ranks
  bool from_zeros = true;
  Signature signature;  // its kind, dtype and reduction
  Reducer reducer;      // make_sparse_reducer()
  int rank = 0;
  Topology topology;
  Costs costs = {};
  // Makes room for the result of a table, called once for each, in order, when its rows are known: one run of memory
  // for ids.size() rows, that of row ids[u] at u; or for the table, with zeros in the rows that are not among `ids`.
  using Allocate = std::function<void*(std::size_t table, const std::vector<std::uint32_t>& ids)>;
  Allocate allocate;
  Allocate allocate_kept = {};  // the same for what this rank keeps, of kSketch with feedback
  // Of kSketch on a device: row_energies.h's energies_of_rows, of a table's values.
  std::function<std::vector<double>(std::size_t table, const RowSums& rows)> energies_on_device = {};
};

// What a rank does once the acts are done, when the rows are on a device.
struct DeviceShare {
  Act act;  // of its input and output a piece is a table's, and no step goes beyond one
  Rounds rounds;
};

// Used by one thread at a time: the one that starts the operation, then a callback thread. Must live as long as the
// operation.
class SparseAllReduce {
 public:
  explicit SparseAllReduce(SparseTask task);

  Act announce();
  int further_acts() const;
  Act next();  // throws MismatchError when the ranks disagree

  // Once the operation is done, of a task on a device: makes room for the results.
  DeviceShare device_share();

  const std::vector<TablePlan>& plans() const { return plans_; }  // by table, once they are made

 private:
  Announcement own_announcement();
  void unite_tables();
  Act reduce();
  std::vector<double> energies_of(std::size_t table) const;
  std::size_t sketch_cells() const;
  void lay_out_cells();
  Act add_sketches();
  Act recover();
  Act last_act();
  void make_room(Act& act);
  Act nothing() const;
  std::vector<Program> programs_of(int rank) const;
  Program as_one(const std::vector<Program>& parts) const;
  std::size_t result_bytes(std::size_t table, const std::vector<std::uint32_t>& ids) const;

  SparseTask task_;
  std::vector<std::vector<std::byte>>
      summed_;  // of kSketchExact, by table: this rank's rows, until the sketch has them
  Announcing announcing_;
  int begun_ = 0;                  // acts
  std::vector<UnionRows> united_;  // by table
  std::vector<TablePlan> plans_;
  std::unique_ptr<ExactSketch> sketch_;
  std::vector<ExponentRange> exponents_;      // of kSketchExact, of all ranks, by table
  std::vector<std::vector<BFloat16>> norms_;  // of kSketch, by rank
  SketchLayout layout_;                       // of kSketch, and what follows from it
  SketchResult sketched_;
};

}  // namespace merak
