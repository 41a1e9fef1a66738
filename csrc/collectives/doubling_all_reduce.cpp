#include "collectives/doubling_all_reduce.h"

#include <bit>
#include <utility>

#include "collectives/hierarchy.h"

namespace merak {
namespace {

constexpr Place kMessage{kOutput, 0};

class Doubling {
 public:
  Doubling(const std::vector<int>& order, int position, std::size_t bytes)
      : order_(order), size_(static_cast<int>(order.size())), me_(position), bytes_(bytes) {}

  Program run() {
    const int core = static_cast<int>(std::bit_floor(order_.size())), extra = size_ - core;
    if (me_ >= core) {
      program_.send(order_[me_ - core], kMessage, bytes_);
      program_.receive(order_[me_ - core], kMessage, bytes_);  // cannot come before the partner has what was sent
      return std::move(program_);
    }
    if (me_ < extra) fold(receive_from(me_ + core), false, core == 1);
    for (int distance = 1; distance < core; distance *= 2) exchange(me_ ^ distance, 2 * distance == core);
    if (sum_ != kMessage) after_ = {program_.copy(kMessage, sum_, bytes_, after_)};
    if (me_ < extra) program_.send(order_[me_ + core], kMessage, bytes_, after_);
    return std::move(program_);
  }

 private:
  struct Arrival {
    Place place;
    std::uint32_t step;
  };

  Arrival receive_from(int position) {
    const Place place{program_.add_scratch(bytes_), 0};
    return {place, program_.receive(order_[position], place, bytes_)};
  }

  void exchange(int other, bool completes) {
    const std::uint32_t sent = program_.send(order_[other], sum_, bytes_, after_);
    const Arrival arrival = receive_from(other);
    after_.push_back(sent);  // the sum may change only when it has left
    fold(arrival, other < me_, completes);
  }

  // Adds what arrived to the sum; the sum of lower positions is the left operand and keeps the result.
  void fold(Arrival arrival, bool arrived_is_lower, bool completes) {
    after_.push_back(arrival.step);
    const Place left = arrived_is_lower ? arrival.place : sum_, right = arrived_is_lower ? sum_ : arrival.place;
    after_ = {program_.reduce(left, right, bytes_, after_, completes)};
    sum_ = left;
  }

  const std::vector<int>& order_;
  const int size_, me_;
  const std::size_t bytes_;
  Program program_;
  Place sum_ = kMessage;              // where this rank's sum stands
  std::vector<std::uint32_t> after_;  // the steps after which it does
};

}  // namespace

double doubling_all_reduce_seconds(const Topology& topology, std::size_t message_bytes, const Costs& costs) {
  const std::size_t size = topology.host_of.size();
  const std::vector<std::vector<int>> hosts = ranks_by_host(topology);
  const std::size_t locals = hosts.front().size();
  const bool aligned = std::has_single_bit(locals) && locals * hosts.size() == size;  // whole rounds stay inside
  const int all = std::bit_width(size - 1) + (std::has_single_bit(size) ? 0 : 1);
  const int inside = hosts.size() == 1 ? all : aligned ? std::bit_width(locals - 1) : 0;
  return inside * (inside_link(costs).message_s(message_bytes) + inside_link(costs).reduce_s(message_bytes)) +
         (all - inside) *
             (between_link(costs).message_s(static_cast<std::size_t>(most_locals(topology)) * message_bytes) +
              between_link(costs).reduce_s(message_bytes));
}

Program doubling_all_reduce(const std::vector<int>& order, int position, std::size_t message_bytes) {
  if (message_bytes == 0) return {};
  return Doubling(order, position, message_bytes).run();
}

}  // namespace merak
