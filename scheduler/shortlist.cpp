#include "scheduler/shortlist.h"

#include <algorithm>
#include <limits>

#include "scheduler/forecast.h"

namespace scheduler {
namespace {

/// Of a request by which the orders are made.
constexpr std::uint32_t kAnswerTokens = 256;
/// Workers with full queues come after all others, those without room for such a request after those with.
constexpr double kFull = 1e9;
constexpr double kNoRoom = 1e6;
constexpr std::uint32_t kRoomTokens = 1024;
/// So many workers that are of no use (avoided, too small) are passed over.
constexpr std::size_t kPassedMax = 64;
/// The instant at which a prompt starts to be answered is that of about so many picks before.
constexpr double kPicksRemembered = 16;
/// Different lengths that workers hold of one prompt, from the longest on, and those who hold one.
constexpr std::uint32_t kLevelsSeen = 8;
constexpr std::uint32_t kHoldersSeen = 128;
/// Of fewer than these all lines are asked for at once.
constexpr std::uint32_t kHoldersFetched = 4;

bool is_avoided(const WorkerView& worker, const PlaceQuery& query) {
    return std::find(query.avoid.begin(), query.avoid.end(), worker.incarnation) != query.avoid.end();
}

/// Workers whose lines are asked for before they are placed in the orders: more would not be there in time or push each
/// other out.
constexpr std::size_t kFetchedAhead = 8;

/// Until when the time that is predicted for a prompt falls: until the one whose turn it is has been computed.
double falls_until(const WorkerView& worker, double now) {
    const ExpectedLoad& load = worker.expected;
    return now + load.first_tokens * worker.costs.prefill.token_seconds - load.first_since_seconds;
}

/// At the first `count` of kLengths; the others are as the last of these.
template <class TimeAt>
TimesByLength times(std::size_t count, TimeAt time_at) {
    TimesByLength result;
    for (std::size_t i = 0; i < result.size(); ++i) {
        result[i] = i < count ? time_at(i) : result[count - 1];
    }
    return result;
}

TimesByLength equal(double seconds) {
    TimesByLength result;
    result.fill(seconds);
    return result;
}

}  // namespace

Shortlist::Shortlist(PlaceRules rules) : rules_(rules) {
    for (std::size_t i = 0; i < like_.size(); ++i) {
        like_[i].prompt_tokens = static_cast<std::uint32_t>(kLengths[i]);
        like_[i].new_tokens_max = kAnswerTokens;
    }
}

void Shortlist::touch(std::uint32_t slot) {
    if (slot >= is_stale_.size()) {
        is_stale_.resize(slot + 1);
        is_in_.resize(slot + 1);
        is_unranked_.resize(slot + 1);
    }
    if (is_stale_[slot]) { return; }
    is_stale_[slot] = true;
    stale_.push_back(slot);
}

void Shortlist::touch_all(std::size_t slots) {
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
        touch(slot);
    }
}

bool Shortlist::is_ready(const WorkerView& worker, const Pool& pool) {
    return worker.status == WorkerStatus::ready && worker.role != Role::encode &&
           (!pool.numerics || worker.numerics_id == *pool.numerics);
}

void Shortlist::take_out(std::uint32_t slot, std::size_t order) {
    const auto bit = static_cast<std::uint8_t>(1u << order);
    if ((is_in_[slot] & bit) == 0) { return; }
    is_in_[slot] = static_cast<std::uint8_t>(is_in_[slot] & ~bit);
    orders_[order].remove(slot);
}

void Shortlist::drop(std::uint32_t slot) {
    for (std::size_t order = 0; order < kOrders; ++order) {
        take_out(slot, order);
    }
}

/// What placing a worker in the orders reads and writes.
void Shortlist::fetch(std::uint32_t slot, const Workers& workers) const {
    workers.fetch(slot);
    for (std::size_t order = 0; order < roomiest; ++order) {
        if ((is_in_[slot] >> order & 1u) != 0) { orders_[order].fetch(slot); }
    }
}

/// Of those who are looked at whatever the orders say: it is there when these have been brought up to date.
void Shortlist::fetch_named(const PrefixSearch& prefixes, const Picking& picking) const {
    for (const std::uint32_t slot : picking.pool.also) {
        picking.workers.fetch(slot);
    }
    for (const PrefixSearch::Level& level : prefixes.levels()) {
        if (prefixes.holders(level) > kHoldersFetched) { return; }
        prefixes.for_each_holder(level, 1, [&](std::uint32_t slot) {
            if (slot < is_in_.size()) { fetch(slot, picking.workers); }
        });
    }
}

