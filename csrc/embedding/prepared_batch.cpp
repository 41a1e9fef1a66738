#include "embedding/prepared_batch.h"

#include <tuple>
#include <utility>

#include "embedding/gradient.h"
#include "embedding/lookup.h"

namespace merak {
namespace {

// The two parts of a batch.
std::pair<BatchPair::BatchPtr, BatchPair::BatchPtr> divide(const PreparedBatch& batch, const Bitmap& rows) {
  return {std::make_shared<PreparedBatch>(part_among(batch.batch(), rows), batch.untrained()),
          std::make_shared<PreparedBatch>(part_beyond(batch.batch(), rows), batch.untrained())};
}

}  // namespace

const PreparedBatch::ProgramPtr& PreparedBatch::lookup() const {
  std::call_once(has_lookup_, [&] { lookup_ = std::make_shared<PreparedProgram>(merak::lookup(batch_)); });
  return lookup_;
}

const Batch& PreparedBatch::trained() const {
  std::call_once(has_trained_, [&] {
    if (untrained_) trained_ = without_row(batch_, *untrained_);
  });
  return trained_ ? *trained_ : batch_;
}

const PreparedBatch::ProgramPtr& PreparedBatch::gradient() const {
  std::call_once(has_gradient_, [&] { gradient_ = std::make_shared<PreparedProgram>(merak::gradient(trained())); });
  return gradient_;
}

BatchPair::BatchPair(const PreparedBatch& first, const PreparedBatch& second) {
  std::tie(prior, delayed) = divide(first, rows_read(second.batch()));
  std::tie(late, early) = divide(second, rows_read(first.batch()));
  prior->gradient(), delayed->gradient(), late->lookup(), early->lookup();
}

}  // namespace merak
