#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "worker/plan_batch.h"

namespace worker {

/// What a sequence waits for.
enum class MemoryWish {
    none,
    admit,  // KV memory for its tokens, to run
    grant,  // KV memory for what another worker will send (decode part)
    grow,   // more of it, for what the next step computes
};

/// MemoryCandidate::tokens_ahead of a stream that nobody waits for.
inline constexpr std::int32_t kNoSchedule = std::numeric_limits<std::int32_t>::max();

/// What the plan needs to know of a sequence. In order of arrival.
struct MemoryCandidate {
    MemoryWish wish = MemoryWish::none;
    /// What the wish takes from the pool: blocks that nobody else uses. For all but the first of a kind (first_of) an
    /// upper bound does: they are behind it, and the plan is made again when it has got what it wants.
    std::uint32_t blocks = 0;
    std::uint64_t turn = 0;     // wishes of one kind that are equal otherwise are met in ascending order
    bool holds_kv = false;      // has KV memory: running, loading, granted or handing over
    bool may_give_way = false;  // runs, and no transfer touches its blocks

    std::int32_t priority = 0;  // of its class; higher: goes first, gives way last
    /// For so many times the wait that counts as one priority it has been without the memory that it asked for, all its
    /// waits together: whoever waits rises until nobody is before it.
    std::int32_t age = 0;
    std::string_view tenant;
    /// Virtual tokens that its tenant has had beyond the least (VTC), as the scheduler said when it was placed.
    double tenant_tokens = 0;
    double due_seconds = kNever;  // until its next token is due, by its TTFT or TPOT target; negative: it is late
    /// Tokens that it is ahead of its TPOT target; negative: behind.
    std::int32_t tokens_ahead = kNoSchedule;
    /// What giving way costs: blocks to copy out now, and those to bring back or to compute again.
    std::uint32_t blocks_to_move = 0;
    std::uint32_t blocks_held = 0;  // come back at most when it gives way

    // Of who waits for admit, where KV may be loaded ahead; at least for the first ones, up to one that has something
    // to load.
    /// What the pool has of its tokens and nobody uses: no load ahead of others may push it out.
    std::uint32_t blocks_kept = 0;
    /// Of the tokens behind those that the pool has: blocks that a level below has.
    std::uint32_t blocks_below = 0;
};

/// The pool as it is.
struct MemoryCounts {
    std::uint32_t blocks_available = 0;  // KvCache::blocks_available
    std::uint32_t blocks_stranded = 0;   // come back when a transfer ends
    bool step_runs = false;              // the engine writes blocks: nobody can give way now
    /// Of the stranded ones: of sequences that have given way, while a tier copies them. That takes less than a step.
    /// Or into which something is loaded ahead.
    std::uint32_t blocks_returning = 0;
    /// So many blocks may hold KV of those who wait, where something is loaded ahead for one of them. 0: nothing is.
    std::uint32_t blocks_ahead_max = 0;
};

enum class MemoryAct {
    admit,
    grant,
    grow,
    preempt,  // takes its memory and lets it wait; what becomes free is known afterwards, so this is the last action
    fail,     // waiting would not help: ends with an error; the last action, too
    wait,     // asked and got nothing
    wait_for_step,  // the same, and others will give way for it when the running step has ended
    load_ahead,     // one that waits: the next `blocks` of its tokens are loaded from below; they stay anybody's
};

struct MemoryAction {
    std::uint32_t candidate = 0;  // index into the candidates
    MemoryAct act = MemoryAct::wait;
    std::uint32_t blocks = 0;  // load_ahead
    bool operator==(const MemoryAction&) const = default;
};

/// Who gets KV memory now, who waits for it and who gives it up. Pure. Act in order, then ask again until nothing but
/// waiting comes.
///
/// *Rank* is priority + age. Who has the higher one goes first and gives way last.
///
/// - Those that run grow first. When the pool is too small one gives way, never one that a transfer still reads: of the
///   lowest rank the one that is furthest ahead of its TPOT target (or has none), then the one that is moved for the
///   least, then the last arrival (what it computed is loaded or computed again: PagedAttention, Kwon et al., SOSP
///   2023, section 4.5; FastSwitch, Shen et al., 2024). A sequence that is alone, or finds nobody to give way, fails;
///   alone it waits instead while a transfer still has blocks to give back.
/// - A newcomer gets memory while every sequence that has some can still grow by a block: else each newcomer would push
///   a running one out a step later, and its work with it. Who is alone may fill the pool.
/// - Newcomers of one rank come in the order of their tenants' counters (VTC, Sheng et al., OSDI 2024), then as they
/// are
///   due (who is late already has no claim), then first come, first served; within admissions and within grants. A
///   grant does not overtake an admission that is before it: a stream that lost its memory would wait for as long as
///   new ones come. An admission overtakes a grant that finds no room only at the same rank: else who gave way to it
///   would take the memory again before it.
/// - The first newcomer that finds no room takes that of running sequences of a lower class *and* a lower rank, as of
///   growing, where all of it together is enough. So a stream of a low class is not pushed out for ever: what it waits
///   counts, and once its rank is theirs, nobody of a higher class takes its memory or comes before it.
/// - When nothing else is to be done, what the first of those who wait has on a level below is loaded ahead
///   (load_ahead, beside its wait): into room that is there beside a block for each that runs to grow into, and beside
///   what the pool has of those before it; when nothing is left to load of it, what the second has, and so on. Once
///   loaded it is like any block that nobody uses: it is anybody's who wants memory, and no rule above knows of it. So
///   loading ahead changes nothing of who runs; while it is under way its blocks are on their way back
///   (blocks_returning).
///
/// Bound: after (highest - own priority) times the wait that counts as one no later arrival goes before a sequence, and
/// it is no victim of any; it waits only for those to end who have waited as long.
std::vector<MemoryAction> plan_memory(std::span<const MemoryCandidate> candidates, const MemoryCounts& counts);

/// MemoryCandidate::age of who has waited so long in all.
std::int32_t memory_age(base::Duration waited, base::Duration priority_wait);
/// When the `tokens`th token after `begin` is due: a percent before its target, since a schedule that ends exactly
/// there is missed by what the last step, or the way to the client, takes longer.
base::TimePoint due_at(base::TimePoint begin, base::Duration tpot, std::uint32_t tokens);
/// MemoryCandidate::tokens_ahead of who has a schedule by which its next token is due at `due`.
std::int32_t tokens_ahead(base::TimePoint due, base::Duration tpot, base::TimePoint now);

/// Of those who wait, for loads ahead: more would be looked up for little.
inline constexpr std::size_t kLookedAheadMax = 16;

/// The candidates with this wish, in the order in which it is met.
std::vector<std::uint32_t> order_of(MemoryWish wish, std::span<const MemoryCandidate> candidates);
/// The first of them; empty: nobody has one.
std::optional<std::uint32_t> first_of(MemoryWish wish, std::span<const MemoryCandidate> candidates);

}  // namespace worker
