#include "scheduler/place.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "scheduler/forecast.h"
#include "scheduler/refusals.h"

namespace scheduler {
namespace {

/// At most prompt - 1 tokens, in full blocks: the last token is always computed.
std::uint32_t tokens_of_blocks(const WorkerView& worker, const PlaceQuery& query, std::uint32_t blocks) {
    return std::min(blocks, (query.prompt_tokens - 1) / worker.limits.block_tokens) * worker.limits.block_tokens;
}

/// What a worker has of the prompt.
struct Held {
    std::uint32_t cached = 0;  // tokens that it is believed to hold now
    std::uint32_t prefix = 0;  // that it will hold when the turn of this prompt comes
};
Held held_tokens(const WorkerView& worker, const PlaceQuery& query, std::size_t index) {
    Held held;
    if (!query.cached_blocks.empty()) { held.cached = tokens_of_blocks(worker, query, query.cached_blocks[index]); }
    held.prefix = held.cached;
    for (const ComingPrefix& coming : query.coming) {
        if (coming.worker == worker.incarnation) {
            held.prefix = std::max(held.prefix, tokens_of_blocks(worker, query, coming.blocks));
        }
    }
    return held;
}

/// Of the work that a worker need not do because another prompt brings it, that its being saved is worth. The request
/// itself has its first token no sooner for it.
constexpr double kSavedWorkShare = 0.25;

/// What coming back to this worker is worth, where `seconds` are predicted for what it lacks.
double benefit_of(const WorkerView& worker, const PlaceQuery& query, double seconds) {
    double share = 0;
    if (query.queue_share < 1) { return 0; }
    for (const Affinity& affinity : query.affinities) {
        if (affinity.worker == worker.incarnation) { share = std::max(share, affinity.share); }
    }
    return share * seconds;
}

/// The same on a worker that computes the prompt in `seconds`, with what another prompt brings there.
double prefill_benefit(const WorkerView& worker, const PlaceQuery& query, const Held& held, double seconds) {
    if (query.queue_share < 1) { return 0; }
    const std::uint32_t saved = held.prefix - held.cached;
    return benefit_of(worker, query, seconds) + kSavedWorkShare * saved * worker.costs.prefill.token_seconds;
}

/// 0: ready; 1: suspect or ejected; 2: ready but just failed this request; 3: both.
std::int8_t rank(const WorkerView& worker, const PlaceQuery& query) {
    const bool avoided = std::find(query.avoid.begin(), query.avoid.end(), worker.incarnation) != query.avoid.end();
    return static_cast<std::int8_t>((avoided ? 2 : 0) + (is_doubtful(worker) ? 1 : 0));
}

/// One side of an option with its part of the cost. Better: with room, then cheaper by what its affinity is worth, then
/// the lower id.
struct Side {
    std::size_t index = 0;
    bool no_room = false;
    double seconds = 0;
    base::WorkerId id{};
    bool misses = false;  // a target of the request, by prediction
    double benefit = 0;   // of affinity
    double weighed() const { return seconds - benefit; }
    bool better_than(const std::optional<Side>& other) const {
        if (!other) { return true; }
        if (no_room != other->no_room) { return !no_room; }
        if (misses != other->misses) { return !misses; }
        if (weighed() != other->weighed()) { return weighed() < other->weighed(); }
        return id < other->id;
    }
};

struct Option {
    Side decode;
    std::size_t prefill = 0;
    double seconds = 0;
    base::WorkerId prefill_id{};
    bool misses = false;
    double benefit = 0;
    double weighed() const { return seconds - benefit; }
    bool better_than(const std::optional<Option>& other) const {
        if (!other) { return true; }
        if (decode.no_room != other->decode.no_room) { return !decode.no_room; }
        if (misses != other->misses) { return !misses; }
        if (weighed() != other->weighed()) { return weighed() < other->weighed(); }
        if (prefill_id != other->prefill_id) { return prefill_id < other->prefill_id; }
        return decode.id < other->decode.id;
    }
};

void keep_better(std::optional<Side>& best, const Side& side) {
    if (side.better_than(best)) { best = side; }
}

void keep_better(std::optional<Option>& best, const Option& option) {
    if (option.better_than(best)) { best = option; }
}

constexpr std::int8_t kNoRank = std::numeric_limits<std::int8_t>::max();

/// Who may be asked for one phase: the best rank that exists among workers that could hold the request.
struct PhasePool {
    bool exists = false;         // a worker of this phase takes new requests
    std::uint64_t capacity = 0;  // tokens, of the largest worker of this phase, draining ones included
    std::int8_t rank = kNoRank;
    bool full = true;  // all workers of that rank have full queues
    bool found() const { return rank != kNoRank; }
};

/// rank() of who may be asked for a phase, whatever the others are.
constexpr std::int8_t kNotAsked = -1;
struct Ranks {
    std::int8_t prefill = kNotAsked;
    std::int8_t decode = kNotAsked;
};
/// More than are looked at of many: their ranks take no memory.
constexpr std::size_t kRanksFew = 96;

/// The decision for one query, in three passes over the workers: who counts, who is full, who is cheapest.
class Decision {
public:
    Decision(const ClusterView& view, const PlaceQuery& query) : view_(view), query_(query) {
        CHECK(query.cached_blocks.empty() || query.cached_blocks.size() == view.size(),
              query.cached_blocks.size() << " prefixes for " << view.size() << " workers");
        CHECK(query.below_pool.empty() || query.below_pool.size() == view.size());
    }

