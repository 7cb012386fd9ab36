#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/rate/both_ends.h"
#include "kv_transfer/tier/tier.h"
#include "worker/options.h"
#include "worker/tier_control.h"

namespace worker {

/// Loads, and as many other jobs, that wait for one level.
inline constexpr std::uint32_t kTierJobsMax = 64;
/// Blocks of the usual 16 tokens that go to host memory at once: FastSwitch's groups; a copy each would be many small
/// ones.
inline constexpr std::uint32_t kTierSaveBlocks = 8;

/// The levels below the KV pool (docs/kv-memory.md). What a sequence computed is copied out while it lives, in runs of
/// neighbouring blocks, beside the steps; so when it gives up its memory, for good or for a while, next to nothing has
/// to be moved first. Whoever is admitted and finds less of its tokens in the pool than a level has, loads the rest
/// (`loading`, as by KvFetcher) where that is predicted to be quicker than computing it; or both at once, where that is
/// quicker than either by what counts and loading alone would not be in time for its first token: steps compute from
/// the front, pieces are loaded from the end back, and where they meet follows from what both took lately, looked at
/// anew after each piece (kv_transfer/rate/both_ends.h). So it is, too, while nobody knows yet what steps take and
/// loading would be noticed, or what the level gives: then either end tries a little first. Whatever fails is computed,
/// and so is what is not there when all of it would have been.
///
/// A level is named by block hashes as the pool is, so a block lies there once, however many sequences and turns it
/// belongs to, and only what is new goes out (FastSwitch, Shen et al. 2024, section 3.3: reuse across turns; the group
/// of a sequence grows in place there as it does in the pool).
///
/// What lies below of those who get memory next is loaded before they have it, a piece after the other while nobody
/// else loads, into memory that nobody needs; it is in the pool as what has been computed there is.
///
/// Knows ids and names; bytes are TierMover's, and whose sequences they are TierControl's: the step loop's
/// (kv_tiers_part.h) or those of the simulator's light form of it. Step thread, except on_event (any thread).
class KvTiers final {
public:
    struct Tier {
        std::string name;                    // label `tier`: "host", "disk", "s3"
        kv_cache::KvCache* slots = nullptr;  // which block lies in which slot; nobody else uses it
        kv_transfer::TierMover* mover = nullptr;
        /// Blocks that are copied out at once while their sequence goes on computing. 0: only when it ends, or gives
        /// way while no tier above has what it computed.
        std::uint32_t save_blocks = 0;
        std::size_t block_bytes = 0;
        /// What was loaded stays, so that of the next copy only what is new goes out. False: as swapping was before
        /// FastSwitch, to compare with.
        bool keeps_loaded = true;
        /// What loading a block is expected to take, until something was loaded. Empty: nothing is known.
        std::optional<base::Duration> load_time = std::nullopt;
    };

    /// `tiers`: nearest first. `worker`: label of the gauges. `limits`: kv_both_ends of them is for this. All
    /// references must outlive this.
    KvTiers(std::vector<Tier> tiers, const WorkerOptions& limits, TierControl& control, const std::string& worker,
            base::Metrics& metrics);
    ~KvTiers();

    /// What the mover of the `tier`-th tier says: moves the event to the step thread.
    void on_event(std::size_t tier, kv_transfer::TierEvent event);

    /// For who lends KV: how many leading blocks of `run`, names that follow each other in some chain, one of the
    /// levels has. O(run) for each level.
    std::uint32_t blocks_below(std::span<const base::BlockHash> run) const;
    /// Loads blocks [first, blocks_below(run)) of the run into `target`, blocks of the pool, as many; `done` is told
    /// how many leading blocks of the run are there then, `first` when none came. False: the level takes no more jobs,
    /// nothing follows.
    [[nodiscard]] bool load_run(std::span<const base::BlockHash> run, std::uint32_t first, kv_cache::BlockHold target,
                                std::function<void(std::uint32_t blocks)> done);

