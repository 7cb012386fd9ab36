#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace base {

/// Memory that this process can still take without swapping or being killed.
struct HostMemory {
    std::uint64_t available_bytes = 0;
    std::string limited_by;  // for messages: "the machine", or the control group that allows less
};

/// What the machine has available (MemAvailable), or what the control groups of this process (versions 1 and 2) leave
/// below their limits, whichever is less. Files in the page cache count as available, as the system gives them up when
/// memory runs short. Empty when the system does not say. `root`: where /proc and /sys lie (tests).
std::optional<HostMemory> available_host_memory(const std::filesystem::path& root = "/");

}  // namespace base
