// Small clusters with faults, drawn by a seed: what must hold after every event, whatever goes wrong.
#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include "base/log.h"
#include "sim/serving.h"
#include "tests/sim/serving_world.h"
#include "tests/support/seeds.h"

#include "tests/support/catch.h"

namespace {

using namespace sim_test;

/// Everything about one run comes from its seed.
struct Scenario {
    explicit Scenario(unsigned seed) : random(seed), times(linear_times()) {
        options.seed = seed;
        options.checks = true;
        draw_pools();
        is_strict = random() % 3 == 0;
        options.ttft_target_s = is_strict ? 0.5 : 20;
        options.tpot_target_s = is_strict ? 0.03 : 1;
        constexpr sim::Policy kOthers[] = {sim::Policy::sluice_no_admission, sim::Policy::round_robin,
                                           sim::Policy::least_load, sim::Policy::cache_aware};
        options.policy = random() % 3 > 0 ? sim::Policy::sluice : kOthers[random() % 4];
        draw_faults();
        draw_scheduler_faults();
        draw_requests();
        draw_levels();
    }

    std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(random() % bound); }
    double share() { return static_cast<double>(below(1'000'000)) / 1e6; }

    void draw_pools() {
        const auto add = [this](proto::Role role, std::uint32_t count) {
            worker::WorkerOptions limits;
            limits.queue_requests_max = 4 + below(60);
            limits.batch_sequences_max = 1 + below(16);
            limits.batch_tokens_max = 16 + below(600);
            limits.chunk_tokens_max = 16 + below(200);
            options.pools.push_back({.role = role,
                                     .count = count,
                                     .times = &times,
                                     .limits = limits,
                                     .kv_tokens = 16.0 * (60 + below(300))});
        };
        if (random() % 2 == 0) {
            add(proto::Role::mixed, 1 + below(4));
            return;
        }
        add(proto::Role::prefill, 1 + below(3));
        add(proto::Role::decode, 1 + below(3));
        options.links = {.kv_bytes_per_token = 1e5,
                         .bytes_per_second = random() % 4 == 0 ? 0 : 1e6 * (5 + below(500)),
                         .latency_seconds = 1e-3 * below(20),
                         .layers = 1 + below(32)};
    }

    void draw_faults() {
        for (std::uint32_t count = below(7); count > 0; --count) {
            sim::Fault fault;
            fault.at_s = 15 * share();
            fault.kind = static_cast<sim::Fault::Kind>(below(4));
            fault.target = "any";
            fault.duration_s = 0.05 + 11 * share() * share();
            fault.factor = 1 + below(20);
            healed_s = std::max(healed_s, fault.at_s + fault.duration_s);
            options.faults.push_back(fault);
        }
    }

    /// Below half of the pools: host memory, a disk or both, quicker and slower than computing. By numbers of their
    /// own.
    void draw_levels() {
        std::mt19937_64 own(options.seed ^ 0x1e7e15);
        for (sim::ServingPool& pool : options.pools) {
            if (own() % 2 == 0) { continue; }
            const auto add = [&](const char* name) {
                sim::KvLevel level;
                level.name = name;
                level.kv_tokens = 16.0 * static_cast<double>(1 + own() % 600);
                level.kv_bytes_per_token = 1e5;
                level.load_bytes_per_second = 1e5 / (1e-6 * static_cast<double>(1 + own() % 500));
                level.save_bytes_per_second = 1e5 / (1e-6 * static_cast<double>(1 + own() % 2000));
                level.launch_seconds = 1e-6 * static_cast<double>(own() % 200);
                level.saves_through = level.name == "host";
                level.knows_rate = level.gives_up = level.name == "disk";
                pool.levels.push_back(std::move(level));
            };
            const std::uint64_t which = own() % 3;
            if (which != 1) { add("host"); }
            if (which != 0) { add("disk"); }
            pool.limits.kv_both_ends = own() % 4 != 0;
        }
    }

    /// The leading scheduler dies or stands still, in half of the clusters that have one. By numbers of their own.
    void draw_scheduler_faults() {
        std::mt19937_64 own(options.seed ^ 0x1eade5);
        if (!sim::is_scheduler(options.policy) || own() % 2 == 0) { return; }
        for (std::uint64_t count = 1 + own() % 4; count > 0; --count) {
            sim::Fault fault;
            fault.at_s = 15e-6 * static_cast<double>(own() % 1'000'000);
            fault.kind = own() % 2 == 0 ? sim::Fault::Kind::scheduler_death : sim::Fault::Kind::scheduler_pause;
            fault.duration_s = 0.02 + 8e-6 * static_cast<double>(own() % 1'000'000);
            healed_s = std::max(healed_s, fault.at_s + fault.duration_s);
            options.faults.push_back(fault);
        }
    }

