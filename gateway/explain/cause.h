#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "base/clock.h"

namespace gateway {

/// Why a request missed a target. docs/explain.md says of each what it means and what helps; the order breaks ties.
enum class Cause {
    queue_prefill,
    prefill,
    handoff,
    queue_decode,
    decode_batch,
    chunk_interference,
    preempted,
    recomputed,
    worker_lost,
    gateway,
    client,
    refused,
    infeasible,
};
inline constexpr std::size_t kCauses = 13;
inline constexpr std::size_t index_of(Cause cause) {
    return static_cast<std::size_t>(cause);
}

/// As the documentation and the metrics call it.
std::string_view name_of(Cause cause);
/// One sentence each: what it means, and what would help.
std::string_view meaning_of(Cause cause);
std::string_view help_for(Cause cause);

/// Time by what it was spent for.
struct Shares {
    std::array<base::Duration, kCauses> spent{};
    /// Of `prefill` or `decode_batch`: what an idle worker is expected to need; 0: not known.
    base::Duration alone{};

    base::Duration& of(Cause cause) { return spent[index_of(cause)]; }
    base::Duration of(Cause cause) const { return spent[index_of(cause)]; }
    void add(const Shares& more);
};

/// The one cause of a delay: `infeasible` where even an idle worker needs more than `target` (0: none), else where most
/// time went beyond what an idle worker needs. Pure.
Cause cause_of(const Shares& shares, base::Duration target);

}  // namespace gateway
