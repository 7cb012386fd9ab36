#pragma once

#include <cstdint>
#include <vector>

namespace cli {

/// Processors that this process may use (its affinity mask).
std::uint32_t usable_cores();

/// Compute threads of each of `workers` (> 0) workers, so that together they are `cores` (> 0); earlier workers get the
/// remainder. With more workers than cores each gets one, and they share.
std::vector<std::uint32_t> divide_cores(std::uint32_t cores, std::uint32_t workers);

}  // namespace cli
