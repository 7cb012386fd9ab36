#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/result.h"

namespace gateway {

// When and how soon a sequence is placed again: what Generation and the simulator's owner of requests go by.

/// Workers that a placement is told to avoid: the scheduler needs the latest, not all.
inline constexpr std::size_t kAvoidMax = 8;

/// Another worker may well succeed.
constexpr bool is_retryable(base::ErrorCode code) {
    switch (code) {
        case base::ErrorCode::aborted:
        case base::ErrorCode::cancelled:
        case base::ErrorCode::data_loss:
        case base::ErrorCode::deadline_exceeded:
        case base::ErrorCode::failed_precondition:
        case base::ErrorCode::resource_exhausted:
        case base::ErrorCode::unavailable:
            return true;
        default:
            return false;
    }
}

/// Until the scheduler is asked again, by what it said: 20 to 500 ms.
constexpr base::Duration retry_pause(std::uint32_t retry_after_ms) {
    return std::clamp<base::Duration>(std::chrono::milliseconds(retry_after_ms) / 4, std::chrono::milliseconds(20),
                                      std::chrono::milliseconds(500));
}

}  // namespace gateway
