#include "transport/log.h"

#include <unistd.h>

#include <algorithm>
#include <exception>

#include "transport/environment.h"

namespace merak {
namespace {

void write_line(const std::string& line) {
  // Nobody can be told that standard error is closed.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

// A logger must not throw, so a level that cannot be understood is reported here, and the default holds.
LogLevel read_level() {
  try {
    return environment::log_level();
  } catch (const std::exception& error) {
    write_line(log_line(LogLevel::kError, {}, error.what()));
    return LogLevel::kWarning;
  }
}

const char* name(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "error";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kDebug:
      return "debug";
  }
  return "";
}

}  // namespace

bool logs(LogLevel level) {
  static const LogLevel most = read_level();
  return level <= most;
}

void log(LogLevel level, const LogContext& context, std::string_view text) {
  if (logs(level)) write_line(log_line(level, context, text));
}

std::string log_line(LogLevel level, const LogContext& context, std::string_view text) {
  std::string line = "[merak";
  if (context.rank >= 0) line += " r" + std::to_string(context.rank) + "/" + std::to_string(context.size);
  if (!context.group.empty()) line.append(" ").append(context.group);
  if (context.sequence) line += " #" + std::to_string(*context.sequence);
  line.append("] ").append(name(level)).append(": ").append(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line + "\n";
}

}  // namespace merak
