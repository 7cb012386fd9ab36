// A sequence that computes its KV from the front while levels below the pool give it from the end back; the contract
// stands in kv_tiers.h.
#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "base/check.h"
#include "kv_transfer/rate/both_ends.h"
#include "worker/kv_tiers.h"

namespace worker {
namespace {

/// Of one copy: fewer are mostly overhead, more leave one side waiting for the other where they meet.
constexpr std::uint32_t kPieceBlocksMin = 8;
constexpr std::uint32_t kPieceBlocksMax = 64;
/// A load that takes no longer than this needs no other end while nobody knows what computing takes.
constexpr double kUnnoticedSeconds = 0.25;
/// So many blocks are computed to find out what that takes, or until it is known what loading does.
constexpr std::uint32_t kTriedBlocks = 4;
/// A piece takes no longer than this, by what is expected of its level, while nobody knows what computing takes.
constexpr double kTriedSeconds = 0.1;

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace

/// Blocks [first, end), each from the nearest level that has it, behind what waits there already. Empty: not known yet.
std::optional<double> KvTiers::seconds_to_load(std::span<const std::uint32_t> there, std::uint32_t first,
                                               std::uint32_t end) const {
    double seconds = 0;
    for (std::size_t tier = 0; tier < tiers_.size() && first < end; ++tier) {
        const std::uint32_t until = std::min(there[tier], end);
        if (until <= first) { continue; }
        if (!load_seconds_per_block_[tier]) { return std::nullopt; }
        const std::uint32_t before = tiers_[tier].mover->blocks_loading();
        seconds += *load_seconds_per_block_[tier] * (before + until - first);
        first = until;
    }
    return seconds;
}

std::optional<double> KvTiers::seconds_to_compute(std::uint32_t first, std::uint32_t end) const {
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const auto computing = control_.predict_prefill(first * block_tokens, (end - first) * block_tokens);
    if (!computing) { return std::nullopt; }
    return seconds_of(*computing);
}

/// Where the two ends of blocks [first, end) meet, by what is known; each piece and each step that ends looks anew.
/// `pace`: seconds that computing a block took in this load, which counts while nothing is predicted. Empty: what one
/// of the ends takes is not known.
std::optional<kv_transfer::Meeting> KvTiers::meeting(std::span<const std::uint32_t> there, std::uint32_t first,
                                                     std::uint32_t end, std::optional<double> pace) const {
    if (first >= end) { return kv_transfer::Meeting{.block = end}; }
    const bool is_predicted = seconds_to_compute(first, end).has_value();
    if ((!is_predicted && !pace) || !seconds_to_load(there, first, end)) { return std::nullopt; }
    const auto loading = [&](std::uint32_t from, std::uint32_t to) { return *seconds_to_load(there, from, to); };
    const auto computing = [&](std::uint32_t from, std::uint32_t to) {
        return is_predicted ? seconds_to_compute(from, to).value_or(0) : *pace * (to - from);
    };
    return kv_transfer::meeting_of(first, end, computing, loading);
}

/// The block at which computing, which is or will be at `first`, stops for now: where both ends are to meet, or, until
/// that is known, a little farther.
std::uint32_t KvTiers::computed_until(const LoadingBack& load, std::uint32_t first) const {
    const auto both = meeting(load.there, first, load.begin, load.pace);
    return both ? both->block : std::min(load.begin, std::max(first, load.paced_block + kTriedBlocks));
}

KvTiers::Way KvTiers::way_for(const TierSequence& sequence, std::uint32_t first,
                              std::span<const std::uint32_t> there) const {
    const std::uint32_t end = *std::max_element(there.begin(), there.end());
    const auto loading = seconds_to_load(there, first, end);
    const auto computing = seconds_to_compute(first, end);
    if (!loading) { return both_ends_ && end - first >= kPieceBlocksMax ? Way::both : Way::by_level; }
    std::optional<double> left;
    if (sequence.first_token_due) { left = seconds_of(*sequence.first_token_due - control_.clock().now()); }
    if (kv_transfer::loads_in_time(*loading, left)) { return Way::load; }
    if (!both_ends_ || end - first < 2 * kPieceBlocksMin) { return Way::by_level; }
    if (!computing) { return *loading > kUnnoticedSeconds ? Way::both : Way::by_level; }
    const auto both = meeting(there, first, end, std::nullopt);
    CHECK(both.has_value());
    const kv_transfer::KvWaySeconds seconds{*loading, *computing, both->seconds};
    return kv_transfer::choose_kv_way(seconds, left) == kv_transfer::KvWay::both ? Way::both : Way::by_level;
}

/// False: the level takes no job now, and nothing was begun.
bool KvTiers::begin_back(const TierSequence& sequence, std::uint32_t first, std::span<const std::uint32_t> there) {
    LoadingBack load;
    load.there.assign(there.begin(), there.end());
    load.begin = load.end = *std::max_element(there.begin(), there.end());
    load.began = load.paced_from = control_.clock().now();
    load.paced_block = first;
    load.until = computed_until(load, first);
    next_piece(load, sequence);
    if (!load.copies) { return false; }
    const auto at = loads_back_.emplace(sequence.id, std::move(load)).first;
    go_on_back(at, sequence);
    return true;
}

/// Copies the blocks before `begin`, unless computing gets there first.
void KvTiers::next_piece(LoadingBack& load, const TierSequence& sequence) {
    if (load.is_over || load.until >= load.begin) { return; }
    std::uint32_t lowest = load.until;  // that this level is the nearest to have
    std::size_t tier = 0;
    while (load.there[tier] < load.begin) {
        lowest = std::max(lowest, load.there[tier++]);
    }
    const std::uint32_t most = load.begin - lowest;
    std::uint32_t blocks = std::min(most, std::clamp(most / 2, kPieceBlocksMin, kPieceBlocksMax));
    const std::optional<double>& seconds_per_block = load_seconds_per_block_[tier];
    if (!seconds_per_block) {
        blocks = std::min(blocks, kPieceBlocksMin);
    } else if (!load.pace && !seconds_to_compute(lowest, load.begin)) {
        blocks = static_cast<std::uint32_t>(std::clamp(kTriedSeconds / *seconds_per_block, 1.0, 1.0 * blocks));
    }
    // It may have lost some meanwhile.
    load.is_over = blocks_there(tier, sequence.chain.first(load.begin)) < load.begin ||
                   !begin_load(tier, sequence, load.begin - blocks, load.begin, true);
    if (load.is_over) { return; }
    load.begin -= blocks;
    load.copies = true;
}

/// Says anew where both ends meet, by what they took up to now, and goes on with either.
void KvTiers::go_on_back(LoadsBack::iterator at, const TierSequence& sequence) {
    LoadingBack& load = at->second;
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const std::uint32_t computed = control_.cache().blocks_for(sequence.computed_after_step());
    load.until = load.is_over ? load.begin : computed_until(load, computed);
    if (!load.copies) { next_piece(load, sequence); }
    if (!load.copies) {
        load.until = load.begin;  // nothing more is loaded
        if (sequence.step_tokens == 0 && sequence.computed_tokens == load.begin * block_tokens) {
            return end_back(at, sequence.key, load.end * block_tokens);
        }
    }
    control_.load_from_end(sequence.key,
                           {load.until * block_tokens, load.begin * block_tokens, load.end * block_tokens});
}

void KvTiers::piece_loaded(const Load& piece, std::uint32_t blocks, const kv_transfer::TierEvent& event) {
    const auto at = loads_back_.find(piece.sequence);
    CHECK(at != loads_back_.end(), "sequence " << base::raw(piece.sequence));
    LoadingBack& load = at->second;
    load.copies = false;
    const auto sequence = control_.find(piece.request);
    if (!sequence || sequence->id != piece.sequence) {  // it has ended meanwhile
        loads_back_.erase(at);
        return;
    }
    if (event.error || event.blocks_done < blocks) {
        load.begin = piece.first + blocks;
        load.is_over = true;
        if (load.begin == load.end) {
            return end_back(
                at, piece.request,
                tl::unexpected(event.error.value_or(base::Error{base::ErrorCode::internal, "no reason was given"})));
        }
    }
    go_on_back(at, *sequence);
}

void KvTiers::end_back(LoadsBack::iterator load, RequestKey request, base::Result<std::uint32_t> kv_tokens) {
    observe_load(control_.clock().now() - load->second.began);
    loads_back_.erase(load);
    control_.loaded(request, std::move(kv_tokens));
}

void KvTiers::front_computed(const TierSequence& sequence) {
    const auto load = loads_back_.find(sequence.id);
    if (load == loads_back_.end()) { return; }
    note_pace(load->second, sequence);
    go_on_back(load, sequence);
}

/// Computing has come as far as it was to: what a block of it took. The least counts, since others' steps and waiting
/// for a piece are in it.
void KvTiers::note_pace(LoadingBack& load, const TierSequence& sequence) {
    const base::TimePoint now = control_.clock().now();
    const std::uint32_t computed = sequence.computed_tokens / control_.cache().options().block_tokens;
    if (computed > load.paced_block && now > load.paced_from) {
        const double seconds = seconds_of(now - load.paced_from) / (computed - load.paced_block);
        load.pace = std::min(load.pace.value_or(seconds), seconds);
    }
    load.paced_from = now;
    load.paced_block = computed;
}

void KvTiers::closing(const TierSequence& sequence) {
    settle_ahead(sequence.id, 0);
    const auto load = loads_back_.find(sequence.id);
    if (load != loads_back_.end() && !load->second.copies) { loads_back_.erase(load); }  // else with its piece
}

}  // namespace worker
