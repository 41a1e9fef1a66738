#include "data/deck.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "data/philox.h"

namespace merak::data {
namespace {

std::uint64_t below_wide(std::uint64_t bits, std::uint64_t bound) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(bits) * bound >> 64);
}

}  // namespace

Deck::Deck(AdmissionOrder order, std::uint64_t batch, std::uint64_t seed)
    : order_(std::move(order)), batch_(batch), key_(stream_key(seed, Purpose::kDeck)) {
  if (batch_ == 0) throw std::invalid_argument("a batch needs one sample at least");
  const std::uint64_t admitted = order_.admitted_at(0);
  if (admitted < batch_)
    throw std::invalid_argument("the first step admits " + std::to_string(admitted) + " samples, a batch has " +
                                std::to_string(batch_) + ": begin the pacing higher, or make the batch smaller");
  cards_.resize(order_.samples.size());
  next_ = first();
}

Deck::Count Deck::first() const { return {0, 0, order_.admitted_at(0), true}; }

void Deck::advance(Count& count) const {
  const std::uint64_t before = order_.admitted_at(count.step), now = order_.admitted_at(++count.step);
  count.left = count.left - batch_ + (now - before);
  count.begins_pass = count.left < batch_;
  if (count.begins_pass) ++count.pass, count.left = now;
}

Deck::Count Deck::begin_of_pass(std::uint64_t step) const {
  Count begin = first();
  const std::uint64_t steady = order_.admitted.size();
  for (Count count = begin; count.step < std::min(step, steady);) {
    advance(count);
    if (count.begins_pass) begin = count;
  }
  if (step <= steady) return begin;
  // From here on every pass has as many steps.
  const std::uint64_t all = order_.samples.size(), steps = all / batch_;
  Count count = begin;
  while (count.step < step && !(count.begins_pass && count.step >= steady)) {
    advance(count);
    if (count.begins_pass && count.step <= step) begin = count;
  }
  if (count.step >= step) return begin;
  const std::uint64_t passes = (step - count.step) / steps;
  return {count.step + passes * steps, count.pass + passes, all, true};
}

void Deck::admit(const Count& count) {
  if (count.begins_pass) {
    std::copy_n(order_.samples.begin(), count.left, cards_.begin());
  } else {
    const std::uint64_t before = order_.admitted_at(count.step - 1);
    std::copy_n(order_.samples.begin() + static_cast<std::ptrdiff_t>(before), count.left - left_,
                cards_.begin() + static_cast<std::ptrdiff_t>(left_));
  }
  left_ = count.left;
}

void Deck::take(std::uint64_t step, std::vector<std::uint32_t>* batch) {
  for (std::uint64_t i = 0; i < batch_; ++i) {
    const RandomWords random = philox(key_, step, i);
    std::uint32_t& card = cards_[below_wide(random.low(), left_)];
    if (batch != nullptr) batch->push_back(card);
    card = cards_[--left_];
  }
}

Deck::Batch Deck::draw(std::uint64_t step) {
  if (step != next_.step) {
    const Count begin = begin_of_pass(step);
    if (begin.step > next_.step || step < next_.step) next_ = begin;
  }
  for (; next_.step < step; advance(next_)) {
    admit(next_);
    take(next_.step, nullptr);
  }
  Batch batch{{}, next_.pass};
  batch.samples.reserve(batch_);
  admit(next_);
  take(step, &batch.samples);
  advance(next_);
  return batch;
}

}  // namespace merak::data
