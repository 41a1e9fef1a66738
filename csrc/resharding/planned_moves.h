#pragma once
// Moves that are planned and ready to be carried out, as often as anyone likes.
//
// An operation has one reducer (programs.h), so moves that are reduced in different ways are *parts*, carried out one
// after the other, each with a plan of its own: all that is not reduced together with the first way, then the others.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "resharding/local_tensors.h"
#include "resharding/programs.h"
#include "resharding/statement.h"
#include "transport/nccl_rounds.h"
#include "transport/prepared_program.h"

namespace merak {

struct NamedMove {
  std::string name;  // for people; all ranks use the same
  Move move;
};

// Thread-safe.
class PlannedMoves {
 public:
  struct Part {
    std::vector<std::uint32_t> moves;  // which ones of all, in rising order
    MoveBatch batch;
    ReshardPlan plan;
    std::optional<ReducedAs> reduced;
  };

  // Plans. Throws std::invalid_argument as check_move(), check_network() and check_staging() do.
  PlannedMoves(std::vector<NamedMove> moves, Network network, std::size_t most_staging_bytes);
  // Takes plans that were made before, one for each part; throws std::invalid_argument where they do not do what is
  // asked (check_plan.h). Only their transfers, what was chosen and the candidates count.
  PlannedMoves(std::vector<NamedMove> moves, Network network, std::size_t most_staging_bytes,
               std::vector<ReshardPlan> plans);

  const std::vector<NamedMove>& moves() const { return moves_; }
  const Network& network() const { return network_; }
  std::size_t most_staging_bytes() const { return most_staging_bytes_; }
  const std::vector<Part>& parts() const { return parts_; }
  double seconds() const;  // of all parts, by the model
  double bound_s() const;

  // What a rank of the group does in a part; made when it is first asked for.
  std::shared_ptr<const PreparedProgram> program(std::size_t part, int rank) const;
  // The same on a device (nccl_rounds.h).
  std::shared_ptr<const Rounds> rounds(std::size_t part, int rank) const;

  // What all ranks must have been given alike.
  const Statement& statement() const { return statement_; }

  // For errors: the tensors of a step, and which bytes of their payload it moves.
  std::string carried_by(std::size_t part, int rank, std::uint32_t step) const;

 private:
  struct OfRank {  // what a rank carries a part out with
    int rank = -1;
    std::shared_ptr<const PreparedProgram> program;
    std::shared_ptr<const Rounds> rounds;
    std::vector<Carried> carried;  // by step; empty until something is late
  };

  void cut_into_parts();
  void take(std::vector<ReshardPlan> plans);
  Program make_program(const Part& part, int rank) const;
  OfRank& of_rank(std::size_t part, int rank) const;  // under the lock

  std::vector<NamedMove> moves_;
  Network network_;
  std::size_t most_staging_bytes_;
  std::vector<Part> parts_;
  Statement statement_;
  mutable std::mutex mutex_;
  mutable std::vector<OfRank> of_rank_;  // by part: of the rank that was asked for last, which is the process's own
};

// What goes over the links of hosts by a plan, bytes.
struct HostTraffic {
  std::vector<std::size_t> out, in;
};

HostTraffic host_traffic(const ReshardPlan& plan, const Network& network);

}  // namespace merak
