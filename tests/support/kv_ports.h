#pragma once

#include <utility>

#include "decode_worker/ports.h"
#include "prefill_worker/ports.h"
#include "worker/fetch_ports.h"

namespace test_support {

/// The real sender behind the ports of the prefill part and the lender; connected before the loop runs.
class SenderPort final : public prefill_worker::KvSenderPort, public worker::KvLendPort {
public:
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

/// The real receiver behind the ports of the decode part and the fetcher; connected before the loop runs.
class ReceiverPort final : public decode_worker::KvReceiverPort, public worker::KvFetchPort {
public:
    void connect(kv_transfer::KvReceiver& receiver) { receiver_ = &receiver; }
    void grant(const kv_transfer::GrantRoom& room) override { receiver_->grant(room); }
    void later(const kv_transfer::HandoffKey& key) override { receiver_->later(key); }
    void refuse(const kv_transfer::HandoffKey& key, base::Error error) override {
        receiver_->refuse(key, std::move(error));
    }
    void abort(const kv_transfer::HandoffKey& key, base::Error error) override {
        receiver_->abort(key, std::move(error));
    }
    base::Result<void> fetch(const kv_transfer::FetchKv& wanted) override { return receiver_->fetch(wanted); }

private:
    kv_transfer::KvReceiver* receiver_ = nullptr;
};

}  // namespace test_support