    Decision(const Decision&) = delete;  // names a part of itself
    Decision& operator=(const Decision&) = delete;

    PlaceOutcome decide() {
        if (query_.prompt_tokens == 0) {
            return refuse(base::ErrorCode::invalid_argument, "a request needs at least one prompt token", 0,
                          "bad_request");
        }
        if (!view_.rules.allow_mixed_numerics) {
            numerics_ = query_.numerics_id != 0 ? query_.numerics_id : pool_numerics(view_.workers);
        }
        survey();
        if (auto refusal = refuse_without_pool()) { return *refusal; }
        find_room();
        if (auto refusal = refuse_when_full()) { return *refusal; }
        return choose();
    }

private:
    bool counts(const WorkerView& worker) const {
        return worker.status != WorkerStatus::gone && (!numerics_ || worker.numerics_id == *numerics_);
    }
    std::uint64_t tokens_all() const { return std::uint64_t{query_.prompt_tokens} + query_.new_tokens_max; }
    bool in_prefill_pool(std::size_t index) const { return ranks_[index].prefill == prefill_.rank; }
    bool in_decode_pool(std::size_t index) const { return ranks_[index].decode == decode_.rank; }

    void survey() {
        if (view_.size() > few_ranks_.size()) {
            many_ranks_.resize(view_.size());
            ranks_ = many_ranks_;
        }
        for (std::size_t i = 0; i < view_.size(); ++i) {
            const WorkerView& worker = view_.at(i);
            if (!counts(worker)) { continue; }
            const std::uint64_t capacity = tokens_capacity(worker);
            const std::int8_t rank_here = rank(worker, query_);
            const auto look = [&](PhasePool& pool, std::uint64_t tokens) {
                pool.capacity = std::max(pool.capacity, capacity);
                if (worker.status == WorkerStatus::draining) { return kNotAsked; }
                pool.exists = true;
                if (capacity < tokens) { return kNotAsked; }
                pool.rank = std::min(pool.rank, rank_here);
                return rank_here;
            };
            if (can_prefill(worker)) { ranks_[i].prefill = look(prefill_, query_.prompt_tokens); }
            if (can_decode(worker)) { ranks_[i].decode = look(decode_, tokens_all()); }
            has_pure_decode_ = has_pure_decode_ || worker.role == Role::decode;
        }
    }

