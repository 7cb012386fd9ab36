#include "base/host_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string_view>

namespace base {
namespace {

namespace fs = std::filesystem;

/// The number behind `key` in a file of lines "key number". Empty when there is none.
std::optional<std::uint64_t> field(const fs::path& path, std::string_view key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with(key) || line.size() <= key.size()) { continue; }
        const std::size_t begin = line.find_first_not_of(" \t", key.size());
        if (begin == key.size() || begin == std::string::npos) { continue; }
        std::uint64_t number = 0;
        const auto read = std::from_chars(line.data() + begin, line.data() + line.size(), number);
        if (read.ec == std::errc{}) { return number; }
    }
    return std::nullopt;
}

/// The number that is all of a file. Empty also for "max".
std::optional<std::uint64_t> only_number(const fs::path& path) {
    std::ifstream file(path);
    std::uint64_t number = 0;
    if (!(file >> number)) { return std::nullopt; }
    return number;
}

/// The names of the files of one version of control groups.
struct GroupFiles {
    const char* limit;
    const char* usage;
    const char* inactive_file;  // of memory.stat
    const char* active_file;
};
constexpr GroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                               "total_active_file"};
constexpr GroupFiles kVersion2{"memory.max", "memory.current", "inactive_file", "active_file"};

/// What a group leaves. Empty when it has no limit, or is not there.
std::optional<std::uint64_t> left_of(const fs::path& group, const GroupFiles& names) {
    const auto limit = only_number(group / names.limit);
    const auto usage = only_number(group / names.usage);
    if (!limit || !usage) { return std::nullopt; }
    const std::uint64_t cache = field(group / "memory.stat", names.inactive_file).value_or(0) +
                                field(group / "memory.stat", names.active_file).value_or(0);
    const std::uint64_t kept = *usage - std::min(*usage, cache);
    return *limit - std::min(*limit, kept);
}

/// Lowers `memory` to what `path` below `mount` and the groups above it leave. In a container the path may be the one
/// that the host sees, of which only the end, or nothing, is there: what is not there is passed over.
void lower_to_groups(const fs::path& mount, const fs::path& path, const GroupFiles& names, HostMemory& memory) {
    for (fs::path group = path.relative_path();; group = group.parent_path()) {
        if (const auto left = left_of(mount / group, names); left && *left < memory.available_bytes) {
            memory.available_bytes = *left;
            memory.limited_by = "the control group /" + group.string();
        }
        if (group.empty()) { return; }
    }
}

}  // namespace

std::optional<HostMemory> available_host_memory(const fs::path& root) {
    const auto kib = field(root / "proc/meminfo", "MemAvailable:");
    if (!kib) { return std::nullopt; }
    HostMemory memory{*kib * 1024, "the machine"};
    std::ifstream groups(root / "proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // "number:controllers:path"
        const std::size_t first = line.find(':');
        const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) { continue; }
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const fs::path path = line.substr(second + 1);
        if (controllers == ",,") {
            lower_to_groups(root / "sys/fs/cgroup", path, kVersion2, memory);
        } else if (controllers.find(",memory,") != std::string::npos) {
            lower_to_groups(root / "sys/fs/cgroup/memory", path, kVersion1, memory);
        }
    }
    return memory;
}

}  // namespace base