    void draw_requests() {
        trace.block_tokens = 16;
        double at = 0;
        const double rate = 0.5 + 8 * share();
        while (at < 20) {
            at += -std::log(1 - share()) / rate;
            add_request(at, 1 + below(700), 1 + below(60));
        }
        first_late = trace.requests.size();
        // When all is well again and what was begun has had its time.
        double late = std::max(at, healed_s) + 90;
        for (int i = 0; i < 10; ++i) {
            add_request(late += 2, 1 + below(300), 1 + below(20));
        }
    }

    void add_request(double at, std::uint32_t prompt, std::uint32_t output) {
        const std::uint32_t family = below(4);
        const std::uint32_t shared = below(20);
        sim::ServedRequest request{at, prompt, output, trace.blocks.size(), prompt / 16};
        for (std::uint32_t block = 0; block < request.blocks; ++block) {
            const std::uint64_t name = block < shared ? family * 1000 + block : next_name++;
            trace.blocks.push_back({name, name * 0x9e3779b97f4a7c15ull});
        }
        trace.requests.push_back(request);
    }

    std::mt19937_64 random;
    scheduler::planner::StepTimes times;
    sim::ServingOptions options;
    sim::ServingTrace trace;
    bool is_strict = false;
    double healed_s = 0;
    std::size_t first_late = 0;
    std::uint64_t next_name = 1'000'000;
};

void play(unsigned seed) {
    INFO("again: SLUICE_SIM_SEED=" << seed << " build/release/tests/sim/sim_serving_tests '[seeds]'");
    const Scenario scenario(seed);
    const auto result = sim::simulate_serving(scenario.options, scenario.trace);
    REQUIRE(result.has_value());
    INFO(result->violation.value_or(""));
    REQUIRE(!result->violation);
    std::uint64_t answered = 0;
    for (std::size_t i = 0; i < result->outcomes.size(); ++i) {
        const sim::ServedOutcome& outcome = result->outcomes[i];
        CAPTURE(i, outcome.tokens, outcome.placements, static_cast<int>(outcome.error.value_or(base::ErrorCode{})));
        REQUIRE(outcome.ended_s + 1e-8 >= scenario.trace.requests[i].arrival_s);
        REQUIRE(outcome.placements <= 5);
        if (!outcome.error) {
            ++answered;
            REQUIRE(outcome.tokens == scenario.trace.requests[i].output_tokens);
            REQUIRE(outcome.first_token_s + 1e-8 > scenario.trace.requests[i].arrival_s);
        }
        // Goodput returns: with targets that a healthy cluster meets, everybody is answered.
        if (i >= scenario.first_late && !scenario.is_strict) { REQUIRE(!outcome.error); }
    }
    REQUIRE(answered <= result->counts.placements);
    REQUIRE(result->counts.refused + answered <= result->outcomes.size());
}

}  // namespace

TEST_CASE("whatever fails, each request ends once, no token is lost or doubled, and nothing is left behind",
          "[sim][seeds]") {
    spdlog::set_level(spdlog::level::off);
    if (const char* one = std::getenv("SLUICE_SIM_SEED")) { return play(static_cast<unsigned>(std::atoi(one))); }
    for (unsigned seed = 1; seed <= test_support::modelled_seeds_of(1500); ++seed) {
        play(seed);
    }
}

TEST_CASE("the same seed gives the same run", "[sim][seeds]") {
    spdlog::set_level(spdlog::level::off);
    for (const unsigned seed : {3u, 17u, 40u}) {
        const Scenario scenario(seed);
        const auto first = sim::simulate_serving(scenario.options, scenario.trace);
        const auto again = sim::simulate_serving(scenario.options, scenario.trace);
        REQUIRE(first.has_value());
        REQUIRE(again.has_value());
        REQUIRE(first->counts.events == again->counts.events);
        for (std::size_t i = 0; i < first->outcomes.size(); ++i) {
            REQUIRE(first->outcomes[i].ended_s == again->outcomes[i].ended_s);
            REQUIRE(first->outcomes[i].token_gaps_s == again->outcomes[i].token_gaps_s);
        }
    }
}
