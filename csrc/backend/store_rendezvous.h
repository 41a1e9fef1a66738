#pragma once
// How the TCP transport of a group finds its peers: addresses and the group's token, in c10d's store.

#include <memory>
#include <string>

#include "backend/membership.h"
#include "backend/store_client.h"

namespace merak {

// On rank 0: makes the group's token and leaves it in the store, unless that has been done. On others: nothing.
void publish_token(StoreClient& store, int rank);

// What opens the group's connections; asks the store when it is called, and not before. `rendezvous_host` is where
// the store is served, the interface that leads there is the one to listen on; empty when nobody knows.
Membership::MakeTransport tcp_transport_maker(std::shared_ptr<StoreClient> store, GroupIdentity identity,
                                              std::string rendezvous_host);

}  // namespace merak
