#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace base {

/// What a process may be in a cluster, as its certificate says. `operate`: no process of it, but who runs it (sluice
/// drain).
enum class PeerRole { gateway, scheduler, prefill, decode, mixed, encode, operate };

std::string_view peer_role_name(PeerRole role);
std::optional<PeerRole> peer_role_of(std::string_view name);

/// Who the bearer of a certificate is: its one name of the form sluice://CLUSTER/ROLE/NAME among the subject's
/// alternative names (URI). CLUSTER and NAME: 1 to 63 letters, digits, '.', '-', '_'.
struct PeerName {
    std::string cluster;
    PeerRole role = PeerRole::operate;
    std::string name;
    bool operator==(const PeerName&) const = default;
};
inline constexpr std::string_view kPeerScheme = "sluice://";
std::string peer_uri(const PeerName& peer);
/// Error: invalid_argument.
Result<PeerName> parse_peer_uri(std::string_view uri);

/// What processes ask of each other. The first five are asked of a scheduler, `serve` of a worker; `kv` is the exchange
/// of KV between two workers, the same for both ends.
enum class PeerCall { place, release, describe, drain, attach, serve, kv };
std::string_view peer_call_name(PeerCall call);

constexpr bool is_worker_role(PeerRole role) {
    return role == PeerRole::prefill || role == PeerRole::decode || role == PeerRole::mixed || role == PeerRole::encode;
}

/// The matrix of docs/security.md: who may ask it.
constexpr bool may_call(PeerRole caller, PeerCall call) {
    switch (call) {
        case PeerCall::place:
        case PeerCall::release:
        case PeerCall::serve:
            return caller == PeerRole::gateway;
        case PeerCall::describe:
            return caller == PeerRole::gateway || caller == PeerRole::operate;
        case PeerCall::drain:
            return caller == PeerRole::operate;
        case PeerCall::attach:
            return is_worker_role(caller);
        case PeerCall::kv:
            return is_worker_role(caller) && caller != PeerRole::encode;
    }
    return false;
}

/// Of whom a channel asks.
enum class PeerKind { scheduler, worker };
constexpr bool is_of_kind(PeerRole role, PeerKind kind) {
    return kind == PeerKind::scheduler ? role == PeerRole::scheduler : is_worker_role(role);
}

/// Whether the bearer of a certificate of role `certified` may run a worker of role `run`. A mixed worker may give up
/// one half of what it does, nobody may take more.
constexpr bool may_run_as(PeerRole certified, PeerRole run) {
    return certified == run || (certified == PeerRole::mixed && (run == PeerRole::prefill || run == PeerRole::decode));
}

}  // namespace base