/// A prompt longer than any before: from now on all are predicted for such ones, too.
void Shortlist::know_lengths(std::uint32_t prompt_tokens) {
    const std::size_t before = lengths_;
    while (lengths_ < kLengths.size() && prompt_tokens > kLengths[lengths_ - 1]) {
        ++lengths_;
    }
    if (lengths_ != before) { touch_all(is_stale_.size()); }
}

void Shortlist::fetch_stale(const Workers& workers) const {
    for (std::size_t at = 0; at < std::min(stale_.size(), kFetchedAhead); ++at) {
        fetch(stale_[at], workers);
    }
}

void Shortlist::refresh(const Picking& picking) {
    refreshed_.clear();
    refreshed_.swap(stale_);  // a look may find that more has changed
    for (PlaceQuery& like : like_) {
        like.tpot_seconds_target = picking.query.tpot_seconds_target;
    }
    std::size_t ahead = kFetchedAhead;
    for (const std::uint32_t slot : refreshed_) {
        is_stale_[slot] = false;
        if (ahead < refreshed_.size()) { fetch(refreshed_[ahead++], picking.workers); }
        const WorkerView& worker = picking.workers.look(slot);
        if (is_ready(worker, picking.pool)) {
            place_in_orders(slot, worker, picking);
        } else {
            drop(slot);
        }
    }
}

void Shortlist::place_in_orders(std::uint32_t slot, const WorkerView& worker, const Picking& picking) {
    const double now = picking.now;
    const double until = falls_until(worker, now);
    const bool is_mixed = worker.role == Role::mixed;
    const double prefill_full = prefill_queue_full(worker) ? kFull : 0;
    const double decode_full = decode_queue_full(worker) ? kFull : 0;
    // A slot may have had a worker of another role.
    const auto put = [&](Order order, bool belongs, auto seconds, double falls) {
        if (!belongs) { return take_out(slot, order); }
        orders_[order].set(slot, worker.id, seconds(), now, falls);
        is_in_[slot] = static_cast<std::uint8_t>(is_in_[slot] | (1u << order));
    };
    const bool both = may_do_both(worker, rules_, picking.pool.prefill_exists);
    std::array<PrefillForecast, kLengths.size()> prefill{};
    if (both || can_prefill(worker)) {
        prefill = forecast_prefills(worker, paced_local(worker, like_.front()), lengths_);
    }
    if (can_prefill(worker) && worker.costs.prefill.token_seconds > 0) {
        curve_ = worker.costs.prefill.context_seconds / 2 / worker.costs.prefill.token_seconds;
    }
    const auto ttft = [&] {
        return times(lengths_, [&](std::size_t i) { return prefill[i].ttft_seconds + prefill_full; });
    };
    put(prefill_pure, can_prefill(worker) && !is_mixed, ttft, until);
    put(prefill_mixed, is_mixed, ttft, until);
    // Room for a request of any length is room for one of about this length here; place() knows better.
    const PlaceQuery roomy{.prompt_tokens = kRoomTokens, .new_tokens_max = kAnswerTokens};
    const double wait = can_decode(worker) ? forecast_decode_wait(worker, roomy) : 0;
    const auto waits = [wait](double starts_in) { return wait > starts_in ? kNoRoom + wait - starts_in : 0; };
    TimesByLength tpot{};
    if (both) {
        tpot =
            times(lengths_, [&](std::size_t i) { return forecast_tpot(worker, like_[i], prefill[i].sequences_then); });
    }
    const auto local_for = [&](double answer_tokens) {
        return [&, answer_tokens] {
            return times(lengths_, [&](std::size_t i) {
                const double others = prefill[i].busy_seconds * worker.expected.decoding;
                return prefill[i].queue_seconds + prefill[i].busy_seconds + others + tpot[i] * answer_tokens +
                       std::max(prefill_full, decode_full) + waits(prefill[i].ttft_seconds);
            });
        };
    };
    put(local, both, local_for(kWeighedTokens), until);
    put(local_brief, both, local_for(1), until);
    const auto answer = [&] {
        return times(lengths_, [&](std::size_t i) {
            return forecast_tpot(worker, like_[i]) * weighed_tokens(like_[i]) + decode_full + waits(starts_in_);
        });
    };
    put(decode_pure, can_decode(worker) && !is_mixed, answer, now);
    put(decode_mixed, is_mixed, answer, now);
    if (!can_decode(worker)) {
        take_out(slot, roomiest);
    } else if (!is_unranked_[slot]) {
        is_unranked_[slot] = true;
        unranked_.push_back(slot);
    }
}

