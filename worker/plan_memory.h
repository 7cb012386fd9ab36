#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace worker {

/// What a sequence waits for.
enum class MemoryWish {
    none,
    admit,  // KV memory for its tokens, to run
    grant,  // KV memory for what another worker will send (decode part)
    grow,   // more of it, for what the next step computes
};

/// What the plan needs to know of a sequence. In order of arrival.
struct MemoryCandidate {
    MemoryWish wish = MemoryWish::none;
    /// What the wish takes from the pool: blocks that nobody else uses. For all but the first of a kind (first_of) an
    /// upper bound does: they are behind it, and the plan is made again when it has got what it wants.
    std::uint32_t blocks = 0;
    std::uint64_t turn = 0;     // wishes of one kind are met in ascending order
    bool holds_kv = false;      // has KV memory: running, loading, granted or handing over
    bool may_give_way = false;  // runs, and no transfer touches its blocks

    std::int32_t priority = 0;  // higher: goes first, gives way last
    // For policies to come; nothing weighs them yet.
    std::string_view tenant;
    std::string_view slo_class;
    std::optional<base::TimePoint> deadline;
};

/// The pool as it is.
struct MemoryCounts {
    std::uint32_t blocks_available = 0;  // KvCache::blocks_available
    std::uint32_t blocks_stranded = 0;   // come back when a transfer ends
    bool step_runs = false;              // the engine writes blocks: nobody can give way now
    /// Of the stranded ones: of sequences that have given way, while a tier copies them. That takes less than a step.
    std::uint32_t blocks_returning = 0;
};

enum class MemoryAct {
    admit,
    grant,
    grow,
    preempt,  // takes its memory and lets it wait; what becomes free is known afterwards, so this is the last action
    fail,     // waiting would not help: ends with an error; the last action, too
    wait,     // asked and got nothing
};

struct MemoryAction {
    std::uint32_t candidate = 0;  // index into the candidates
    MemoryAct act = MemoryAct::wait;
    bool operator==(const MemoryAction&) const = default;
};

/// Who gets KV memory now, who waits for it and who gives it up. Pure. Act in order, then ask again until nothing but
/// `wait` comes.
///
/// - Those that run grow first. When the pool is too small the last arrival gives way (recompute; PagedAttention, Kwon
///   et al., SOSP 2023, section 4.5), never one that a transfer still reads. A sequence that is alone, or finds nobody
///   to give way, fails; alone it waits instead while a transfer still has blocks to give back.
/// - A newcomer gets memory while every sequence that has some can still grow by a block: else each newcomer would push
///   a running one out a step later, and its work with it. Who is alone may fill the pool.
/// - First come, first served, within admissions and within grants. A grant does not overtake an admission of an
/// earlier
///   arrival: a stream that lost its memory would wait for as long as new ones come.
std::vector<MemoryAction> plan_memory(std::span<const MemoryCandidate> candidates, const MemoryCounts& counts);

/// The candidate whose wish of this kind is met first; empty: nobody has one.
std::optional<std::uint32_t> first_of(MemoryWish wish, std::span<const MemoryCandidate> candidates);

}  // namespace worker
