#pragma once

#include <cstdint>
#include <string>

#include "base/config.h"
#include "base/result.h"

namespace base {

/// Settings `log.file`, `log.file_bytes_max`, `log.files_max`: a log that turns over by itself, for who has no journal.
struct LogFile {
    std::string path;  // {role} in it is the role's name; empty: standard error
    std::uint64_t bytes_max = 64 << 20;
    std::uint32_t files_max = 8;  // that are kept besides: of a.log a.1.log, the latest, and so on

    /// Bad values are reported by Config::finish().
    static LogFile read(Config& config);

    /// From here on the process's log goes there; what is said before it runs, and by what is no log, stays where it
    /// was. A write that fails loses its lines and is told on standard error, at most once a second; nobody waits for
    /// it. Once, after init_log() and before there are other threads. Errors: invalid_argument (it cannot be opened),
    /// failed_precondition (another process writes it).
    Result<void> open(const std::string& role) const;
};

}  // namespace base
