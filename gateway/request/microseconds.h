#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

#include "base/clock.h"

namespace gateway {

/// As messages carry a duration that is known: at least 1, since 0 means that there is none.
inline std::uint32_t as_us(base::Duration duration) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 1, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace gateway
