#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "worker/board.h"
#include "worker/known_blocks.h"
#include "worker/options.h"
#include "worker/sequence.h"

namespace worker {

/// One sequence's share of a step, as the figures need it.
struct StepShare {
    std::uint32_t tokens = 0;
    std::uint32_t tokens_before = 0;  // whose KV was there already
    bool samples = false;
    bool is_decode() const { return tokens == 1 && samples; }
};

/// Turns what the step loop does into metrics and into reports to the scheduler. Step thread only.
class StepReporter {
public:
    struct Labels {
        std::string model;
        std::string worker;
        Role role = Role::mixed;
    };
    /// Borrows all three.
    StepReporter(kv_cache::KvCache& pool, ReportBoard& board, base::Metrics& metrics, const Labels& labels);
    ~StepReporter();

    /// A step that took `duration` from its launch to its result; `idle_before`: how long the engine had stood still
    /// since the step before (empty: there had been nothing to compute).
    void note_step(const std::vector<StepShare>& shares, base::Duration duration,
                   std::optional<base::Duration> idle_before);
    /// Tokens that came with a sampled one, since a grammar left no choice.
    void note_forced(std::uint32_t tokens);
    void note_prefix(std::uint32_t tokens_queried, std::uint32_t tokens_hit);
    /// Why a sequence lost its KV memory: others of its step grew; one of a higher priority came.
    enum class Preemption : std::uint8_t { growth, priority };
    void note_preemption(Preemption cause);
    /// What is told of blocks, and asked: the pool's, and those of tiers that are added.
    KnownBlocks& known_blocks() { return known_; }
    const KnownBlocks& known_blocks() const { return known_; }
    /// Load, block counts and changes of the prefix index, as they are now, by the role that the board says.
    /// O(sequences and changes), and a bounded part of the index while a scheduler learns all of it. True when there is
    /// more to publish at once.
    bool publish(std::span<const std::unique_ptr<Sequence>> sequences, base::TimePoint now);

private:
    bool publish_blocks();

    const kv_cache::KvCache& pool_;
    KnownBlocks known_;
    ReportBoard& board_;
    base::Metrics& metrics_;
    Labels labels_;  // the role: as told last
    struct Instruments;
    struct OfRole;
    std::unique_ptr<Instruments> instruments_;
    std::unique_ptr<OfRole> of_role_;
};

}  // namespace worker
