#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/sender.h"
#include "worker/fetch_ports.h"
#include "worker/kv_tiers.h"
#include "worker/options.h"
#include "worker/role_part.h"

namespace worker {

/// Lends KV to workers that fetch it: looks the run of blocks up in the prefix index, holds what is there without a gap
/// from its first block on, and hands it over. What only a level below the pool has is loaded first, into memory of the
/// pool that nobody waits for; it gets no name there, so lending pushes nothing out of the index but what is cold. Lent
/// blocks cannot be reused until the hand-off ends, handoff_timeout later at the latest; at most a quarter of the pool
/// is lent at a time, so that requests here find room. A worker that drains goes on lending: others may want what it
/// knows before it goes.
///
/// A helper of the step loop: step thread, except on_event (any thread).
class KvLender final : public RolePart {
public:
    /// `layers`: of the model. All references must outlive this.
    KvLender(const WorkerOptions& options, std::uint32_t layers, StepControl& control, KvLendPort& port,
             base::Metrics& metrics);

    /// Before the first event: what lies below the pool. Borrowed.
    void add_tiers(KvTiers& tiers) { tiers_ = &tiers; }

    /// What the sender says of keys that are fetches: moves the event to the step thread.
    void on_event(kv_transfer::SenderEvent event);

    /// Only at the end: a worker that drains is not kept by those who fetch.
    bool busy() const override { return is_ending_ && !lent_.empty(); }
    void ending() override;

private:
    void apply(const kv_transfer::SenderEvent& event);
    void answer(const kv_transfer::SenderEvent& asked);
    bool load_first(const kv_transfer::SenderEvent& asked, std::uint32_t blocks_max);
    void lend(const kv_transfer::SenderEvent& asked, kv_cache::BlockHold hold, std::uint32_t blocks);
    void refuse(const kv_transfer::SenderEvent& asked, base::ErrorCode code, std::string why);

    const WorkerOptions options_;
    const std::uint32_t layers_;
    StepControl& control_;
    KvLendPort& port_;
    struct Loan {
        kv_cache::BlockHold hold;
        std::uint32_t blocks = 0;  // of it: what is handed over
    };
    std::map<kv_transfer::HandoffKey, Loan> lent_;
    std::uint32_t blocks_lent_ = 0;  // counted once for each hand-off, and while they are loaded for one
    KvTiers* tiers_ = nullptr;
    bool is_ending_ = false;
    prometheus::Counter& lent_total_;
};

}  // namespace worker
