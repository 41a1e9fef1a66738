#pragma once
// Which host a rank runs on: ranks with equal identities share a machine's memory and its link to the others.

#include <string>

namespace merak {

// 16 hexadecimal digits: a hash of the host's name, its boot id and its network namespace (so that the hosts of a
// test bed in namespaces, and containers with a network of their own, count as different). MERAK_HOST_ID, if set, takes
// the place of all three, for launchers that know better.
std::string host_identity();

}  // namespace merak
