#pragma once

#include <utility>

#include "decode_worker/ports.h"
#include "worker/fetch_ports.h"

namespace decode_worker {

/// The KvReceiver of a worker as its decode part and its fetcher see it. Made before the receiver, since they come
/// first: the receiver's events go to them.
class ReceiverPort final : public KvReceiverPort, public worker::KvFetchPort {
public:
    /// Before the step loop runs. `receiver` must outlive it.
    void connect(kv_transfer::KvReceiver& receiver) { receiver_ = &receiver; }

    void grant(const kv_transfer::GrantRoom& room) override { receiver_->grant(room); }
    void offer_front(const kv_transfer::FrontOffer& offer) override { receiver_->offer_front(offer); }
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

}  // namespace decode_worker
