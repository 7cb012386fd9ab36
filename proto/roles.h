#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "proto/common.pb.h"
#include "proto/version.h"

namespace sluice::proto {

/// Which parts of a worker are on. Data, not a type: a role can change without reloading weights.
/// `encode`: pooled vectors of whole prompts, no KV that outlives them.
enum class Role { prefill, decode, mixed, encode };
inline constexpr std::size_t kRoles = 4;

/// Whether such a worker computes prompts of requests that generate.
constexpr bool can_prefill(Role role) {
    return role == Role::prefill || role == Role::mixed;
}
/// Whether it generates tokens.
constexpr bool can_decode(Role role) {
    return role == Role::decode || role == Role::mixed;
}

std::string_view role_name(Role role);
WorkerRole role_message(Role role);
/// Empty for what is no role (unspecified, or one that a newer version adds).
std::optional<Role> role_of(WorkerRole role);

}  // namespace sluice::proto
