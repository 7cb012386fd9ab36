#pragma once

#include <cstdint>
#include <functional>
#include <optional>

namespace kv_transfer {

/// KV of consecutive blocks that lies elsewhere (a level below the pool, another worker): it can be loaded, computed,
/// or both at once. Computing needs all KV before a token, so it begins at the front; loading then begins at the end,
/// and they meet. Whose block is whose changes no bit of it.

/// Seconds that blocks [begin, end) take. Not negative; more blocks take no less.
using BlockSeconds = std::function<double(std::uint32_t begin, std::uint32_t end)>;

struct Meeting {
    std::uint32_t block = 0;  // the first that is loaded; all before it are computed
    double seconds = 0;       // until both are done
};

/// Where computing from `begin` on and loading from `end` back are done soonest. Pure. O(log blocks) calls.
Meeting meeting_of(std::uint32_t begin, std::uint32_t end, const BlockSeconds& computing, const BlockSeconds& loading);

enum class KvWay { load, compute, both };

/// What each way is expected to take.
struct KvWaySeconds {
    double load = 0;
    double compute = 0;
    double both = 0;  // Meeting::seconds
};

/// Both ends at once must save so much of what the quicker one takes alone: it takes steps from others.
inline constexpr double kBothSave = 0.15;

/// Whether what takes so long has come when the first token is due, with some margin. Nobody said when: no.
bool loads_in_time(double load_seconds, std::optional<double> left_seconds);

/// The way to take. `left_seconds`: until the first token is due. Loading alone where that is in time with some margin,
/// since it takes no step from others; else the quickest, where both at once count as quick from kBothSave on. Pure.
KvWay choose_kv_way(const KvWaySeconds& seconds, std::optional<double> left_seconds);

}  // namespace kv_transfer
