#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "scheduler/place.h"

namespace scheduler {

/// What decisions say when they refuse.

/// A worker that has nothing but draining neighbours is back, or replaced, within seconds; so do workers attach again.
inline constexpr std::uint32_t kRetryWithoutWorkerMs = 2'000;

/// Retry-After where room is predicted `seconds` from now: not at once, for who asks is one of many, and not later than
/// anybody knows.
inline std::uint32_t retry_after_ms(double seconds) {
    return static_cast<std::uint32_t>(std::clamp(seconds * 1e3, 1'000.0, 60'000.0));
}

inline Refusal refuse(base::ErrorCode code, std::string message, std::uint32_t retry_ms, std::string_view reason) {
    return {.error = {code, std::move(message)}, .retry_after_ms = retry_ms, .reason = reason};
}

}  // namespace scheduler
