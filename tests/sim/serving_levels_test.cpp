// Levels below the KV pools of simulated workers: what they are good for, and what is lost with a worker.
#include <numeric>

#include "sim/modelled_worker.h"
#include "sim/serving.h"
#include "sim/virtual_clock.h"
#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

namespace {

using namespace sim_test;

constexpr std::uint32_t kConversations = 30;
constexpr std::uint32_t kTurnTokens = 640;  // of the first prompt
constexpr std::uint32_t kNextTokens = 160;  // that the second one has more

/// A token is computed in 0.2 ms, and loaded in what `bytes_per_second` makes of 128 KiB: 5 us at 25 GB/s.
sim::KvLevel host(double bytes_per_second, double kv_tokens = 100'000) {
    sim::KvLevel level;
    level.name = "host";
    level.kv_tokens = kv_tokens;
    level.kv_bytes_per_token = 131'072;
    level.load_bytes_per_second = level.save_bytes_per_second = bytes_per_second;
    level.launch_seconds = 2.5e-6;
    level.saves_through = true;
    return level;
}

/// Workers with room for six conversations each.
sim::ServingOptions small_pools(const scheduler::planner::StepTimes& times, std::uint32_t count) {
    sim::ServingOptions options = mixed(times, count);
    options.pools[0].kv_tokens = 5000;
    return options;
}

/// Each conversation's first turn, one after the other; then, from `second_s` on, each one's second.
sim::ServingTrace two_turns(double second_s) {
    sim::ServingTrace trace;
    const auto add = [&trace](double at, std::uint32_t conversation, std::uint32_t tokens) {
        sim::ServedRequest request{at, tokens, 4, trace.blocks.size(), tokens / 16};
        for (std::uint64_t block = 0; block < request.blocks; ++block) {
            trace.blocks.push_back({conversation + 1, block});
        }
        trace.requests.push_back(request);
    };
    for (std::uint32_t i = 0; i < kConversations; ++i) {
        add(0.5 * i, i, kTurnTokens);
    }
    for (std::uint32_t i = 0; i < kConversations; ++i) {
        add(second_s + 0.5 * i, i, kTurnTokens + kNextTokens);
    }
    return trace;
}

/// Of the second turns.
std::uint64_t cached_tokens(const sim::ServingResult& result) {
    return std::accumulate(result.outcomes.begin() + kConversations, result.outcomes.end(), std::uint64_t{0},
                           [](std::uint64_t sum, const auto& outcome) { return sum + outcome.cached_tokens; });
}
double mean_ttft(const sim::ServingResult& result, const sim::ServingTrace& trace) {
    double sum = 0;
    for (std::size_t i = kConversations; i < result.outcomes.size(); ++i) {
        sum += result.outcomes[i].first_token_s - trace.requests[i].arrival_s;
    }
    return sum / kConversations;
}

class Nobody final : public sim::WorkerListener {
    void on_admitted(std::uint32_t, sim::AttemptKey) override {}
    void on_room_granted(std::uint32_t, sim::AttemptKey, std::uint32_t) override {}
    void on_token(std::uint32_t, sim::AttemptKey, std::uint32_t, std::uint32_t, bool) override {}
    void on_failed(std::uint32_t, sim::AttemptKey, base::ErrorCode) override {}
};

}  // namespace

TEST_CASE("a conversation that comes back finds its KV in host memory", "[sim][serving][levels]") {
    const auto times = linear_times();
    const auto trace = two_turns(60);
    auto options = small_pools(times, 1);
    const auto without = played(options, trace);
    options.pools[0].levels = {host(25e9)};
    const auto with = played(options, trace);
    // Five of six conversations have left the pool when their second turn comes.
    CHECK(cached_tokens(without) < kConversations * kTurnTokens / 4);
    CHECK(cached_tokens(with) == kConversations * kTurnTokens);
    CHECK(mean_ttft(with, trace) < 0.5 * mean_ttft(without, trace));
    CHECK(with.counts.levels.copies.at("host").blocks_in > 0);
    CHECK(without.counts.levels.copies.empty());
}