/// Most requests find room among the first, so who has most of it is asked seldom.
void Shortlist::bring_roomiest_up_to_date(const Picking& picking) {
    for (const std::uint32_t slot : unranked_) {
        is_unranked_[slot] = false;
        const WorkerView& worker = picking.workers.look(slot);
        if (!is_ready(worker, picking.pool) || !can_decode(worker)) { continue; }  // it is not in, or will be taken out
        const double full = decode_queue_full(worker) ? kFull : 0;
        const double room =
            static_cast<double>(worker.load.blocks_room) - static_cast<double>(worker.pending.decode_blocks);
        roomiest_.set(slot, worker.id, equal(full - room), picking.now, picking.now);
        is_in_[slot] = static_cast<std::uint8_t>(is_in_[slot] | (1u << roomiest));
    }
    unranked_.clear();
}

bool Shortlist::add(std::uint32_t slot) {
    if (slot >= picked_in_.size()) { picked_in_.resize(slot + 1); }
    if (picked_in_[slot] == picks_) { return false; }
    picked_in_[slot] = picks_;
    picked_.push_back(slot);
    return true;
}

/// Ready, not avoided, and large enough.
bool Shortlist::is_of_use(std::uint32_t slot, std::uint64_t tokens, const Picking& picking) {
    const WorkerView& worker = picking.workers.look(slot);
    return is_ready(worker, picking.pool) && !is_avoided(worker, picking.query) && tokens_capacity(worker) >= tokens;
}

/// Calls `visit(slot)` for the first workers of a lineup, some more where those are of no use, until it says enough.
template <class Visit>
void Shortlist::visit_first(Lineup& lineup, const Length& length, std::size_t count, const Picking& picking,
                            Visit visit) {
    if (lineup.is_empty()) { return; }
    std::size_t visited = 0;
    for (const std::size_t wanted : {count, count + kPassedMax}) {
        const std::span<const std::uint32_t> first = lineup.first(length, picking.now, wanted);
        for (const std::uint32_t slot : first.subspan(std::min(visited, first.size()))) {
            picking.workers.fetch(slot);
        }
        for (const std::uint32_t slot : first.subspan(std::min(visited, first.size()))) {
            if (!visit(slot)) { return; }
        }
        visited = first.size();
        if (visited < wanted) { return; }
    }
}

bool Shortlist::take_prefill(Lineup& lineup, std::size_t count, Picking& picking) {
    std::size_t left = count;
    visit_first(lineup, picking.length, count, picking, [&](std::uint32_t slot) {
        if (!is_of_use(slot, picking.query.prompt_tokens, picking)) { return true; }
        add(slot);
        const double seconds = lineup.seconds(slot, picking.length, picking.now);
        picking.starts_in = picking.starts_in > 0 ? std::min(picking.starts_in, seconds) : seconds;
        return --left > 0;
    });
    return left < count;
}

/// Workers that will have room for a request come before all others, and a long one may find it only where most is.
void Shortlist::take_decode(Lineup& lineup, std::size_t count, const Picking& picking) {
    const std::uint64_t tokens = std::uint64_t{picking.query.prompt_tokens} + picking.query.new_tokens_max;
    // What they decode with grows with the whole prompt, what is computed with what is not cached.
    const bool is_local = &lineup == &local_ || &lineup == &local_brief_;
    const Length length = is_local ? picking.length : Length{static_cast<double>(picking.query.prompt_tokens)};
    const auto starts_in = [&](std::uint32_t slot) {
        if (!is_local) { return picking.starts_in; }
        return prefill_mixed_.has(slot) ? prefill_mixed_.seconds(slot, length, picking.now) : 0;
    };
    std::size_t left = count;
    roomless_.clear();
    visit_first(lineup, length, count, picking, [&](std::uint32_t slot) {
        if (!is_of_use(slot, tokens, picking)) { return true; }
        const WorkerView& worker = picking.workers.look(slot);
        found_decode_ = true;
        found_prefill_ = found_prefill_ || can_prefill(worker);
        if (forecast_decode_wait(worker, picking.query) <= starts_in(slot)) {
            add(slot);
            return --left > 0;
        }
        if (roomless_.size() < count) { roomless_.push_back(slot); }
        return true;
    });
    if (left < count || lineup.is_empty()) { return; }
    std::for_each(roomless_.begin(), roomless_.end(), [this](std::uint32_t slot) { add(slot); });
    bring_roomiest_up_to_date(picking);
    for (const std::uint32_t slot : roomiest_.first({1}, picking.now, count)) {
        if (is_of_use(slot, tokens, picking)) { add(slot); }
    }
}

