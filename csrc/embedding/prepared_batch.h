#pragma once
// A batch with what travels by it, each made when it is first asked for: programs are made beside other work, by a
// thread that has time, rather than when all ranks wait for the first message. And two batches that follow each other,
// in the parts of which merak/embedding/table_ahead.py has the uses.

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "embedding/batch.h"
#include "transport/prepared_program.h"

namespace merak {

// Thread-safe.
class PreparedBatch {
 public:
  using ProgramPtr = std::shared_ptr<const PreparedProgram>;

  // `untrained`: a row that gets no gradient.
  PreparedBatch(Batch batch, std::optional<std::uint32_t> untrained)
      : batch_(std::move(batch)), untrained_(untrained) {}

  const Batch& batch() const { return batch_; }
  std::optional<std::uint32_t> untrained() const { return untrained_; }
  const ProgramPtr& lookup() const;
  // Whose gradient it has: all rows but that one.
  const Batch& trained() const;
  const ProgramPtr& gradient() const;

 private:
  const Batch batch_;
  const std::optional<std::uint32_t> untrained_;
  mutable std::once_flag has_lookup_, has_trained_, has_gradient_;
  mutable std::optional<Batch> trained_;  // if it is another than batch_
  mutable ProgramPtr lookup_, gradient_;
};

struct BatchPair {
  using BatchPtr = std::shared_ptr<const PreparedBatch>;

  BatchPair(const PreparedBatch& first, const PreparedBatch& second);

  BatchPtr prior, delayed;  // of the first: the rows that the second reads, too, and the others
  BatchPtr late, early;     // of the second: the rows that the first reads, too, and the others
};

}  // namespace merak