    // As RolePart's of the same names.
    void admitted(const TierSequence& sequence);
    void front_computed(const TierSequence& sequence);
    void closing(const TierSequence& sequence);
    void published(const TierSequence& sequence);
    void leaving(const TierSequence& sequence, bool for_good);
    void dropped();
    std::uint32_t blocks_returning() const;
    std::uint32_t blocks_to_save(const TierSequence& sequence) const;
    bool may_load_ahead() const;
    std::uint32_t blocks_ahead(const TierSequence& sequence) const;
    void load_ahead(const TierSequence& sequence, kv_cache::PrefixMatch prefix, std::uint32_t kept,
                    std::uint32_t blocks);
    bool busy() const { return !jobs_.empty(); }

private:
    /// Blocks of a sequence that are copied out, in parts: the level has the next one when it has made one.
    struct Save {
        std::vector<base::BlockHash> chain;  // from token 0 on
        std::uint32_t first = 0;             // block; `source` is what the pool has from there to the chain's end
        kv_cache::BlockHold source;
        std::uint32_t end = 0;        // behind the last part that was begun
        std::uint32_t done = 0;       // behind those that have ended well
        std::uint32_t under_way = 0;  // parts
        bool is_over = false;         // no more parts are begun
        kv_cache::SequenceKv copy;    // in the tier: the chain up to `end`
    };
    struct SavePart {
        base::SequenceId sequence{};
        std::uint32_t begin = 0;  // block of the sequence
        std::uint32_t end = 0;
    };
    struct Load {
        RequestKey request;
        base::SequenceId sequence{};
        std::uint32_t first = 0;       // block of the sequence
        kv_cache::PrefixMatch source;  // of the tier: from block 0 on
        kv_cache::BlockHold target;    // of the pool
        bool is_piece = false;         // of a LoadingBack
    };
    /// For somebody else.
    struct RunLoad {
        std::uint32_t first = 0;
        kv_cache::PrefixMatch source;  // of the tier: from the run's first block on
        kv_cache::BlockHold target;    // of the pool
        std::function<void(std::uint32_t blocks)> done;
        bool is_piece = false;  // of what is loaded ahead
    };
    struct Job {
        std::optional<SavePart> save;
        std::optional<Load> load;
        std::optional<RunLoad> run;  // none of them: a clear
    };
    /// What is under way of a sequence in one tier.
    struct Saving {
        std::uint32_t blocks = 0;  // copied, on their way, or given up: the next save begins behind them
        bool has_left = false;
        base::TimePoint left_at;      // when it did
        std::optional<Save> current;  // that runs
        std::optional<Save> next;     // of one that has left: when the one that runs has ended
    };
    /// A sequence that loads.
    struct Loading {
        base::SequenceId sequence{};
        std::uint32_t parts = 0;  // jobs that have not ended
        std::uint32_t first = 0;  // block
        std::uint32_t end = 0;    // behind the last block that can still count: what comes without a gap
        base::TimePoint began;
        std::optional<base::Error> error = std::nullopt;
    };
    /// A sequence that computes from the front while it loads from the end back. In blocks.
    struct LoadingBack {
        std::vector<std::uint32_t> there;  // leading ones, by tier
        std::uint32_t until = 0;  // computed is what lies before it; what lies between it and `begin` is loaded
        std::uint32_t begin = 0;  // [begin, end) is there, or comes with the piece that is being copied
        std::uint32_t end = 0;
        bool copies = false;   // a piece
        bool is_over = false;  // nothing more is loaded
        base::TimePoint began;
        std::optional<double> pace = std::nullopt;  // seconds that computing a block took
        base::TimePoint paced_from;                 // of the blocks from `paced_block` on
        std::uint32_t paced_block = 0;
    };
    /// A piece that is loaded for a sequence that waits for memory.
    struct Ahead {
        RequestKey request;
        base::SequenceId sequence{};
        std::vector<base::BlockHash> chain;  // up to its end
        std::uint32_t first = 0;             // block
        kv_cache::SequenceKv kv;             // what the pool had of it, and the piece
        std::uint32_t returning = 0;         // blocks that are anybody's when it has ended
    };
    /// What was loaded ahead for a sequence that waits.
    struct LoadedAhead {
        std::uint32_t first = 0;   // block
        std::uint32_t blocks = 0;  // loaded, also those that were loaded again
    };
    using LoadsBack = std::unordered_map<base::SequenceId, LoadingBack>;
    struct Instruments;

