#pragma once

#include <cstdint>

namespace proto {

/// Version of every message between the processes of Sluice. Raised when an older process could misread a newer one.
inline constexpr std::uint32_t kProtocolVersion = 1;

}  // namespace proto
