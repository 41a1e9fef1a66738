#pragma once
// How the ranks of a group come to an NCCL communicator of merak's own: rank 0 makes its id, and sends it to the others
// over the engine. (Not through the store, where the id of an earlier group of the same name might still be found.)

#include <memory>

#include "backend/membership.h"
#include "collectives/topology.h"
#include "transport/nccl_communicator.h"

namespace merak {

// A collective of the group, started in the same order on all ranks; on each, the GPU to be used is the current one.
// Ctrl-C and the group's end end the wait. Throws NetworkError and TimeoutError, on all ranks.
std::shared_ptr<NcclCommunicator> meet_over_nccl(std::shared_ptr<Membership> membership, const Topology& topology,
                                                 Clock::duration timeout);

}  // namespace merak