    void apply(std::size_t tier, const kv_transfer::TierEvent& event);
    void saved(std::size_t tier, const SavePart& part, const kv_transfer::TierEvent& event);
    void loaded(std::size_t tier, Load load, const kv_transfer::TierEvent& event);
    void run_loaded(std::size_t tier, RunLoad load, const kv_transfer::TierEvent& event);
    bool begin_run(RunLoad load, std::span<const base::BlockHash> run);
    std::pair<std::size_t, std::uint32_t> nearest_with_most(std::span<const base::BlockHash> chain) const;
    void save(std::size_t tier, const TierSequence& sequence);
    void begin(std::size_t tier, base::SequenceId sequence, Save save);
    void copy_next(std::size_t tier, base::SequenceId sequence, Save& save);
    bool copy_part(std::size_t tier, base::SequenceId sequence, Save& save);
    std::uint32_t blocks_there(std::size_t tier, std::span<const base::BlockHash> chain) const;
    bool begin_load(std::size_t tier, const TierSequence& sequence, std::uint32_t first, std::uint32_t end,
                    bool is_piece = false);
    void observe_load(base::Duration duration);
    static std::span<const base::BlockHash> loadable(const TierSequence& sequence, std::uint32_t block_tokens);
    // kv_tiers_prices.cpp
    bool is_worth_loading(std::size_t tier, std::uint32_t first, std::uint32_t end);
    bool is_worth_saving(std::size_t tier, std::uint32_t first, std::uint32_t end);
    std::optional<base::TimePoint> load_limit(const TierSequence& sequence, std::uint32_t first,
                                              std::uint32_t end) const;
    void expect(std::size_t tier, base::Duration of_block);
    void learn(std::size_t tier, const kv_transfer::TierEvent& event);
    // kv_tiers_ahead.cpp
    void ahead_loaded(std::uint32_t blocks);
    void settle_ahead(base::SequenceId sequence, std::uint32_t blocks_found);
    void count_ahead(std::uint32_t blocks_used, std::uint32_t blocks_wasted);
    // kv_tiers_back.cpp
    enum class Way : std::uint8_t {
        load,      // all of it: that is in time
        by_level,  // what is worth it, level by level
        both,      // from both ends
    };
    Way way_for(const TierSequence& sequence, std::uint32_t first, std::span<const std::uint32_t> there) const;
    std::optional<double> seconds_to_load(std::span<const std::uint32_t> there, std::uint32_t first,
                                          std::uint32_t end) const;
    std::optional<double> seconds_to_compute(std::uint32_t first, std::uint32_t end) const;
    std::optional<kv_transfer::Meeting> meeting(std::span<const std::uint32_t> there, std::uint32_t first,
                                                std::uint32_t end, std::optional<double> pace) const;
    std::uint32_t computed_until(const LoadingBack& load, std::uint32_t first) const;
    void note_pace(LoadingBack& load, const TierSequence& sequence);
    bool begin_back(const TierSequence& sequence, std::uint32_t first, std::span<const std::uint32_t> there);
    void go_on_back(LoadsBack::iterator load, const TierSequence& sequence);
    void next_piece(LoadingBack& load, const TierSequence& sequence);
    void piece_loaded(const Load& piece, std::uint32_t blocks, const kv_transfer::TierEvent& event);
    void end_back(LoadsBack::iterator load, RequestKey request, base::Result<std::uint32_t> kv_tokens);
    void show(std::size_t tier);

    const std::vector<Tier> tiers_;
    const bool both_ends_;  // WorkerOptions::kv_both_ends
    TierControl& control_;
    std::uint64_t next_job_ = 1;
    std::unordered_map<std::uint64_t, Job> jobs_;                        // by TierJob::id
    std::vector<std::unordered_map<base::SequenceId, Saving>> savings_;  // by tier
    std::unordered_map<base::SequenceId, Loading> loadings_;
    LoadsBack loads_back_;
    std::optional<Ahead> ahead_;                                      // under way
    std::unordered_map<base::SequenceId, LoadedAhead> loaded_ahead_;  // of sequences that wait
    std::vector<std::optional<double>> load_seconds_per_block_;       // by tier, learned or expected
    std::vector<bool> is_expected_;                                   // by tier: not learned yet
    std::vector<std::uint32_t> left_out_;                             // by tier: loads, since the last that was tried
    std::vector<std::uint32_t> unsaved_;                              // by tier: saves, the same
    std::unique_ptr<Instruments> instruments_;
};

}  // namespace worker
