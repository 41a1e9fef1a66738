#include "transport/faulty_link.h"

#include <algorithm>
#include <stdexcept>

#include "transport/pieces.h"

namespace merak {
namespace {

std::mt19937_64 random_of(std::uint64_t seed, int rank, int peer) {
  std::seed_seq words{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                      static_cast<std::uint32_t>(rank), static_cast<std::uint32_t>(peer)};
  return std::mt19937_64(words);
}

}  // namespace

FaultyLink::FaultyLink(std::unique_ptr<Link> below, std::shared_ptr<FaultyWire> wire, const Faults& faults, int rank,
                       int peer)
    : below_(std::move(below)),
      wire_(std::move(wire)),
      faults_(faults),
      rank_(rank),
      peer_(peer),
      end_(rank < peer ? 0 : 1),
      random_(random_of(faults.seed, rank, peer)) {
  // Nothing would tell the engine to look again at a descriptor that has not changed.
  const bool delays = faults.hold_reads > 0 || faults.latency.count() > 0 || faults.jitter.count() > 0;
  if (!in_memory() && delays) throw std::invalid_argument("only links in memory can be delayed.");
  wire_->attach(end_, descriptor());
}

FaultyLink::~FaultyLink() { wire_->detach(end_); }

std::size_t FaultyLink::write(std::span<const iovec> from) {
  const std::uint64_t left = wire_->left();
  if (left == 0) {
    wire_->die();
    throw LinkClosed("killed by an injected fault");
  }
  const std::uint64_t bytes = std::min(left, shortened(total_bytes(from)));
  const std::size_t moved = below_->write(first_bytes(from, bytes));
  wire_->wrote(end_, moved, draw_delay());
  if (bytes == 0) wire_->wake(end_);  // to try again
  return moved;
}

std::size_t FaultyLink::read(std::span<const iovec> to) {
  if (hold_ > 0) {
    --hold_;
    wire_->wake(end_);
    return 0;
  }
  const bool dead = wire_->dead();  // asked before, as what arrived before the end must be read first
  const std::uint64_t wanted = dead ? total_bytes(to) : shortened(total_bytes(to));
  const std::size_t moved = below_->read(first_bytes(to, std::min(wanted, wire_->readable(end_))));
  if (moved == 0 && dead) throw LinkClosed("killed by an injected fault");
  if (wanted == 0) wire_->wake(end_);
  if (moved == 0) return 0;
  wire_->did_read(end_, moved);
  corrupt(to, moved);
  read_ += moved;
  hold_ = std::uniform_int_distribution(0, faults_.hold_reads)(random_);
  return moved;
}

void FaultyLink::finish_writing() { below_->finish_writing(); }

void FaultyLink::set_wake(std::function<void()> wake) {
  wire_->set_wake(end_, wake);
  below_->set_wake(std::move(wake));
}

std::uint64_t FaultyLink::shortened(std::uint64_t bytes) {
  if (bytes == 0 || !std::bernoulli_distribution(faults_.short_io)(random_)) return bytes;
  return std::uniform_int_distribution<std::uint64_t>(in_memory() ? 0 : 1, bytes)(random_);
}

Clock::duration FaultyLink::draw_delay() {
  return faults_.latency +
         Clock::duration(std::uniform_int_distribution<Clock::rep>(0, faults_.jitter.count())(random_));
}

void FaultyLink::corrupt(std::span<const iovec> to, std::size_t bytes) const {
  if (!faults_.corruption || faults_.corruption->from != peer_ || faults_.corruption->to != rank_) return;
  const std::uint64_t offset = faults_.corruption->offset;
  if (offset >= read_ && offset < read_ + bytes) byte_at(to, offset - read_) ^= std::byte{1};
}

}  // namespace merak
