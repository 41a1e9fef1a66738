#include "transport/simulate.h"

#include <algorithm>
#include <queue>
#include <stdexcept>
#include <string>
#include <tuple>

#include "transport/compact_program.h"

namespace merak {
namespace {

constexpr int kUnderWay = 2;  // sends of one rank

// Something that serves one after another, in the order in which they ask.
struct Server {
  double free_s = 0;

  // Returns when the service begins.
  double serve(double now_s, double seconds) {
    const double begin = std::max(now_s, free_s);
    free_s = begin + seconds;
    return begin;
  }
};

enum class What : std::uint8_t { kPrepared, kLeft, kArriving, kArrived, kDone, kGrant };

struct Event {
  double time_s;
  std::uint64_t number;  // events at the same time happen in the order in which they were foreseen
  int rank;
  std::uint32_t step;
  What what;

  bool operator>(const Event& other) const { return std::tie(time_s, number) > std::tie(other.time_s, other.number); }
};

struct Rank {
  Server work, path_out, path_in;
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> ready;  // sends
  int under_way = 0;                                                                     // sends
};

class Simulator {
 public:
  Simulator(const SimulatedCluster& cluster, const std::function<Program(int)>& program_of, bool with_trace)
      : cluster_(cluster), with_trace_(with_trace), ranks_(cluster.host_of.size()) {
    for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank) programs_.emplace_back(program_of(rank));
    match(programs_);
    std::map<int, int> numbers;
    for (int host : cluster.host_of)
      host_.push_back(numbers.try_emplace(host, static_cast<int>(numbers.size())).first->second);
    links_out_.resize(numbers.size());
    links_in_.resize(numbers.size());
  }

  Simulation run() {
    begin();
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_s_ = event.time_s;
      handle(event);
    }
    std::size_t steps = 0;
    for (const CompactProgram& program : programs_) steps += program.items.size() - 1;
    if (steps != done_) throw std::logic_error("simulate: deadlock, " + std::to_string(steps - done_) + " steps left");
    simulation_.seconds = now_s_;
    return std::move(simulation_);
  }

 private:
  using Item = CompactProgram::Item;

  Item& item(int rank, std::uint32_t step) { return programs_[rank].items[step]; }
  bool same_host(int a, int b) const { return host_[a] == host_[b]; }
  double latency_s(int a, int b) const { return same_host(a, b) ? cluster_.latency_inside_s : cluster_.latency_s; }
  double seconds_on_path(int a, int b, std::size_t bytes) const {
    return static_cast<double>(bytes) *
           (same_host(a, b) ? cluster_.seconds_per_byte_inside : cluster_.seconds_per_byte);
  }

  void foresee(double time_s, What what, int rank, std::uint32_t step) {
    events_.push({time_s, number_++, rank, step, what});
  }

