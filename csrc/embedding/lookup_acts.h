#pragma once
// The lookup of one rank, in acts (transport/operation.h): first every rank announces which rows it reads; then rows
// travel as lookup.h has it, unless they are wanted later. The batch that all ranks know from then on is what rows and
// gradients travel by.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "embedding/prepared_batch.h"
#include "sparse/announcing.h"

namespace merak {

struct LookupTask {
  std::string problem = {};  // sparse/announcement.h
  Split split;
  std::size_t element_bytes = 0;
  OwnRows own = {};  // of this rank's tokens
  int rank = 0;
  Topology topology;
  Signature signature;
  bool only_announce = false;
  std::optional<std::uint32_t> untrained = {};  // prepared_batch.h
  bool prepare_gradient = false;                // while rows travel
  Buffer shard, output;                         // lookup.h's input and output
};

// Which rows these tokens read. Throws std::out_of_range, naming the first id that is none of the table's.
OwnRows rows_of_tokens(std::span<const std::int64_t> ids, std::size_t table_rows);

// The lookup of a batch, or of a part of one, that all ranks know; of no batch, one in which nothing is done. Input and
// output are still to be said.
Act lookup_act(const PreparedBatch* batch, const Signature& signature);

// Used by one thread at a time. Must live as long as the operation.
class LookupActs {
 public:
  explicit LookupActs(LookupTask task);

  Act announce() { return announcing_.first(); }
  int further_acts() const { return announcing_.acts(); }
  Act next();  // throws MismatchError when the ranks disagree

  // Once the operation is done.
  const std::shared_ptr<const PreparedBatch>& batch() const { return batch_; }

 private:
  LookupTask task_;
  Announcing announcing_;
  int begun_ = 0;  // acts
  std::shared_ptr<const PreparedBatch> batch_;
};

}  // namespace merak
