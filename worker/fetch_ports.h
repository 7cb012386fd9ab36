#pragma once

#include <cstdint>

#include "base/result.h"
#include "kv_transfer/receiver.h"
#include "kv_transfer/sender.h"

namespace worker {

/// Where KvFetcher's wishes go: kv_transfer::KvReceiver live (its contract holds here, call by call), the simulator's
/// model of a link there. Called on the step thread. None of the calls waits, none answers from inside: events come
/// later, to KvFetcher::on_event.
class KvFetchPort {
public:
    virtual ~KvFetchPort() = default;

    /// Error: no event follows then.
    [[nodiscard]] virtual base::Result<void> fetch(const kv_transfer::FetchKv& wanted) = 0;
    /// A key that has ended has no effect.
    virtual void abort(const kv_transfer::HandoffKey& key, base::Error error) = 0;
};

/// Where KvLender's answers go: kv_transfer::KvSender live. As above; events come to KvLender::on_event.
class KvLendPort {
public:
    virtual ~KvLendPort() = default;

    /// Error: no event follows then.
    [[nodiscard]] virtual base::Result<void> open(const kv_transfer::OpenHandoff& handoff) = 0;
    virtual void ready(const kv_transfer::HandoffKey& key, std::uint32_t layer_begin, std::uint32_t layer_end,
                       std::uint32_t token_begin, std::uint32_t token_end) = 0;
    virtual void refuse_fetch(const kv_transfer::HandoffKey& key, base::Error error,
                              kv_transfer::Slots::Slot fetch_slot) = 0;
    /// A key that has ended has no effect.
    virtual void abort(const kv_transfer::HandoffKey& key, base::Error error) = 0;
};

}  // namespace worker
