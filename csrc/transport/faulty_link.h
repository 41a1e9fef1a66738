#pragma once
// A link on which things go wrong.

#include <memory>
#include <random>

#include "transport/faults.h"
#include "transport/faulty_wire.h"
#include "transport/link.h"

namespace merak {

class FaultyLink : public Link {
 public:
  // Throws std::invalid_argument when faults are asked for that only a link in memory can have.
  FaultyLink(std::unique_ptr<Link> below, std::shared_ptr<FaultyWire> wire, const Faults& faults, int rank, int peer);
  ~FaultyLink() override;

  std::size_t write(std::span<const iovec> from) override;
  std::size_t read(std::span<const iovec> to) override;
  void finish_writing() override;
  bool drained() const override { return below_->drained(); }
  int descriptor() const override { return below_->descriptor(); }
  void set_wake(std::function<void()> wake) override;

 private:
  bool in_memory() const { return descriptor() < 0; }
  std::uint64_t shortened(std::uint64_t bytes);
  Clock::duration draw_delay();
  void corrupt(std::span<const iovec> to, std::size_t bytes) const;

  const std::unique_ptr<Link> below_;
  const std::shared_ptr<FaultyWire> wire_;
  const Faults faults_;
  const int rank_, peer_, end_;
  std::mt19937_64 random_;
  int hold_ = 0;            // reads that will find nothing
  std::uint64_t read_ = 0;  // bytes so far
};

}  // namespace merak