TEST_CASE("what loads slower than it is computed is computed", "[sim][serving][levels]") {
    const auto times = linear_times();
    const auto trace = two_turns(60);
    auto options = small_pools(times, 1);
    options.pools[0].limits.kv_both_ends = false;
    const auto without = played(options, trace);
    options.pools[0].levels = {host(131'072 / 5e-4)};  // 0.5 ms a token
    const auto with = played(options, trace);
    CHECK(with.counts.levels.tokens_computed > kConversations * kTurnTokens / 2);
    // The first and one in sixteen are tried all the same.
    CHECK(mean_ttft(with, trace) < 1.3 * mean_ttft(without, trace));
}

TEST_CASE("the death of a worker takes its levels with it", "[sim][serving][levels][faults]") {
    const auto times = linear_times();
    const auto trace = two_turns(60);
    auto options = small_pools(times, 1);
    options.pools[0].levels = {host(25e9)};
    options.faults = {{.at_s = 40, .kind = sim::Fault::Kind::death, .target = "mixed-0", .duration_s = 2}};
    const auto result = played(options, trace);
    CHECK(cached_tokens(result) == 0);
}

TEST_CASE("placement knows what lies below the pools", "[sim][serving][levels]") {
    const auto times = linear_times();
    const auto trace = two_turns(60);
    auto options = small_pools(times, 3);
    options.pools[0].kv_tokens = 2000;  // three conversations of ten
    options.pools[0].levels = {host(25e9)};
    CHECK(cached_tokens(played(options, trace)) == kConversations * kTurnTokens);
    options.pools[0].levels.clear();
    CHECK(cached_tokens(played(options, trace)) < kConversations * kTurnTokens / 2);
}

TEST_CASE("who gives way to others comes back from host memory", "[sim][serving][levels]") {
    const auto times = linear_times();
    auto options = mixed(times, 1);
    options.pools[0].kv_tokens = 1600;
    const auto trace = even_trace(6, 0.05, 200, 400);  // 3,600 tokens in the end
    const auto without = played(options, trace);
    REQUIRE(without.counts.preemptions > 0);
    CHECK(without.counts.levels.back_loaded == 0);
    options.pools[0].levels = {host(25e9)};
    const auto with = played(options, trace);
    REQUIRE(with.counts.preemptions > 0);
    CHECK(with.counts.levels.back_loaded > 0);
    CHECK(with.ended_s < without.ended_s);
}

TEST_CASE("a level that holds no block cannot be", "[sim][serving][levels]") {
    const auto times = linear_times();
    auto options = mixed(times, 1);
    options.pools[0].levels = {host(25e9, 10)};
    const auto result = sim::simulate_serving(options, even_trace(1, 0, 10, 1));
    REQUIRE(!result);
    CHECK(result.error().message.find("\"host\"") != std::string::npos);
}

TEST_CASE("a worker reports what only its levels have, and what loading took", "[sim][levels]") {
    const auto times = linear_times();
    const auto limits = worker::WorkerOptions::defaults(true);
    const std::vector<sim::KvLevel> levels{host(25e9)};
    sim::VirtualClock clock;
    base::Metrics metrics;
    Nobody nobody;
    sim::ModelledWorker worker({.times = &times,
                                .limits = &limits,
                                .kv = {.blocks_total = 50, .block_tokens = 16},
                                .context_tokens = 800,
                                .levels = levels,
                                .clock = &clock,
                                .metrics = &metrics},
                               nobody);
    const auto ask = [&](std::uint32_t request, const std::vector<base::BlockHash>& chain) {
        const auto tokens = static_cast<std::uint32_t>(chain.size()) * 16;
        REQUIRE(worker.start({.key = {request, 0}, .prompt_tokens = tokens + 5, .new_tokens_max = 2, .chain = chain},
                             clock.now()));
        while (worker.sequences() > 0 || worker.next_copy_end()) {
            const auto runs =
                worker.runs_step() ? std::optional(worker.step_end() - clock.now()) : worker.begin_step(clock.now(), 1);
            const auto copied = worker.next_copy_end();
            REQUIRE((runs || copied));
            const base::TimePoint step_end = worker.step_end();
            clock.set(runs && (!copied || step_end < *copied) ? step_end : *copied);
            worker.end_copies();
            if (runs && clock.now() == step_end) { worker.finish_step(clock.now()); }
            const auto wrong = worker.violation();
            if (wrong) { FAIL(*wrong); }
        }
    };
    const auto chain = [](std::uint64_t name) {
        std::vector<base::BlockHash> blocks;
        for (std::uint64_t block = 0; block < 30; ++block) {
            blocks.push_back({name, block});
        }
        return blocks;
    };
    const auto heard = [&] {
        clock.set(clock.now() + std::chrono::seconds(10));
        sluice::proto::Heartbeat heartbeat;
        REQUIRE(worker.report(clock.now(), std::chrono::seconds(1), heartbeat));
        return heartbeat;
    };
    ask(1, chain(1));
    auto heartbeat = heard();
    REQUIRE(heartbeat.blocks_size() > 0);
    CHECK(heartbeat.blocks(0).below_size() == 0);  // the pool has it too
    ask(2, chain(2));                              // pushes the first one out
    heartbeat = heard();
    REQUIRE(heartbeat.blocks_size() > 0);
    REQUIRE(heartbeat.blocks(0).below_size() == 1);
    CHECK(heartbeat.blocks(0).below(0).level() == 1);
    REQUIRE(worker.level_use().copies.at("host").loads == 0);
    ask(1, chain(1));
    heartbeat = heard();
    CHECK(worker.level_use().copies.at("host").loads > 0);
    REQUIRE(heartbeat.load_ns_per_token_size() == 1);
    CHECK(heartbeat.load_ns_per_token(0) == Approx(131'072 / 25e9 * 1e9).epsilon(0.01));
}
