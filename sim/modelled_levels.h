#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kv_cache/kv_cache.h"
#include "sim/modelled_mover.h"
#include "sim/modelled_worker.h"
#include "worker/known_blocks.h"
#include "worker/kv_tiers.h"
#include "worker/tier_control.h"

namespace sim {

/// The levels below a modelled worker's pool: worker::KvTiers, which decides, over slots (kv_cache::KvCache) and
/// modelled copies. What worker::StepLoop does for KvTiers (StepControl), with lengths.
class ModelledWorker::Below final : private worker::TierControl {
public:
    explicit Below(ModelledWorker& of);

    static worker::TierSequence seen(const Sequence& sequence);
    worker::KvTiers& tiers() { return *tiers_; }
    const worker::KvTiers& tiers() const { return *tiers_; }
    const worker::KnownBlocks& known() const { return known_; }
    /// It has KV memory and runs, unless it loads then.
    void admitted(Sequence& sequence);
    /// What giving way would cost (MemoryCandidate), and who may not.
    void complete(std::vector<worker::MemoryCandidate>& memory) const;

    /// Before the plan of memory: as StepLoop::look_ahead, where that is on. What the pool has of those who were looked
    /// at is not evicted until load_ahead(), after the plan.
    void look_ahead(std::vector<worker::MemoryCandidate>& memory, worker::MemoryCounts& counts);
    void load_ahead(const std::vector<worker::MemoryCandidate>& memory,
                    const std::vector<worker::MemoryAction>& actions);

    void report_blocks(worker::ReportBoard::Wish wish);
    std::optional<base::TimePoint> next_end() const;
    void end_copies();
    LevelUse use() const;
    /// Slots that are lost or used twice, or by nobody; empty: none.
    std::optional<std::string> violation(bool is_idle) const;

private:
    Sequence& at(worker::RequestKey key) const;

    std::optional<worker::TierSequence> find(worker::RequestKey key) const override;
    void make_loading(worker::RequestKey key) override;
    void load_from_end(worker::RequestKey key, const worker::KvFromEnd& range) override;
    void loaded(worker::RequestKey key, base::Result<std::uint32_t> kv_tokens) override;
    std::optional<base::Duration> predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens) const override;
    kv_cache::KvCache& cache() const override { return of_.cache_; }
    const base::Clock& clock() const override { return *of_.options_.clock; }
    [[nodiscard]] bool post(std::function<void()> task) override;
    void tell_load_price(std::size_t level, double seconds_per_token) override;

    ModelledWorker& of_;
    std::vector<std::unique_ptr<kv_cache::KvCache>> slots_;  // by level
    std::vector<std::unique_ptr<ModelledMover>> movers_;     // the same
    worker::KnownBlocks known_;
    std::vector<std::pair<std::uint32_t, kv_cache::PrefixMatch>> looked_ahead_;  // by candidate
    LevelUse use_;
    std::vector<std::function<void()>> tasks_;  // that KvTiers has posted
    std::optional<worker::KvTiers> tiers_;      // its jobs hold slots and blocks: it goes first
};

}  // namespace sim
