#pragma once
// Batches of the samples that a curriculum admits, without replacement.
//
// The *deck* holds the samples that this *pass* has not drawn yet. A step first adds those that it newly admits, then
// draws a *batch* of cards: each draw takes one of those left, all equally likely (the steps of a Fisher-Yates
// shuffle). If fewer than a batch are left, a new pass begins: the deck is all that is admitted. So no sample comes
// twice before all others have come, but for the less than a batch that a pass leaves over, and never twice in a batch.
// (Independent draws would be simpler. They leave out a third of the samples in the time of one pass, while others come
// two and three times: a waste of text, which is what a curriculum is there to save.)
//
// How many cards are left at which step follows from the numbers admitted, and the random numbers of a step from (seed,
// step). A pass begins with the admitted samples in the order of their admission. So the batch of a step is a function
// of (seed, step), whatever was drawn before in this process: to begin at any step, the deck is dealt from the
// beginning of its pass.
//
// Time: a batch takes a random number and a move of a card for each sample, whatever the size of the data; the first of
// a pass copies the list of the admitted; beginning at a step takes as long as the draws of its pass before it. Memory:
// 4 bytes a sample.

#include <cstdint>
#include <vector>

#include "data/admission.h"

namespace merak::data {

class Deck {
 public:
  // Throws std::invalid_argument if the first step admits fewer samples than a batch has, or `batch` is 0.
  Deck(AdmissionOrder order, std::uint64_t batch, std::uint64_t seed);

  struct Batch {
    std::vector<std::uint32_t> samples;
    std::uint64_t pass;  // passes that had ended before
  };
  // The batch of a step: consecutive steps are fastest.
  Batch draw(std::uint64_t step);

  const AdmissionOrder& order() const { return order_; }
  std::uint64_t batch() const { return batch_; }

 private:
  // How many cards are left, before a step draws and after it admits; follows the numbers alone.
  struct Count {
    std::uint64_t step = 0, pass = 0, left = 0;
    bool begins_pass = true;
  };
  Count first() const;
  void advance(Count& count) const;
  Count begin_of_pass(std::uint64_t step) const;

  void admit(const Count& count);
  void take(std::uint64_t step, std::vector<std::uint32_t>* batch);

  AdmissionOrder order_;
  std::uint64_t batch_, key_;
  std::vector<std::uint32_t> cards_;  // the first left_ are to be drawn
  std::uint64_t left_ = 0;
  Count next_;  // the step that cards_ are for
};

}  // namespace merak::data
