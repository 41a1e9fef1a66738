#include "backend/host_identity.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string_view>

#include "transport/environment.h"

namespace merak {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

std::string network_namespace() {
  struct stat status {};
  return stat("/proc/self/ns/net", &status) == 0 ? std::to_string(status.st_ino) : "";
}

// FNV-1a: the same on every host and in every build, as std::hash is not.
std::uint64_t hash(std::string_view text) {
  std::uint64_t value = 14695981039346656037u;
  for (unsigned char c : text) value = (value ^ c) * 1099511628211u;
  return value;
}

}  // namespace

std::string host_identity() {
  const std::optional<std::string> given = environment::host_id();
  const std::string text = given ? *given : host_name() + '\n' + boot_id() + '\n' + network_namespace();
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(hash(text)));
  return digits.data();
}

}  // namespace merak