    std::optional<Refusal> refuse_without_pool() const {
        if (!decode_.exists) {
            return refuse(base::ErrorCode::unavailable,
                          prefill_.exists ? "there are workers for prefill but none for decode" : "there is no worker",
                          kRetryWithoutWorkerMs, "no_worker");
        }
        // Without workers for prefill the decode workers do both; then only their size counts.
        const bool prefill_fits = !prefill_.exists || prefill_.capacity >= query_.prompt_tokens;
        if (decode_.capacity < tokens_all() || !prefill_fits) {
            return refuse(
                base::ErrorCode::invalid_argument,
                "a prompt of " + std::to_string(query_.prompt_tokens) + " tokens with up to " +
                    std::to_string(query_.new_tokens_max) + " new ones does not fit: the largest worker holds " +
                    std::to_string(prefill_fits ? decode_.capacity : std::min(prefill_.capacity, decode_.capacity)) +
                    " tokens",
                0, "never_fits");
        }
        if (!decode_.found() || (prefill_.exists && !prefill_.found())) {
            return refuse(base::ErrorCode::unavailable,
                          "only a draining worker could hold " + std::to_string(tokens_all()) + " tokens",
                          kRetryWithoutWorkerMs, "no_worker");
        }
        return std::nullopt;
    }

    void find_room() {
        for (std::size_t i = 0; i < view_.size(); ++i) {
            const WorkerView& worker = view_.at(i);
            if (in_prefill_pool(i)) { prefill_.full = prefill_.full && prefill_queue_full(worker); }
            if (in_decode_pool(i)) { decode_.full = decode_.full && decode_queue_full(worker); }
        }
    }

    std::optional<Refusal> refuse_when_full() const {
        const bool prefill_full = prefill_.found() && prefill_.full;
        if (!prefill_full && !decode_.full) { return std::nullopt; }
        return refuse_full(std::string("the queues of all workers for ") + (prefill_full ? "prefill" : "decode") +
                           " are full");
    }

    /// Retry-After: when the queue that empties first has been worked off (prefill), or a sequence has left (decode).
    Refusal refuse_full(std::string message) const {
        constexpr double kNever = std::numeric_limits<double>::infinity();
        double prefill_seconds = kNever;
        double decode_seconds = kNever;
        for (std::size_t i = 0; i < view_.size(); ++i) {
            const WorkerView& worker = view_.at(i);
            if (in_prefill_pool(i)) {
                prefill_seconds = std::min(prefill_seconds, forecast_prefill(worker, query_, 0).queue_seconds);
            }
            if (in_decode_pool(i)) {
                const double leave = forecast_tpot(worker, query_) * kRemainingTokens /
                                     std::max(1.0, static_cast<double>(worker.load.decode_sequences));
                decode_seconds = std::min(decode_seconds, leave + decode_wait(worker));
            }
        }
        const double seconds =
            std::max(prefill_.found() && prefill_.full ? prefill_seconds : 0, decode_.full ? decode_seconds : 0);
        return refuse(base::ErrorCode::resource_exhausted, std::move(message), retry_after_ms(seconds), "queues_full");
    }

