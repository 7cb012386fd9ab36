#pragma once

#include <cstddef>

#include "kv_transfer/receiver.h"
#include "kv_transfer/sender.h"
#include "net/transport.h"

namespace kv_transfer {

/// Events of both that can wait for the step thread at once: what its queue must hold, because a lost `released` would
/// strand blocks.
constexpr std::size_t events_max(const KvSender::Options& sender, const KvReceiver::Options& receiver) {
    return SenderEvent::kPerHandoff * sender.handoffs_max + SenderEvent::kPerFetch * sender.fetches_max +
           ReceiverEvent::kPerHandoff * receiver.handoffs_max + ReceiverEvent::kPerFetch * receiver.fetches_max;
}

/// Gives one transport to the sender and the receiver of one worker (either may be null): each message goes to the part
/// that its kind is meant for.
///
///     KvSender sender{..., *transport, ...};
///     KvReceiver receiver{..., *transport, ...};
///     KvRouter router{&sender, &receiver};
///     transport->start(router);           // and in the end: sender.stop(), receiver.stop(), transport->stop()
class KvRouter final : public net::Handler {
public:
    /// Borrowed: both must live until the transport has stopped.
    KvRouter(KvSender* sender, KvReceiver* receiver) : sender_(sender), receiver_(receiver) {}

    base::Result<net::Target> on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte> header,
                                        std::size_t payload_bytes) override;
    void on_payload(net::ReceiveToken token, base::Result<void> outcome) override;
    void on_peer_lost(net::PeerId peer, const base::Error& why) override;

private:
    KvSender* sender_;
    KvReceiver* receiver_;
};

}  // namespace kv_transfer
