#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "scheduler/place.h"

#include "scheduler/forecast.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"

namespace {

using scheduler::Role;
using scheduler::WorkerStatus;
using scheduler::WorkerView;

struct Case {
    std::vector<WorkerView> workers;
    std::vector<std::uint32_t> cached_blocks;
    std::vector<base::Incarnation> avoid;
    scheduler::PlaceRules rules;
    std::uint32_t prompt_tokens = 0;
    std::uint32_t new_tokens_max = 0;

    scheduler::ClusterView view() const { return {.workers = workers, .rules = rules}; }
    scheduler::PlaceQuery query() const {
        return {.prompt_tokens = prompt_tokens,
                .new_tokens_max = new_tokens_max,
                .numerics_id = 0,
                .cached_blocks = cached_blocks,
                .avoid = avoid};
    }
};

Case make_case(std::uint32_t seed) {
    std::mt19937 random{seed};
    const auto pick = [&random](std::uint32_t low, std::uint32_t high) {
        return std::uniform_int_distribution<std::uint32_t>{low, high}(random);
    };
    Case made;
    const std::uint32_t count = pick(0, 7);
    const bool only_mixed = pick(0, 3) == 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        WorkerView worker = scheduler_test::make_worker({
            .id = 100 - i,
            .role = only_mixed ? Role::mixed : static_cast<Role>(pick(0, 2)),
            .status = pick(0, 2) != 0 ? WorkerStatus::ready : static_cast<WorkerStatus>(pick(0, 4)),
            .numerics_id = pick(0, 5) == 0 ? 8u : 7u,
            .requests_waiting = pick(0, 4),
            .requests_running = pick(0, 3),
            .prefill_tokens_queued = pick(0, 3000),
            .decode_sequences = pick(0, 10),
            .kv_blocks_total = pick(20, 300),
            .context_tokens = pick(500, 4000),
            .batch_sequences_max = pick(4, 12),
            .queue_requests_max = pick(4, 8),
            .speed = pick(5, 30) / 10.0,
        });
        worker.load.blocks_room = pick(0, worker.limits.kv_blocks_total);
        worker.load.blocks_used = worker.limits.kv_blocks_total - worker.load.blocks_room;
        if (pick(0, 1) == 0) {
            worker.pending = {.prefill_requests = pick(0, 3),
                              .prefill_tokens = pick(0, 1000),
                              .decode_sequences = pick(0, 4),
                              .decode_context_tokens = pick(0, 1000),
                              .decode_blocks = pick(0, 50)};
        }
        worker.costs.prefill_learned = pick(0, 1) == 0;
        if (pick(0, 2) == 0) { worker.expected.tpot_seconds_strictest = pick(5, 40) / 1000.0; }
        made.workers.push_back(worker);
        made.cached_blocks.push_back(pick(0, 1) == 0 ? 0 : pick(0, 60));
        if (pick(0, 5) == 0) { made.avoid.push_back(worker.incarnation); }
    }
    made.rules = {.allow_mixed_numerics = pick(0, 4) == 0, .local_prefill_by_prediction = pick(0, 2) == 0};
    made.prompt_tokens = pick(1, 1500);
    made.new_tokens_max = pick(0, 600);
    return made;
}

/// The rules of place.h said a second time, plainly: every pair is looked at.
struct Oracle {
    const Case& c;