    PlaceOutcome choose() const {
        // A split pairs one pure worker with any of the other phase, so the best of each group is enough.
        std::optional<Side> prefill_pure;
        std::optional<Side> prefill_mixed;
        std::optional<Option> best;
        for (std::size_t i = 0; i < view_.size(); ++i) {
            const WorkerView& worker = view_.at(i);
            if (!in_prefill_pool(i) || prefill_queue_full(worker)) { continue; }
            const bool is_mixed = worker.role == Role::mixed;
            if (!is_mixed || has_pure_decode_) {
                keep_better(is_mixed ? prefill_mixed : prefill_pure, prefill_side(i));
            }
        }
        // Room counts when prefill will have ended: the cost of a pair is the later of both and then the answer, so
        // who prefills soonest is the best partner of every decode worker.
        std::optional<Side> pure_after_pure;
        std::optional<Side> pure_after_mixed;
        std::optional<Side> mixed_after_pure;
        for (std::size_t i = 0; i < view_.size(); ++i) {
            const WorkerView& worker = view_.at(i);
            if (!in_decode_pool(i) || decode_queue_full(worker)) { continue; }
            const std::uint32_t cached = in_pool_tokens(i);  // what comes may come later than the KV
            const auto offer = [&](std::optional<Side>& side, const std::optional<Side>& prefill) {
                if (prefill) { keep_better(side, decode_side(i, cached, prefill->seconds)); }
            };
            if (worker.role == Role::mixed) {
                offer(mixed_after_pure, prefill_pure);
            } else {
                offer(pure_after_pure, prefill_pure);
                offer(pure_after_mixed, prefill_mixed);
            }
            if (!prefill_queue_full(worker) && may_do_both(worker, view_.rules, prefill_.exists)) {
                keep_better(best, local_option(i));
            }
        }
        for (const auto& [prefill, decode] : {std::pair{prefill_pure, pure_after_pure},
                                              {prefill_pure, mixed_after_pure},
                                              {prefill_mixed, pure_after_mixed}}) {
            if (prefill && decode) {
                const bool misses = decode->misses || prefill->seconds > query_.ttft_seconds_left;
                keep_better(best, Option{*decode, prefill->index, prefill->seconds + decode->seconds, prefill->id,
                                         misses, prefill->benefit + decode->benefit});
            }
        }
        if (!best) {
            // Mixed workers only, and none has room in both of its queues.
            return refuse_full("no worker has room in its queues for both phases");
        }
        if (auto refusal = refuse_when_late(*best)) { return *refusal; }
        return describe(*best);
    }

    /// What is predicted of these workers rests on what was seen too long ago: nothing to do, or nothing beside others.
    bool is_in_doubt(const Option& option) const {
        const ExpectedLoad& prefill = view_.at(option.prefill).expected;
        const ExpectedLoad& decode = view_.at(option.decode.index).expected;
        if (std::min(prefill.idle_seconds, decode.idle_seconds) > view_.rules.probe_after_seconds) { return true; }
        return option.misses && prefill.prompts == 0 && decode.coming == 0 && decode.decoding > 0 &&
               decode.unjoined_seconds > view_.rules.probe_after_seconds;
    }

    /// Whether it is predicted to be late and may be refused for that.
    bool may_refuse(const Option& option) const {
        return view_.at(option.prefill).costs.learned && view_.at(option.decode.index).costs.learned &&
               query_.may_refuse && view_.rules.admit_by_prediction;
    }

