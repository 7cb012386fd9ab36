#include "kv_transfer/router.h"

#include "base/check.h"

namespace kv_transfer {

base::Result<net::Target> KvRouter::on_header(net::PeerId from, net::MessageKind kind,
                                              std::span<const std::byte> header, std::size_t payload_bytes) {
    net::Handler* part = nullptr;
    if (kind == kRoomRequest || kind == kFrame || kind == kAbortToDecode) { part = receiver_; }
    if (kind == kRoomReply || kind == kAck || kind == kAbortToPrefill || kind == kFetch) { part = sender_; }
    if (part == nullptr) {
        return base::fail(base::ErrorCode::unimplemented, "no part for kind " + std::to_string(net::raw(kind)));
    }
    return part->on_header(from, kind, header, payload_bytes);
}

void KvRouter::on_payload(net::ReceiveToken token, base::Result<void> outcome) {
    CHECK(receiver_ != nullptr, "only the receiver gives targets");
    receiver_->on_payload(token, std::move(outcome));
}

void KvRouter::on_peer_lost(net::PeerId peer, const base::Error& why) {
    if (sender_ != nullptr) { sender_->on_peer_lost(peer, why); }
    if (receiver_ != nullptr) { receiver_->on_peer_lost(peer, why); }
}

}  // namespace kv_transfer
