#pragma once

#include <cstdint>

#include "base/result.h"
#include "kv_transfer/sender.h"

namespace prefill_worker {

/// Where the prefill part's hand-offs go: kv_transfer::KvSender live (its contract holds here, call by call), the
/// simulator's model of a link there. None of the calls waits, none answers from inside: events come later, to
/// PrefillPart::on_event.
class KvSenderPort {
public:
    virtual ~KvSenderPort() = default;

    /// Step thread. Error: no event follows then.
    [[nodiscard]] virtual base::Result<void> open(const kv_transfer::OpenHandoff& handoff) = 0;
    /// Any thread, the engine's too. A key that has ended has no effect.
    virtual void ready(const kv_transfer::HandoffKey& key, std::uint32_t layer_begin, std::uint32_t layer_end,
                       std::uint32_t token_begin, std::uint32_t token_end) = 0;
    /// Step thread. A key that has ended has no effect.
    virtual void abort(const kv_transfer::HandoffKey& key, base::Error error) = 0;
};

}  // namespace prefill_worker
