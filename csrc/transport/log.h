#pragma once
// Lines for people on standard error, as many as MERAK_LOG_LEVEL asks for. One write call a line, so that the lines of
// many ranks on one terminal do not mix.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace merak {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

// Whom a line is about, as far as it is known: "[merak r3/8 group-name #sequence]".
struct LogContext {
  int rank = -1;
  int size = 0;
  std::string_view group;
  std::optional<std::uint64_t> sequence;  // of an operation
};

// Whether lines of that level are written; ask first when making the text costs something.
bool logs(LogLevel level);

// Thread-safe.
void log(LogLevel level, const LogContext& context, std::string_view text);
inline void log(LogLevel level, std::string_view text) { log(level, {}, text); }

// The line that log() writes, newline included; line breaks in `text` become spaces.
std::string log_line(LogLevel level, const LogContext& context, std::string_view text);

}  // namespace merak
