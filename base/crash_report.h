#pragma once

#include <string>

namespace base {

/// From now on a process that ends by SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGABRT tells on standard error what it is
/// (`who`, one line), which signal it was and in which thread, the address that was touched, and where that thread
/// stood: a line for each frame with file and offset, as `addr2line -Cfie FILE OFFSET` takes them. It then ends by the
/// same signal, so that exit status and core are what they would be without. Handlers that others have set before are
/// replaced. Does nothing under sanitizers, which tell more. Call it once, from the main thread.
void report_crashes(const std::string& who);

}  // namespace base
