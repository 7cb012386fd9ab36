#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proto/roles.h"

namespace sim {

/// Who says where a request runs. `sluice`: the production scheduler; all others are functions of this file, for
/// comparison, and refuse nothing.
enum class Policy { sluice, sluice_no_admission, round_robin, least_load, cache_aware };

/// Error: invalid_argument with the names there are.
base::Result<Policy> parse_policy(std::string_view name);
std::string_view policy_name(Policy policy);
/// Whether the production scheduler decides, with or without its admission.
inline bool is_scheduler(Policy policy) {
    return policy == Policy::sluice || policy == Policy::sluice_no_admission;
}

/// A worker as a plain router knows it: by what it sent there itself, at once and exactly.
struct RoutedWorker {
    proto::Role role = proto::Role::mixed;
    bool is_up = false;
    std::uint32_t requests = 0;       // sent and not ended
    std::uint64_t prompt_tokens = 0;  // of those without a first token, believed not to be cached there
    std::uint32_t cached_blocks = 0;  // of this prompt, as its reports say
    std::uint32_t block_tokens = 1;
    std::uint64_t kv_tokens = 0;  // room when empty
};
struct RoutedRequest {
    std::uint32_t prompt_tokens = 0;
    std::uint32_t new_tokens_max = 0;
};
struct Route {
    std::uint32_t prefill = 0;  // index
    std::uint32_t decode = 0;   // equal: both phases there
    std::uint32_t cached_tokens = 0;
};

/// Empty: no worker that is up could ever hold it. `turn`: how many were routed before. Ties go to the lower index.
/// Pure. O(workers).
///
/// round_robin: workers for the phase in turn. least_load: the fewest requests. cache_aware: the fewest prompt tokens
/// to compute, those that wait there and what is not cached of this one (Mooncake, Qin et al., FAST 2025, section 6,
/// without its estimates of time and its rejections); decode goes to the fewest requests.
std::optional<Route> route(Policy policy, std::span<const RoutedWorker> workers, const RoutedRequest& request,
                           std::uint64_t turn);

}  // namespace sim
