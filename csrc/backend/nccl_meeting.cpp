#include "backend/nccl_meeting.h"

#include <string>
#include <utility>

#include "backend/interruptible_wait.h"
#include "collectives/choose.h"
#include "transport/errors.h"

namespace merak {
namespace {

struct Invitation {  // rank 0's
  NcclUniqueId id = {};
  char problem[512] = {};  // why there is no id; ends with a zero
};

Invitation invite() {
  Invitation invitation;
  try {
    invitation.id = new_nccl_id(loaded_nccl());
  } catch (const std::exception& error) {
    std::string(error.what()).copy(invitation.problem, sizeof invitation.problem - 1);
  }
  return invitation;
}

Invitation broadcast(Invitation invitation, Membership& membership, const Topology& topology, Clock::duration timeout) {
  const auto shared = std::make_shared<Invitation>(invitation);
  const CollectiveShape shape{.kind = OperationKind::kBroadcast, .root = 0, .bytes = sizeof(Invitation)};
  Request request;
  request.signature = {.kind = shape.kind, .dtype = DType::kBytes, .root = 0, .bytes = shape.bytes};
  request.program = std::make_shared<PreparedProgram>(choose(shape, membership.identity().rank, topology).program);
  request.output.append(shared.get(), sizeof(Invitation));
  request.timeout = timeout;
  request.keep_alive = shared;
  wait_interruptibly(*Engine::process().start(*membership.group(timeout), std::move(request)));
  return *shared;
}

}  // namespace

std::shared_ptr<NcclCommunicator> meet_over_nccl(std::shared_ptr<Membership> membership, const Topology& topology,
                                                 Clock::duration timeout) {
  const GroupIdentity& me = membership->identity();
  const auto until = Clock::now() + timeout;
  const Invitation found = broadcast(me.rank == 0 ? invite() : Invitation(), *membership, topology, timeout);
  if (found.problem[0] != 0)
    throw NetworkError("group '" + me.name + "', rank 0 cannot invite to a communicator: " + found.problem);
  const auto check = [membership] {
    membership->check_usable();
    if (const auto failure = membership->failure()) std::rethrow_exception(failure);
    handle_signals();
  };
  return std::make_shared<NcclCommunicator>(loaded_nccl(), found.id, me.rank, me.size, until - Clock::now(), check);
}

}  // namespace merak
