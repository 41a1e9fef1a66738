#pragma once
// Starts the threads of merak's own.

#include <functional>
#include <thread>

namespace merak {

// A thread that shows as `name` (at most 15 characters) in debuggers and top, and that takes no signals: they belong to
// the program's threads, where a wait must be interrupted by Ctrl-C.
std::thread start_thread(const char* name, std::function<void()> run);

}  // namespace merak