    /// The best option misses a target, so all do.
    std::optional<Refusal> refuse_when_late(const Option& option) const {
        const WorkerView& prefill = view_.at(option.prefill);
        const WorkerView& decode = view_.at(option.decode.index);
        if (!may_refuse(option)) { return std::nullopt; }
        const bool may_wait_for_ever = query_.queue_share >= 1 || query_.ttft_seconds_left == kNoTarget;
        if (!option.misses && may_wait_for_ever) { return std::nullopt; }
        if (is_in_doubt(option)) { return std::nullopt; }
        const PrefillForecast forecast = forecast_of(option);
        const double own = forecast.ttft_seconds - forecast.queue_seconds;
        // At 1/2 another prompt like it would still be in time behind it; at no share does it wait for nothing.
        const double room = query_.ttft_seconds_left - own;
        const double may_wait = std::max(0.0, room - 2 * (1 - query_.queue_share) * std::max(own, room / 2));
        if (!option.misses && forecast.queue_seconds <= may_wait) { return std::nullopt; }
        const auto ms = [](double seconds) {
            return std::to_string(static_cast<std::int64_t>(std::ceil(seconds * 1e3))) + " ms";
        };
        if (forecast.ttft_seconds > query_.ttft_seconds_left) {
            const double alone = forecast.ttft_seconds - forecast.queue_seconds;
            const bool is_hopeless = forecast.queue_seconds <= 0 && prefill.expected.decoding == 0;
            return refuse(base::ErrorCode::resource_exhausted,
                          "the first token would come in " + ms(forecast.ttft_seconds) + ", " + ms(alone) +
                              " of it for this prompt; " + ms(std::max(0.0, query_.ttft_seconds_left)) +
                              " are left of its target",
                          is_hopeless ? 0 : retry_after_ms(forecast.ttft_seconds - query_.ttft_seconds_left),
                          "slo_infeasible");
        }
        if (!option.misses) {
            return refuse(base::ErrorCode::resource_exhausted,
                          "others ask who have had less: this prompt would wait " + ms(forecast.queue_seconds) + ", " +
                              ms(may_wait) + " are open to its tenant and class of the " + ms(room) +
                              " that its target allows",
                          retry_after_ms(forecast.queue_seconds - may_wait), "over_share");
        }
        const double tpot = option.prefill == option.decode.index
                                ? forecast_tpot(decode, query_, forecast.sequences_then)
                                : forecast_tpot(decode, query_);
        const bool is_hopeless = decode.expected.decoding + decode.expected.coming == 0;
        return refuse(
            base::ErrorCode::resource_exhausted,
            "tokens would come every " + ms(tpot) + "; the target is " + ms(query_.tpot_seconds_target),
            is_hopeless ? 0 : retry_after_ms(kRemainingTokens * tpot / std::max(1.0, decode.expected.decoding)),
            "slo_infeasible");
    }

    double decode_wait(const WorkerView& worker) const { return forecast_decode_wait(worker, query_); }
    double handoff(const WorkerView& worker, std::uint32_t cached, double prefill_seconds) const {
        return forecast_handoff(worker, static_cast<double>(query_.prompt_tokens - cached), prefill_seconds);
    }

    Side prefill_side(std::size_t index) const {
        const WorkerView& worker = view_.at(index);
        const Held held = held_tokens(worker, query_, index);
        const PrefillForecast forecast = prefill_at(worker, index, held);
        const double own = forecast.ttft_seconds - forecast.queue_seconds;
        return {.index = index,
                .seconds = forecast.ttft_seconds,
                .id = worker.id,
                .misses = forecast.ttft_seconds > query_.ttft_seconds_left,
                .benefit = prefill_benefit(worker, query_, held, own)};
    }

    /// What decode adds to a prompt that is computed `prefill_seconds` from now.
    Side decode_side(std::size_t index, std::uint32_t cached, double prefill_seconds) const {
        const WorkerView& worker = view_.at(index);
        const DecodeForecast decode = forecast_decode(worker, query_, prefill_seconds);
        const double moved = handoff(worker, cached, prefill_seconds);
        return {index,
                decode.wait_seconds > 0,
                moved + decode.cost_seconds,
                worker.id,
                decode.tpot_seconds > query_.tpot_seconds_target,
                benefit_of(worker, query_, moved)};
    }

    /// What lies below the pool of a worker is loaded while other prompts are computed; or it is computed, where that
    /// is sooner.
    PrefillForecast prefill_at(const WorkerView& worker, std::size_t index, const Held& held) const {
        const Prefix prefix = prefix_of(index, held);
        PrefillForecast loaded = forecast_prefill(worker, query_, prefix.tokens);
        if (prefix.below.seconds <= loaded.queue_seconds) { return loaded; }
        loaded.ttft_seconds += prefix.below.seconds - loaded.queue_seconds;
        const PrefillForecast computed = forecast_prefill(worker, query_, prefix.tokens - below_tokens(index, prefix));
        return computed.ttft_seconds < loaded.ttft_seconds ? computed : loaded;
    }

