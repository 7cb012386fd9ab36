#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "base/block_hash.h"
#include "base/ids.h"
#include "net/transport.h"

namespace kv_transfer {

/// Names one hand-off: one request, one attempt, one life of each of the two workers. Whatever carries another key is
/// late or astray and has no effect.
struct HandoffKey {
    base::RequestId request{};
    base::Epoch epoch{};
    base::Incarnation prefill{};  // who has the KV
    base::Incarnation decode{};   // who gets it
    std::uint32_t run = 0;        // 0: prefill pushes it; else decode fetches it, as this run of its blocks

    bool is_fetch() const { return run != 0; }
    auto operator<=>(const HandoffKey&) const = default;
};

/// "request/epoch" for logs, of a fetch "request/epoch/run".
std::string to_string(const HandoffKey& key);

/// What this worker is. Every message carries it; a message with another model, numerics or protocol is refused.
struct Identity {
    std::string model;                // served model name
    std::uint64_t numerics_id = 0;    // of the engine
    base::Incarnation incarnation{};  // of this process
    base::HashKey key{};              // of the cluster: makes and checks the capability of each hand-off
};

/// The messages of proto/kv_transfer.proto as kinds of net::Message. Part of the wire format.
inline constexpr net::MessageKind kRoomRequest{1};     // to decode
inline constexpr net::MessageKind kRoomReply{2};       // to prefill
inline constexpr net::MessageKind kFrame{3};           // to decode; the only one with a payload
inline constexpr net::MessageKind kAck{4};             // to prefill
inline constexpr net::MessageKind kAbortToDecode{5};   // KvAbort
inline constexpr net::MessageKind kAbortToPrefill{6};  // KvAbort
inline constexpr net::MessageKind kFetch{7};           // to prefill; a worker of protocol 1.1 does not know it

/// Blocks that one fetch may ask for: what a header holds beside a model's name.
inline constexpr std::size_t kFetchBlocksMax = 32;

}  // namespace kv_transfer
