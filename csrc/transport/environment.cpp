#include "transport/environment.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string_view>

#include "transport/socket_address.h"

namespace merak::environment {
namespace {

constexpr const char* kCallbackThreads = "MERAK_CALLBACK_THREADS";
constexpr const char* kConnectTimeout = "MERAK_CONNECT_TIMEOUT_S";
constexpr const char* kHostId = "MERAK_HOST_ID";
constexpr const char* kLogLevel = "MERAK_LOG_LEVEL";
constexpr const char* kLostHostTimeout = "MERAK_LOST_HOST_TIMEOUT_S";
constexpr const char* kSocketAddress = "MERAK_SOCKET_ADDRESS";
constexpr const char* kSocketInterfaces = "MERAK_SOCKET_IFNAME";
constexpr const char* kSocketPorts = "MERAK_SOCKET_PORTS";

constexpr int kMostCallbackThreads = 256;
constexpr double kLongestTimeoutSeconds = 24 * 3600;
constexpr std::array<std::string_view, 4> kLevels = {"error", "warning", "info", "debug"};  // as enum LogLevel

const Variable& variable(const std::string& name) {
  const auto& table = all_variables();
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const Variable& candidate) { return candidate.name == name; });
  if (found == table.end()) throw std::logic_error(name + " is missing from the table of environment variables");
  return *found;
}

std::string value_of(const char* name) { return text_of(name).value_or(variable(name).fallback); }

[[noreturn]] void reject(const char* name, const std::string& value) {
  throw std::invalid_argument(std::string(name) + "='" + value + "': expected " + variable(name).type + ".");
}

template <class Number>
std::optional<Number> parse(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::chrono::milliseconds seconds_of(const char* name, double least) {
  const std::string value = value_of(name);
  const auto seconds = parse<double>(value);
  if (!seconds || !(*seconds >= least && *seconds <= kLongestTimeoutSeconds)) reject(name, value);
  return std::chrono::milliseconds(static_cast<std::int64_t>(*seconds * 1000));
}

}  // namespace

const std::vector<Variable>& all_variables() {
  static const std::vector<Variable> table = {
      {kCallbackThreads, "a whole number from 2 to 256", "2", "threads that complete futures and run their callbacks",
       [] { callback_threads(); }},
      {kConnectTimeout, "seconds from 0.1 to 86400", "20",
       "how long to try to connect to a rank that has published its address", [] { connect_timeout(); }},
      {kHostId, "any text", "",
       "ranks with the same text count as sharing one host; by default hostname, boot and network namespace decide",
       [] {}},
      {kLogLevel, "error, warning, info or debug", "warning", "which lines go to standard error", [] { log_level(); }},
      {kLostHostTimeout, "seconds from 0 to 86400", "60",
       "a peer that acknowledges nothing for so long, its host dead or its process stopped, is given up; 0 leaves it "
       "to the kernel (for debuggers)",
       [] { lost_host_timeout(); }},
      {kSocketAddress, "a numeric IPv4 or IPv6 address of this host", "", "the address to listen on",
       [] { socket_address(); }},
      {kSocketInterfaces, "names of network interfaces, separated by commas", "",
       "the interface to listen on: the first of these that this host has; by default the one that leads to the "
       "rendezvous",
       [] { socket_interfaces(); }},
      {kSocketPorts, "two ports, 'from-to', each from 1 to 65535", "",
       "the ports to listen on, for firewalls; by default any free port", [] { socket_ports(); }},
  };
  return table;
}

std::optional<std::string> text_of(const std::string& name) {
  const char* value = std::getenv(variable(name).name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

void check_all() {
  for (const Variable& one : all_variables()) one.check();
}

int callback_threads() {
  const std::string value = value_of(kCallbackThreads);
  const auto threads = parse<int>(value);
  if (!threads || *threads < 2 || *threads > kMostCallbackThreads) reject(kCallbackThreads, value);
  return *threads;
}

std::chrono::milliseconds connect_timeout() { return seconds_of(kConnectTimeout, 0.1); }

std::optional<std::string> host_id() { return text_of(kHostId); }

LogLevel log_level() {
  const std::string value = value_of(kLogLevel);
  const auto found = std::find(kLevels.begin(), kLevels.end(), value);
  if (found == kLevels.end()) reject(kLogLevel, value);
  return static_cast<LogLevel>(found - kLevels.begin());
}

std::chrono::milliseconds lost_host_timeout() { return seconds_of(kLostHostTimeout, 0); }

std::optional<std::string> socket_address() {
  const auto text = text_of(kSocketAddress);
  if (text) try {
      SocketAddress::parse_host(*text);
    } catch (const std::invalid_argument&) {
      reject(kSocketAddress, *text);
    }
  return text;
}

std::vector<std::string> socket_interfaces() {
  std::vector<std::string> names;
  std::istringstream list(value_of(kSocketInterfaces));
  for (std::string name; std::getline(list, name, ',');) {
    if (name.empty()) reject(kSocketInterfaces, list.str());
    names.push_back(name);
  }
  return names;
}

PortRange socket_ports() {
  const std::string value = value_of(kSocketPorts);
  if (value.empty()) return {};
  const std::string_view text = value;
  const std::size_t dash = text.find('-');
  if (dash == text.npos) reject(kSocketPorts, value);
  const auto first = parse<std::uint16_t>(text.substr(0, dash)), last = parse<std::uint16_t>(text.substr(dash + 1));
  if (!first || !last || *first == 0 || *first > *last) reject(kSocketPorts, value);
  return {*first, *last};
}

}  // namespace merak::environment
