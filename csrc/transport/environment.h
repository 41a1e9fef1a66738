#pragma once
// The environment variables that merak reads at run time: the one table, for `merak env` and the docs, and an accessor
// for each. (What `setup.py` reads while building stands there.)
//
// An accessor reads the environment when it is called. A variable that is unset or empty has its default. A value that
// cannot be understood throws std::invalid_argument, which names the variable and what it may be.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "transport/log.h"

namespace merak {

struct PortRange {
  std::uint16_t first = 0, last = 0;  // both included; 0 to 0: the kernel picks a free port

  bool operator==(const PortRange&) const = default;
};

}  // namespace merak

namespace merak::environment {

struct Variable {
  const char* name;
  const char* type;      // what a value looks like
  const char* fallback;  // the default, as one would write it; "" for none
  const char* doc;       // one line
  void (*check)();       // throws what the accessor throws
};

// Sorted by name.
const std::vector<Variable>& all_variables();

// The value as it stands in the environment; nothing when it is unset or empty. Needs a name from the table.
std::optional<std::string> text_of(const std::string& name);

// Throws the first error of all accessors: whatever uses one of them only later is told at once.
void check_all();

int callback_threads();                         // MERAK_CALLBACK_THREADS
std::chrono::milliseconds connect_timeout();    // MERAK_CONNECT_TIMEOUT_S
std::optional<std::string> host_id();           // MERAK_HOST_ID
LogLevel log_level();                           // MERAK_LOG_LEVEL
std::chrono::milliseconds lost_host_timeout();  // MERAK_LOST_HOST_TIMEOUT_S; zero: the kernel decides
std::optional<std::string> socket_address();    // MERAK_SOCKET_ADDRESS: numeric
std::vector<std::string> socket_interfaces();   // MERAK_SOCKET_IFNAME, in order of preference; empty: any
PortRange socket_ports();                       // MERAK_SOCKET_PORTS

}  // namespace merak::environment
