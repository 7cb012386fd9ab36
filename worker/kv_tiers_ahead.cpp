// KV that is loaded from levels below the pool before its sequence has memory; the contract stands in kv_tiers.h and
// plan_memory.h.
#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "worker/kv_tiers.h"

namespace worker {
namespace {

/// What a piece takes at most: whoever needs its memory, or the level, waits for no more.
constexpr double kPieceSeconds = 0.01;
constexpr std::uint32_t kPieceBlocksMax = 32;
constexpr std::uint32_t kPieceBlocksUnknown = 8;  // of a level of which nothing is known

}  // namespace

/// One piece at a time, and none while somebody who has memory loads: that one would wait for it.
bool KvTiers::may_load_ahead() const {
    return !ahead_ && std::all_of(tiers_.begin(), tiers_.end(),
                                  [](const Tier& tier) { return tier.mover->blocks_loading() == 0; });
}

std::uint32_t KvTiers::blocks_ahead(const TierSequence& sequence) const {
    if (sequence.must_be_computed) { return 0; }
    return blocks_below(loadable(sequence, control_.cache().options().block_tokens));
}

void KvTiers::load_ahead(const TierSequence& sequence, kv_cache::PrefixMatch prefix, std::uint32_t kept,
                         std::uint32_t blocks) {
    kv_cache::KvCache& cache = control_.cache();
    const std::uint32_t block_tokens = cache.options().block_tokens;
    const std::span<const base::BlockHash> chain = loadable(sequence, block_tokens);
    const auto first = static_cast<std::uint32_t>(prefix.blocks().size());
    const auto [tier, there] = nearest_with_most(chain);
    CHECK(may_load_ahead() && first < there && blocks > 0, "blocks " << first << " to " << there);
    std::uint32_t piece = kPieceBlocksUnknown;
    if (const std::optional<double>& seconds = load_seconds_per_block_[tier]) {
        const double in_time = kPieceSeconds / std::max(*seconds, 1e-9);
        piece = static_cast<std::uint32_t>(std::clamp(in_time, 1.0, double{kPieceBlocksMax}));
    }
    const std::uint32_t count = std::min({piece, blocks, there - first});
    auto kv = cache.open(std::move(prefix), (first + count) * block_tokens, sequence.session);
    CHECK(kv, "the plan of KV memory counted wrong: " << kv.error().message);
    Ahead ahead;
    ahead.request = sequence.key;
    ahead.sequence = sequence.id;
    ahead.chain.assign(chain.begin(), chain.begin() + first + count);
    ahead.first = first;
    ahead.returning = kept + count;
    RunLoad load{.first = first,
                 .source = {},
                 .target = cache.hold(*kv, first, count),
                 .done = [this](std::uint32_t end) { ahead_loaded(end); },
                 .is_piece = true};
    ahead.kv = std::move(*kv);
    if (begin_run(std::move(load), ahead.chain)) { ahead_ = std::move(ahead); }
}

/// Blocks up to `end` are there. What came is from now on like anything that was computed here and is nobody's.
void KvTiers::ahead_loaded(std::uint32_t end) {
    CHECK(ahead_.has_value());
    Ahead ahead = std::move(*ahead_);
    ahead_.reset();
    const std::uint32_t blocks = end - ahead.first;
    if (blocks == 0) { return; }
    ahead.kv.publish(std::span(ahead.chain).first(end));
    const bool may_be_found = ahead.kv.blocks_published() == end;  // else prefixes were dropped meanwhile
    const auto sequence = control_.find(ahead.request);
    const bool waits = sequence && sequence->id == ahead.sequence && sequence->state == SequenceState::waiting;
    if (!may_be_found || !waits) { return count_ahead(0, blocks); }
    LoadedAhead& loaded = loaded_ahead_.try_emplace(ahead.sequence, LoadedAhead{ahead.first, 0}).first->second;
    loaded.first = std::min(loaded.first, ahead.first);
    loaded.blocks += blocks;
}

/// The sequence has found so many blocks in the pool, or has ended.
void KvTiers::settle_ahead(base::SequenceId sequence, std::uint32_t blocks_found) {
    const auto at = loaded_ahead_.find(sequence);
    if (at == loaded_ahead_.end()) { return; }
    const LoadedAhead& loaded = at->second;
    const std::uint32_t used = std::min(loaded.blocks, blocks_found - std::min(blocks_found, loaded.first));
    count_ahead(used, loaded.blocks - used);
    loaded_ahead_.erase(at);
}

}  // namespace worker
