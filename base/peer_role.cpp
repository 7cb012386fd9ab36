#include "base/peer_role.h"

#include <algorithm>
#include <array>
#include <utility>

namespace base {
namespace {

constexpr std::array<std::pair<PeerRole, std::string_view>, 7> kRoles{{{PeerRole::gateway, "gateway"},
                                                                       {PeerRole::scheduler, "scheduler"},
                                                                       {PeerRole::prefill, "prefill"},
                                                                       {PeerRole::decode, "decode"},
                                                                       {PeerRole::mixed, "mixed"},
                                                                       {PeerRole::encode, "encode"},
                                                                       {PeerRole::operate, "operator"}}};
constexpr std::size_t kWordBytesMax = 63;

bool is_word(std::string_view text) {
    return !text.empty() && text.size() <= kWordBytesMax && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
               c == '_';
    });
}

}  // namespace

std::string_view peer_role_name(PeerRole role) {
    for (const auto& [known, name] : kRoles) {
        if (known == role) { return name; }
    }
    return "unknown";
}

std::optional<PeerRole> peer_role_of(std::string_view name) {
    for (const auto& [role, known] : kRoles) {
        if (known == name) { return role; }
    }
    return std::nullopt;
}

std::string peer_uri(const PeerName& peer) {
    return std::string(kPeerScheme) + peer.cluster + "/" + std::string(peer_role_name(peer.role)) + "/" + peer.name;
}

Result<PeerName> parse_peer_uri(std::string_view uri) {
    const auto bad = [uri] {
        return fail(ErrorCode::invalid_argument,
                    "'" + std::string(uri.substr(0, 200)) +
                        "' is not of the form sluice://CLUSTER/ROLE/NAME, with a role of gateway, scheduler, prefill, "
                        "decode, mixed, encode, operator");
    };
    if (!uri.starts_with(kPeerScheme)) { return bad(); }
    std::string_view rest = uri.substr(kPeerScheme.size());
    const auto first = rest.find('/');
    const auto second = first == std::string_view::npos ? first : rest.find('/', first + 1);
    if (second == std::string_view::npos) { return bad(); }
    PeerName peer;
    peer.cluster = rest.substr(0, first);
    const auto role = peer_role_of(rest.substr(first + 1, second - first - 1));
    peer.name = rest.substr(second + 1);
    if (!role || !is_word(peer.cluster) || !is_word(peer.name)) { return bad(); }
    peer.role = *role;
    return peer;
}

std::string_view peer_call_name(PeerCall call) {
    switch (call) {
        case PeerCall::place:
            return "Scheduler.Place";
        case PeerCall::release:
            return "Scheduler.Release";
        case PeerCall::describe:
            return "Scheduler.Describe";
        case PeerCall::drain:
            return "Scheduler.Drain";
        case PeerCall::attach:
            return "Scheduler.Attach";
        case PeerCall::serve:
            return "Worker.Serve";
        case PeerCall::kv:
            return "the exchange of KV";
    }
    return "an unknown call";
}

}  // namespace base
