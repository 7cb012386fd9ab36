#pragma once

#include <spdlog/spdlog.h>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"

namespace base {

/// Which messages of a kind are written, where a client or a peer can cause as many as it likes: a few in each period,
/// and how many were left out with the next one. Thread-safe.
class LogLimit {
public:
    struct Options {
        std::uint32_t messages_max = 5;  // of one kind, in one period
        Duration period = std::chrono::seconds(10);
        std::size_t kinds_max = 64;  // told apart; all further ones count as one
    };
    LogLimit() : LogLimit(Options{}) {}
    explicit LogLimit(Options options) : options_(options) {}

    /// Empty: it is left out. Else it is to be written, and so many of its kind were left out before it.
    std::optional<std::uint64_t> admit(std::string_view kind, TimePoint now);
    /// The one of this process.
    static LogLimit& shared();

private:
    struct Kind {
        TimePoint period_began;
        std::uint32_t messages = 0;
        std::uint64_t left_out = 0;
    };
    const Options options_;
    std::mutex mutex_;
    std::map<std::string, Kind, std::less<>> kinds_;  // guarded by mutex_
};

/// " (N more of this kind were left out)", or nothing.
std::string left_out_text(std::uint64_t count);

/// As spdlog::log, but through LogLimit::shared(). `kind`: of the message, not of the case: the same for all peers.
template <class... Parts>
void log_limited(spdlog::level::level_enum level, std::string_view kind, spdlog::format_string_t<Parts...> format,
                 Parts&&... parts) {
    if (!spdlog::should_log(level)) { return; }
    const auto left_out = LogLimit::shared().admit(kind, std::chrono::steady_clock::now());
    if (!left_out) { return; }
    spdlog::log(level, "{}{}", fmt::format(format, std::forward<Parts>(parts)...), left_out_text(*left_out));
}
template <class... Parts>
void warn_limited(std::string_view kind, spdlog::format_string_t<Parts...> format, Parts&&... parts) {
    log_limited(spdlog::level::warn, kind, format, std::forward<Parts>(parts)...);
}

}  // namespace base
