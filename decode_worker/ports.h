#pragma once

#include "base/result.h"
#include "kv_transfer/receiver.h"

namespace decode_worker {

/// Where the decode part's answers to hand-offs go: kv_transfer::KvReceiver live (its contract holds here, call by
/// call), the simulator's model of a link there. Called on the step thread. None of the calls waits, none answers from
/// inside: events come later, to DecodePart::on_event. A key that has ended has no effect.
class KvReceiverPort {
public:
    virtual ~KvReceiverPort() = default;

    virtual void grant(const kv_transfer::GrantRoom& room) = 0;
    virtual void offer_front(const kv_transfer::FrontOffer& offer) = 0;
    virtual void later(const kv_transfer::HandoffKey& key) = 0;
    virtual void refuse(const kv_transfer::HandoffKey& key, base::Error error) = 0;
    virtual void abort(const kv_transfer::HandoffKey& key, base::Error error) = 0;
};

}  // namespace decode_worker