    bool counts(const WorkerView& worker) const {
        if (worker.status == WorkerStatus::gone || worker.status == WorkerStatus::draining) { return false; }
        return c.rules.allow_mixed_numerics || worker.numerics_id == scheduler::pool_numerics(c.workers);
    }
    bool fits_prefill(const WorkerView& worker) const {
        return worker.role != Role::decode && scheduler::tokens_capacity(worker) >= c.prompt_tokens;
    }
    bool fits_decode(const WorkerView& worker) const {
        return worker.role != Role::prefill && scheduler::tokens_capacity(worker) >= c.prompt_tokens + c.new_tokens_max;
    }
    int rank(const WorkerView& worker) const {
        const bool avoided = std::count(c.avoid.begin(), c.avoid.end(), worker.incarnation) > 0;
        return 2 * avoided + scheduler::is_doubtful(worker);
    }
    bool prefill_free(const WorkerView& worker) const {
        return worker.load.requests_running + worker.load.requests_waiting + worker.pending.prefill_requests <
               worker.limits.queue_requests_max;
    }
    bool decode_free(const WorkerView& worker) const {
        const std::uint32_t room = worker.limits.queue_requests_max;
        return worker.load.requests_running + worker.load.requests_waiting < room &&
               worker.load.requests_running + worker.pending.decode_sequences < room;
    }
    bool has_prefill() const {
        return std::any_of(c.workers.begin(), c.workers.end(),
                           [this](const WorkerView& worker) { return counts(worker) && worker.role != Role::decode; });
    }
    template <class Fits>
    int best_rank(Fits fits) const {
        int best = std::numeric_limits<int>::max();
        for (const WorkerView& worker : c.workers) {
            if (counts(worker) && fits(worker)) { best = std::min(best, rank(worker)); }
        }
        return best;
    }
    std::uint32_t cached(std::size_t i) const { return std::min(c.cached_blocks[i], (c.prompt_tokens - 1) / 16) * 16; }
    bool room_now(const WorkerView& worker) const {
        const std::uint64_t blocks = (c.prompt_tokens + c.new_tokens_max + 15) / 16;
        return worker.load.decode_sequences + worker.pending.decode_sequences + 1 <=
                   worker.limits.batch_sequences_max &&
               blocks + worker.pending.decode_blocks <= worker.load.blocks_room;
    }
    double cost(std::size_t p, std::size_t d) const {
        const WorkerView& prefill = c.workers[p];
        const WorkerView& decode = c.workers[d];
        auto query = c.query();
        if (p == d && decode.role == Role::decode) {
            query.tpot_seconds_target = std::min(query.tpot_seconds_target, decode.expected.tpot_seconds_strictest);
        }
        const auto forecast = scheduler::forecast_prefill(prefill, query, cached(p));
        double cost = forecast.ttft_seconds;
        if (p == d) {
            cost = forecast.queue_seconds + forecast.busy_seconds * (1 + decode.expected.decoding);
        } else {
            cost += scheduler::forecast_handoff(decode, c.prompt_tokens - cached(d), forecast.ttft_seconds);
        }
        const double tokens = std::clamp(c.new_tokens_max, 1u, scheduler::kWeighedTokens);
        const double tpot = p == d ? scheduler::forecast_tpot(decode, c.query(), forecast.sequences_then)
                                   : scheduler::forecast_tpot(decode, c.query());
        return cost + tokens * tpot + wait(p, d);
    }
    /// For room on `d`, when `p` has computed the prompt.
    double wait(std::size_t p, std::size_t d) const {
        auto query = c.query();
        if (p == d && c.workers[d].role == Role::decode) {
            query.tpot_seconds_target =
                std::min(query.tpot_seconds_target, c.workers[d].expected.tpot_seconds_strictest);
        }
        return std::max(0.0, scheduler::forecast_decode_wait(c.workers[d], c.query()) -
                                 scheduler::forecast_prefill(c.workers[p], query, cached(p)).ttft_seconds);
    }
    /// When the prompt will have been computed where that is soonest: a later one is no better for it.
    bool room(std::size_t p, std::size_t d) const {
        if (p == d) { return wait(p, d) <= 0; }
        for (std::size_t other = 0; other < c.workers.size(); ++other) {
            const bool is_like_p = (c.workers[other].role == Role::mixed) == (c.workers[p].role == Role::mixed);
            if (other != d && is_like_p && allowed(other, d) && wait(other, d) > 0) { return false; }
        }
        return true;
    }
    bool allowed(std::size_t p, std::size_t d) const {
        const WorkerView& prefill = c.workers[p];
        const WorkerView& decode = c.workers[d];
        if (!counts(decode) || !fits_decode(decode) || !decode_free(decode) || !counts(prefill) ||
            !prefill_free(prefill)) {
            return false;
        }
        if (rank(decode) != best_rank([this](const WorkerView& worker) { return fits_decode(worker); })) {
            return false;
        }
        if (p == d) {
            return decode.role == Role::mixed || !has_prefill() ||
                   (c.rules.local_prefill_by_prediction && decode.costs.prefill_learned);
        }
        if (!fits_prefill(prefill) || (prefill.role == Role::mixed && decode.role == Role::mixed)) { return false; }
        return rank(prefill) == best_rank([this](const WorkerView& worker) { return fits_prefill(worker); });
    }
};

}  // namespace