/// The likeliest of those who hold more of the prompt than most do, for each phase; and what most hold.
void Shortlist::take_holders(const PrefixSearch& prefixes, Picking& picking) {
    std::array<Holders, 3> best;  // prefill, both, decode
    for (Holders& one : best) {
        one.fill({std::numeric_limits<double>::infinity(), std::numeric_limits<std::uint32_t>::max()});
    }
    const auto offer = [](Holders& holders, Holder holder) {
        for (Holder& one : holders) {
            if (holder.seconds < one.seconds) { std::swap(holder, one); }
        }
    };
    std::uint32_t most = 0;               // blocks that half of the workers hold
    std::optional<std::uint32_t> lender;  // of most, whatever else it does
    const double prompt = picking.query.prompt_tokens;
    const auto uncached = [&](std::uint32_t held) {
        return std::max(1.0, prompt - static_cast<double>(held) * picking.pool.block_tokens);
    };
    for (const PrefixSearch::Level& level : prefixes.levels()) {
        const std::uint32_t blocks = level.blocks;
        const std::uint32_t holders = prefixes.holders(level);
        if (most == 0 && holders * std::size_t{2} >= picking.pool.workers) { most = blocks; }
        if (holders >= bounds(picking.pool.workers).holders_enough) { break; }  // these are in the orders as they are
        prefixes.for_each_holder(level, holders / kHoldersSeen + 1, [&](std::uint32_t slot) {
            if (slot >= seen_in_.size()) { seen_in_.resize(slot + 1); }
            if (seen_in_[slot] == picks_) { return; }
            seen_in_[slot] = picks_;
            if (blocks == prefixes.deepest()) { lender = std::min(slot, lender.value_or(slot)); }
            const WorkerView& worker = picking.workers.look(slot);
            if (!is_ready(worker, picking.pool)) { return; }
            const Length left{uncached(blocks), curve_};
            for (const Lineup* lineup : {&prefill_pure_, &prefill_mixed_}) {
                if (lineup->has(slot)) { offer(best[0], {lineup->seconds(slot, left, picking.now), slot}); }
            }
            if (local_.has(slot)) { offer(best[1], {local_.seconds(slot, left, picking.now), slot}); }
            if (decode_pure_.has(slot)) {
                const double bytes = left.tokens * static_cast<double>(worker.limits.kv_bytes_per_token);
                offer(best[2], {decode_pure_.seconds(slot, {prompt}, picking.now) +
                                    transfer_seconds(worker.costs.transfer, bytes),
                                slot});
            }
        });
    }
    for (const Holders& one : best) {
        for (const Holder& holder : one) {
            if (holder.seconds < kFull) { add(holder.slot); }
        }
    }
    if (rules_.fetch_tokens_min > 0 && lender) { add(*lender); }
    picking.length = {uncached(most), curve_};
}

PrefixSearch::Bounds Shortlist::bounds(std::size_t workers) {
    return {.levels_max = kLevelsSeen, .holders_enough = static_cast<std::uint32_t>((workers * 9 + 9) / 10)};
}

std::span<const std::uint32_t> Shortlist::pick(const PlaceQuery& query, const PrefixSearch& prefixes, const Pool& pool,
                                               double now, Workers& workers) {
    Picking picking{query, pool, now, workers, {static_cast<double>(query.prompt_tokens)}, 0};
    fetch_named(prefixes, picking);
    know_lengths(query.prompt_tokens);
    refresh(picking);
    ++picks_;
    picked_.clear();
    found_prefill_ = false;
    found_decode_ = false;
    for (const std::uint32_t slot : pool.also) {
        if (is_of_use(slot, query.prompt_tokens, picking)) { add(slot); }
    }
    take_holders(prefixes, picking);
    take_decode(local_, kCandidates, picking);
    if (query.new_tokens_max < kWeighedTokens) { take_decode(local_brief_, kCandidates, picking); }
    found_prefill_ = take_prefill(prefill_pure_, kCandidates, picking) || found_prefill_;
    if (!decode_pure_.is_empty()) {
        found_prefill_ = take_prefill(prefill_mixed_, kCandidates / 2, picking) || found_prefill_;
        starts_in_ += (picking.starts_in - starts_in_) / kPicksRemembered;
        take_decode(decode_pure_, kCandidates, picking);
    }
    // Who keeps the target of TPOT comes before all others, and may have the longer queue.
    if (query.tpot_seconds_target < kNoTarget || !prefill_pure_.is_empty()) {
        take_decode(decode_mixed_, kCandidates / 4, picking);
    }
    if (!found_decode_ || (pool.prefill_exists && !found_prefill_)) { return {}; }
    return picked_;
}

}  // namespace scheduler