  // Grants that come after nothing are known to the sender from the start; then all that waits for nothing begins.
  void begin() {
    for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank)
      for (CompactProgram::Incoming& incoming : programs_[rank].incoming) {
        const bool at_once = incoming.bytes <= cluster_.at_once_bytes;
        for (std::uint32_t i = 0; i < incoming.count; ++i) {
          if (!at_once && item(rank, programs_[rank].receives[incoming.first + i]).waits_for > 0) break;
          item(incoming.peer, programs_[rank].sender[incoming.first + i]).granted = true;
          ++incoming.granted;
        }
      }
    for (int rank = 0; rank < static_cast<int>(ranks_.size()); ++rank)
      for (std::uint32_t step = 0; step + 1 < programs_[rank].items.size(); ++step) {
        if (item(rank, step).kind == StepKind::kReceive) ++item(rank, step).waits_for;  // for what is sent to arrive
        if (item(rank, step).waits_for == 0) ready(rank, step);
      }
  }

  void ready(int rank, std::uint32_t step) {
    const Item& it = item(rank, step);
    if (it.kind == StepKind::kReceive) return work(rank, step, cluster_.per_message_s);
    if (it.kind == StepKind::kSend) return ready_to_send(rank, step);
    work(rank, step, static_cast<double>(it.bytes) * cluster_.reduce_seconds_per_byte);
  }

  void work(int rank, std::uint32_t step, double seconds) {
    const double start = ranks_[rank].work.serve(now_s_, seconds);
    trace(rank, step, start, start + seconds);
    foresee(start + seconds, What::kDone, rank, step);
  }

  void ready_to_send(int rank, std::uint32_t step) {
    if (!item(rank, step).granted) return;
    ranks_[rank].ready.push(step);
    send_next(rank);
  }

  void send_next(int rank) {
    Rank& mine = ranks_[rank];
    if (mine.ready.empty() || mine.under_way == kUnderWay) return;
    const std::uint32_t step = mine.ready.top();
    mine.ready.pop();
    ++mine.under_way;
    foresee(mine.work.serve(now_s_, cluster_.per_message_s) + cluster_.per_message_s, What::kPrepared, rank, step);
    send_next(rank);
  }

  void leave(int rank, std::uint32_t step) {
    const Item& it = item(rank, step);
    const bool inside = same_host(rank, it.peer);
    const double seconds = seconds_on_path(rank, it.peer, it.bytes);
    const double start = (inside ? ranks_[rank].path_out : links_out_[host_[rank]]).serve(now_s_, seconds);
    if (!inside) simulation_.bytes_leaving_host[cluster_.host_of[rank]] += it.bytes;
    trace(rank, step, start, start + seconds);
    foresee(start + seconds, What::kLeft, rank, step);
    foresee(start + latency_s(rank, it.peer), What::kArriving, it.peer, it.partner);
  }

  void arrive(int rank, std::uint32_t step) {
    const Item& it = item(rank, step);
    const double seconds = seconds_on_path(rank, it.peer, it.bytes);
    Server& link = same_host(rank, it.peer) ? ranks_[rank].path_in : links_in_[host_[rank]];
    foresee(link.serve(now_s_, seconds) + seconds, What::kArrived, rank, step);
  }

  void one_less(int rank, std::uint32_t step) {
    if (--item(rank, step).waits_for == 0) ready(rank, step);
  }

  void done(int rank, std::uint32_t step) {
    ++done_;
    const CompactProgram& program = programs_[rank];
    for (std::uint32_t i = item(rank, step).successors; i < item(rank, step + 1).successors; ++i) {
      const std::uint32_t next = program.successors[i];
      one_less(rank, next);
      if (item(rank, next).kind == StepKind::kReceive) grant(rank, item(rank, next).peer);
    }
  }

  // Tells the peer which of its messages may come now: a prefix of them.
  void grant(int rank, int peer) {
    CompactProgram& program = programs_[rank];
    CompactProgram::Incoming& incoming = *program.from(peer);
    while (incoming.granted < incoming.count) {
      const std::uint32_t place = incoming.first + incoming.granted;
      if (item(rank, program.receives[place]).waits_for > 1) break;  // 1: for the message itself
      ++incoming.granted;
      foresee(now_s_ + latency_s(rank, peer), What::kGrant, peer, program.sender[place]);
    }
  }

  void handle(const Event& event) {
    const auto [time_s, number, rank, step, what] = event;
    switch (what) {
      case What::kPrepared:
        return leave(rank, step);
      case What::kLeft:
        --ranks_[rank].under_way;
        done(rank, step);
        return send_next(rank);
      case What::kArriving:
        return arrive(rank, step);
      case What::kArrived:
        return one_less(rank, step);
      case What::kDone:
        return done(rank, step);
      case What::kGrant:
        item(rank, step).granted = true;
        if (item(rank, step).waits_for == 0) ready_to_send(rank, step);
    }
  }

  void trace(int rank, std::uint32_t step, double start_s, double end_s) {
    if (with_trace_) simulation_.trace.push_back({rank, step, start_s, end_s});
  }

  const SimulatedCluster& cluster_;
  const bool with_trace_;
  std::vector<Rank> ranks_;
  std::vector<CompactProgram> programs_;
  std::vector<int> host_;  // by rank: hosts numbered from 0
  std::vector<Server> links_out_, links_in_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t number_ = 0;
  double now_s_ = 0;
  std::size_t done_ = 0;
  Simulation simulation_;
};

}  // namespace

Simulation simulate(const SimulatedCluster& cluster, const std::function<Program(int rank)>& program_of,
                    bool with_trace) {
  return Simulator(cluster, program_of, with_trace).run();
}

}  // namespace merak