    LocalForecast local_at(const WorkerView& worker, std::size_t index, const Held& held) const {
        const Prefix prefix = prefix_of(index, held);
        LocalForecast loaded = forecast_local(worker, query_, prefix.tokens);
        const double more = prefix.below.seconds - loaded.prefill.queue_seconds;
        if (more <= 0) { return loaded; }
        loaded.prefill.ttft_seconds += more;
        loaded.cost_seconds += more - std::min(more, loaded.wait_seconds);
        loaded.wait_seconds -= std::min(more, loaded.wait_seconds);
        const LocalForecast computed = forecast_local(worker, query_, prefix.tokens - below_tokens(index, prefix));
        return computed.cost_seconds < loaded.cost_seconds ? computed : loaded;
    }

    /// What a prompt need not compute on a worker: what it holds, or what is coming there, which brings what lies below
    /// the pool with it.
    struct Prefix {
        std::uint32_t tokens = 0;
        BelowPool below = {};  // of them
    };
    Prefix prefix_of(std::size_t index, const Held& held) const {
        if (held.prefix > held.cached) { return {.tokens = held.prefix}; }
        return {.tokens = held.cached, .below = query_.below_pool.empty() ? BelowPool{} : query_.below_pool[index]};
    }
    /// What a hand-off to it need not bring: nothing is loaded for one, and what comes may come later.
    std::uint32_t in_pool_tokens(std::size_t index) const {
        const std::uint32_t held = cached_tokens(index);
        const BelowPool below = query_.below_pool.empty() ? BelowPool{} : query_.below_pool[index];
        return held - below_tokens(index, {.tokens = held, .below = below});
    }
    /// That the worker is believed to hold now.
    std::uint32_t cached_tokens(std::size_t index) const {
        if (query_.cached_blocks.empty()) { return 0; }
        return tokens_of_blocks(view_.at(index), query_, query_.cached_blocks[index]);
    }
    std::uint32_t below_tokens(std::size_t index, const Prefix& prefix) const {
        return std::min(prefix.tokens, prefix.below.blocks * view_.at(index).limits.block_tokens);
    }

    Option local_option(std::size_t index) const {
        const WorkerView& worker = view_.at(index);
        const Held held = held_tokens(worker, query_, index);
        const LocalForecast local = local_at(worker, index, held);
        const bool misses =
            local.tpot_seconds > query_.tpot_seconds_target || local.prefill.ttft_seconds > query_.ttft_seconds_left;
        const double own = local.prefill.ttft_seconds - local.prefill.queue_seconds;
        return {Side{index, local.wait_seconds > 0, local.cost_seconds, worker.id, misses},
                index,
                local.cost_seconds,
                worker.id,
                misses,
                prefill_benefit(worker, query_, held, own)};
    }

    /// Who has most of the prompt, if that is worth fetching; ties go to the lower id. Who drains may well be asked.
    std::optional<std::size_t> kv_source(std::size_t prefill, std::uint32_t cached) const {
        std::optional<std::size_t> best;
        std::uint32_t most = 0;
        if (view_.rules.fetch_tokens_min == 0) { return best; }
        for (std::size_t i = 0; i < view_.size(); ++i) {
            const WorkerView& worker = view_.at(i);
            // Hashes are of one numerics_id, so nobody else has these blocks.
            if (i == prefill || !counts(worker) || worker.numerics_id != view_.at(prefill).numerics_id ||
                !worker.limits.lends_kv || rank(worker, query_) > 0) {
                continue;
            }
            const std::uint32_t tokens = cached_tokens(i);
            if (tokens < cached + view_.rules.fetch_tokens_min) { continue; }
            if (!best || tokens > most || (tokens == most && worker.id < view_.at(*best).id)) {
                best = i;
                most = tokens;
            }
        }
        return best;
    }

    PrefillForecast forecast_of(const Option& option) const { return forecast_on(view_.at(option.prefill), option); }
    /// On the worker of its prefill, as it is seen in `worker`.
    PrefillForecast forecast_on(const WorkerView& worker, const Option& option) const {
        const Held held = held_tokens(worker, query_, option.prefill);
        return option.prefill == option.decode.index ? local_at(worker, option.prefill, held).prefill
                                                     : prefill_at(worker, option.prefill, held);
    }
    /// What is told of it.
    PrefillForecast expected_of(const Option& option) const {
        const WorkerView& worker = view_.at(option.prefill);
        return worker.expected.late.prompts == 0 || option.misses ? forecast_of(option)
                                                                  : forecast_on(without_late(worker), option);
    }

