#pragma once
// A link between two ranks of one process: a bounded queue of bytes each way.

#include <memory>
#include <utility>

#include "transport/link.h"

namespace merak {

inline constexpr std::size_t kInProcessCapacity = 1 << 20;  // bytes under way, each way

// The two ends of a new link. They may be used by two threads. A wake function runs on the other end's thread, and must
// do no more than to note that there is something to do: it may not use or destroy a link.
std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> in_process_link(std::size_t capacity = kInProcessCapacity);

}  // namespace merak
