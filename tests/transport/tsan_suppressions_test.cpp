// Exceptions are counted by atomics inside libstdc++, which is not instrumented: ThreadSanitizer takes the release of
// one by its last owner, on another thread than its maker's, for a race.

extern "C" const char* __tsan_default_suppressions() {
  return "race:std::__exception_ptr::exception_ptr::_M_release\n";
}