TEST_CASE("a placement costs no more than any other that the rules allow", "[scheduler][place][property]") {
    const auto block = GENERATE(range(0u, 20u));
    for (std::uint32_t seed = block * 250; seed < (block + 1) * 250; ++seed) {
        CAPTURE(seed);
        const Case c = make_case(seed);
        const Oracle oracle{c};
        bool found = false;
        bool best_room = false;
        double best_cost = std::numeric_limits<double>::infinity();
        for (std::size_t p = 0; p < c.workers.size(); ++p) {
            for (std::size_t d = 0; d < c.workers.size(); ++d) {
                if (!oracle.allowed(p, d)) { continue; }
                const bool room = oracle.room(p, d);
                REQUIRE(oracle.room_now(c.workers[d]) ==
                        (scheduler::forecast_decode_wait(c.workers[d], c.query()) <= 0));
                const double cost = oracle.cost(p, d);
                if (!found || (room && !best_room) || (room == best_room && cost < best_cost)) {
                    best_room = room;
                    best_cost = cost;
                }
                found = true;
            }
        }
        const auto outcome = scheduler::place(c.view(), c.query());
        if (const auto* refusal = std::get_if<scheduler::Refusal>(&outcome)) {
            INFO(refusal->error.message);
            if (refusal->reason == "queues_full") {
                // A pool may be full although the other way round (a decode worker for both) would be allowed.
                REQUIRE(refusal->error.code == base::ErrorCode::resource_exhausted);
                REQUIRE(refusal->retry_after_ms >= 1'000);
                REQUIRE(refusal->retry_after_ms <= 60'000);
                const bool pool_full = std::none_of(c.workers.begin(), c.workers.end(), [&](const WorkerView& worker) {
                    return oracle.counts(worker) && oracle.fits_prefill(worker) && oracle.prefill_free(worker) &&
                           oracle.rank(worker) ==
                               oracle.best_rank([&](const WorkerView& other) { return oracle.fits_prefill(other); });
                });
                REQUIRE((!found || pool_full));
            } else {
                REQUIRE((refusal->reason == "no_worker" || refusal->reason == "never_fits"));
                // Decode workers that prefill themselves do not stand in for a prefill worker that is only too small.
                const bool prefill_too_small = oracle.has_prefill() && oracle.best_rank([&](const WorkerView& worker) {
                    return oracle.fits_prefill(worker);
                }) == std::numeric_limits<int>::max();
                REQUIRE((!found || prefill_too_small));
            }
            continue;
        }
        const auto& placement = std::get<scheduler::Placement>(outcome);
        REQUIRE(found);
        REQUIRE(oracle.allowed(placement.prefill, placement.decode));
        REQUIRE(oracle.room(placement.prefill, placement.decode) == best_room);
        REQUIRE(placement.cost_seconds == Approx(best_cost).epsilon(1e-12));
        REQUIRE(oracle.cost(placement.prefill, placement.decode) == Approx(best_cost).epsilon(1e-9));
        REQUIRE(placement.cached_prompt_tokens < c.prompt_tokens);
        REQUIRE(placement.ttft_seconds > placement.queue_seconds);
        REQUIRE(placement.tpot_seconds > 0);
    }
}

TEST_CASE("the order in which workers are listed does not matter", "[scheduler][place][property]") {
    const auto block = GENERATE(range(0u, 10u));
    for (std::uint32_t seed = block * 200; seed < (block + 1) * 200; ++seed) {
        CAPTURE(seed);
        const Case c = make_case(seed);
        Case shuffled = c;
        std::mt19937 random{seed};
        std::vector<std::size_t> order(c.workers.size());
        for (std::size_t i = 0; i < order.size(); ++i) {
            order[i] = i;
        }
        std::shuffle(order.begin(), order.end(), random);
        for (std::size_t i = 0; i < order.size(); ++i) {
            shuffled.workers[i] = c.workers[order[i]];
            shuffled.cached_blocks[i] = c.cached_blocks[order[i]];
        }
        const auto outcome = scheduler::place(c.view(), c.query());
        const auto again = scheduler::place(shuffled.view(), shuffled.query());
        REQUIRE(outcome.index() == again.index());
        if (const auto* placement = std::get_if<scheduler::Placement>(&outcome)) {
            const auto& other = std::get<scheduler::Placement>(again);
            REQUIRE(c.workers[placement->prefill].id == shuffled.workers[other.prefill].id);
            REQUIRE(c.workers[placement->decode].id == shuffled.workers[other.decode].id);
        } else {
            REQUIRE(std::get<scheduler::Refusal>(outcome).error.code == std::get<scheduler::Refusal>(again).error.code);
        }
    }
}

TEST_CASE("a decision among some of the workers is that of a list of these", "[scheduler][place][property]") {
    const auto block = GENERATE(range(0u, 10u));
    for (std::uint32_t seed = block * 200; seed < (block + 1) * 200; ++seed) {
        CAPTURE(seed);
        const Case c = make_case(seed);
        std::mt19937 random{seed};
        std::vector<std::uint32_t> among;
        for (std::uint32_t i = 0; i < c.workers.size(); ++i) {
            if (random() % 3 != 0) { among.push_back(i); }
        }
        if (among.empty()) { continue; }
        std::shuffle(among.begin(), among.end(), random);
        Case few = c;
        few.workers.clear();
        few.cached_blocks.clear();
        for (const std::uint32_t slot : among) {
            few.workers.push_back(c.workers[slot]);
            few.cached_blocks.push_back(c.cached_blocks[slot]);
        }
        scheduler::PlaceQuery query = few.query();
        query.numerics_id = 7;  // whose pool it is depends on all
        const auto outcome = scheduler::place({.workers = c.workers, .rules = c.rules, .among = among}, query);
        const auto wanted = scheduler::place(few.view(), query);
        REQUIRE(outcome.index() == wanted.index());
        if (const auto* placement = std::get_if<scheduler::Placement>(&wanted)) {
            const auto& got = std::get<scheduler::Placement>(outcome);
            REQUIRE(got.prefill == placement->prefill);
            REQUIRE(got.decode == placement->decode);
            REQUIRE(got.cost_seconds == placement->cost_seconds);
            REQUIRE(got.cached_prompt_tokens == placement->cached_prompt_tokens);
        } else {
            REQUIRE(std::get<scheduler::Refusal>(outcome).error.message ==
                    std::get<scheduler::Refusal>(wanted).error.message);
        }
    }
}