    Placement describe(const Option& option) const {
        const WorkerView& prefill = view_.at(option.prefill);
        const WorkerView& decode = view_.at(option.decode.index);
        const bool local = option.prefill == option.decode.index;
        const std::uint32_t cached = held_tokens(prefill, query_, option.prefill).prefix;
        const PrefillForecast forecast = expected_of(option);
        const auto source = kv_source(option.prefill, cached);
        const bool is_probe = option.misses && may_refuse(option);  // and yet here
        const bool last_resort = decode_.rank > 0 || (prefill_.found() && prefill_.rank > 0);
        return {
            .prefill = option.prefill,
            .decode = option.decode.index,
            .cached_prompt_tokens = cached,
            .queue_seconds = forecast.queue_seconds,
            .ttft_seconds = forecast.ttft_seconds,
            .handoff_seconds = local ? 0 : handoff(decode, in_pool_tokens(option.decode.index), forecast.ttft_seconds),
            .tpot_seconds = local ? tell_tpot(decode, query_, forecast.sequences_then, forecast.queue_seconds)
                                  : forecast_tpot(decode, query_),
            .cost_seconds = option.seconds,
            .kv_source = source,
            .kv_source_tokens = source ? cached_tokens(*source) : 0,
            .reason = last_resort        ? "last_resort"
                      : is_probe         ? "probe"
                      : !prefill_.exists ? "no_prefill_worker"
                                         : "cheapest",
            .is_probe = is_probe};
    }

    const ClusterView& view_;
    const PlaceQuery& query_;
    std::optional<std::uint64_t> numerics_;
    PhasePool prefill_;
    PhasePool decode_;
    std::array<Ranks, kRanksFew> few_ranks_;
    std::vector<Ranks> many_ranks_;
    std::span<Ranks> ranks_{few_ranks_};  // of each worker
    bool has_pure_decode_ = false;
};

}  // namespace

PlaceOutcome place(const ClusterView& view, const PlaceQuery& query) {
    return Decision(view, query).decide();
}

std::optional<std::uint64_t> pool_numerics(std::span<const WorkerView> workers) {
    struct Pool {
        std::uint64_t numerics_id;
        bool prefill = false;
        bool decode = false;
        std::uint32_t ready = 0;
        std::uint64_t registration = std::numeric_limits<std::uint64_t>::max();
    };
    std::vector<Pool> pools;  // a handful: one per kind of engine in the cluster
    for (const WorkerView& worker : workers) {
        if (worker.status == WorkerStatus::gone || worker.role == Role::encode) { continue; }
        auto pool = std::find_if(pools.begin(), pools.end(),
                                 [&worker](const Pool& one) { return one.numerics_id == worker.numerics_id; });
        if (pool == pools.end()) { pool = pools.insert(pools.end(), Pool{.numerics_id = worker.numerics_id}); }
        pool->registration = std::min(pool->registration, worker.registration);
        if (worker.status == WorkerStatus::draining) { continue; }
        pool->prefill = pool->prefill || can_prefill(worker);
        pool->decode = pool->decode || can_decode(worker);
        if (worker.status == WorkerStatus::ready) { ++pool->ready; }
    }
    const auto best = std::max_element(pools.begin(), pools.end(), [](const Pool& a, const Pool& b) {
        const bool a_whole = a.prefill && a.decode;
        const bool b_whole = b.prefill && b.decode;
        if (a_whole != b_whole) { return b_whole; }
        if (a.ready != b.ready) { return a.ready < b.ready; }
        return a.registration > b.registration;
    });
    if (best == pools.end()) { return std::nullopt; }
    return best->numerics_id;
}

}  // namespace scheduler
