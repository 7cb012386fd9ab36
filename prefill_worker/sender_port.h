#pragma once

#include <utility>

#include "prefill_worker/ports.h"
#include "worker/fetch_ports.h"

namespace prefill_worker {

/// The KvSender of a worker as its prefill part and its lender see it. Made before the sender, since they come first:
/// the sender's events go to them.
class SenderPort final : public KvSenderPort, public worker::KvLendPort {
public:
    /// Before the step loop runs. `sender` must outlive it.
    void connect(kv_transfer::KvSender& sender) { sender_ = &sender; }

    base::Result<void> open(const kv_transfer::OpenHandoff& handoff) override { return sender_->open(handoff); }
    void ready(const kv_transfer::HandoffKey& key, std::uint32_t layer_begin, std::uint32_t layer_end,
               std::uint32_t token_begin, std::uint32_t token_end) override {
        sender_->ready(key, layer_begin, layer_end, token_begin, token_end);
    }
    void abort(const kv_transfer::HandoffKey& key, base::Error error) override {
        sender_->abort(key, std::move(error));
    }
    void refuse_fetch(const kv_transfer::HandoffKey& key, base::Error error,
                      kv_transfer::Slots::Slot fetch_slot) override {
        sender_->refuse_fetch(key, std::move(error), std::move(fetch_slot));
    }

private:
    kv_transfer::KvSender* sender_ = nullptr;
};

}  // namespace prefill_worker
