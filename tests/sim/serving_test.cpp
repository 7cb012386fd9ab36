#include "sim/serving.h"

#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

namespace {

using namespace sim_test;

sim::ServingOptions split(const scheduler::planner::StepTimes& times) {
    sim::ServingOptions options = mixed(times, 1);
    options.pools[0].role = proto::Role::prefill;
    options.pools.push_back(options.pools[0]);
    options.pools[1].role = proto::Role::decode;
    options.links = {.kv_bytes_per_token = 1e5, .bytes_per_second = 1e9, .latency_seconds = 1e-3, .layers = 10};
    return options;
}

}  // namespace

TEST_CASE("one request alone takes what its steps take", "[sim][serving]") {
    const auto times = linear_times();
    auto options = mixed(times, 1);
    options.noise = 0;
    const auto result = played(options, even_trace(1, 0, 500, 11));
    const sim::ServedOutcome& outcome = result.outcomes[0];
    CHECK(outcome.first_token_s == Approx(0.105).epsilon(0.01));
    // Ten steps of one sequence with about 505 tokens.
    CHECK(outcome.last_token_s - outcome.first_token_s == Approx(10 * (5e-3 + 3.505e-4)).epsilon(0.01));
    CHECK(outcome.tokens == 11);
    CHECK(outcome.token_gaps_s.size() == 10);
    CHECK(result.counts.steps == 11);
}

TEST_CASE("a hand-off takes what the link takes, and its KV is where the answer is written", "[sim][serving]") {
    const auto times = linear_times();
    auto options = split(times);
    options.noise = 0;
    const auto result = played(options, even_trace(1, 0, 500, 3));
    CHECK(result.counts.hand_offs == 1);
    // 50 MB at 1 GB/s, sent while the 105 ms of the prompt are computed: the last tenth of them, and the latency.
    CHECK(result.counts.hand_off_seconds == Approx(0.006).epsilon(0.01));
    CHECK(result.outcomes[0].token_gaps_s[0] == Approx(0.006 + 5e-3 + 3.5e-4).epsilon(0.02));
}

TEST_CASE("a hand-off without a core of its own takes its time of the steps at both ends", "[sim][serving]") {
    const auto times = linear_times();
    auto options = split(times);
    options.noise = 0;
    options.links.sender_seconds_per_token = 1e-4;
    options.links.receiver_seconds_per_token = 2e-4;
    const auto result = played(options, even_trace(1, 0, 500, 4));
    const sim::ServedOutcome& outcome = result.outcomes[0];
    CHECK(outcome.first_token_s == Approx(0.105 + 0.05).epsilon(0.01));
    // Once: the step after the KV has arrived, and no other.
    CHECK(outcome.token_gaps_s[0] == Approx(0.006 + 5e-3 + 3.5e-4 + 0.1).epsilon(0.02));
    CHECK(outcome.token_gaps_s[1] == Approx(5e-3 + 3.5e-4).epsilon(0.02));
}

TEST_CASE("a worker for decode behind a slow link gets little, once that is known", "[sim][serving]") {
    const auto times = linear_times();
    auto options = split(times);
    options.pools[1].count = 2;
    options.faults = {
        {.at_s = 0, .kind = sim::Fault::Kind::slow_link, .target = "decode-0", .duration_s = 1000, .factor = 20}};
    const auto result = played(options, even_trace(200, 0.25, 500, 8));
    CHECK(errors(result) == 0);
    CHECK(result.counts.hand_offs == 200);
    // One over the slow link takes 1 s, and waits for those before it; one over the other is 6 ms late. A dozen go the
    // slow way until it is known; half of all, two a second, would wait 2,500 s.
    CHECK(result.counts.hand_off_seconds < 100);
}

TEST_CASE("prompts that begin alike are computed once", "[sim][serving]") {
    const auto times = linear_times();
    auto options = mixed(times, 2);
    auto trace = even_trace(20, 1, 512, 4);
    for (std::uint64_t block = 0; block < 32; ++block) {
        trace.blocks.push_back({block, block});
    }
    for (auto& request : trace.requests) {
        request.blocks = 32;
    }
    for (const auto policy : {sim::Policy::sluice, sim::Policy::cache_aware}) {
        options.policy = policy;
        const auto result = played(options, trace);
        std::uint64_t cached = 0;
        for (const auto& outcome : result.outcomes) {
            cached += outcome.cached_tokens;
        }
        CAPTURE(sim::policy_name(policy));
        CHECK(cached >= 18u * 496);  // all but the last block of each, once somebody has it
    }
}

TEST_CASE("a worker that dies costs no request its answer", "[sim][serving][faults]") {
    const auto times = linear_times();
    auto options = mixed(times, 3);
    options.faults = {{.at_s = 2, .kind = sim::Fault::Kind::death, .target = "mixed-0", .duration_s = 5}};
    const auto result = played(options, even_trace(100, 0.05, 100, 40));
    CHECK(errors(result) == 0);
    CHECK(result.counts.placed_again > 0);
}

TEST_CASE("a partition shorter than the lease loses nothing, a longer one is gone around", "[sim][serving][faults]") {
    const auto times = linear_times();
    for (const double seconds : {2.0, 9.0}) {
        auto options = mixed(times, 2);
        options.faults = {{.at_s = 1, .kind = sim::Fault::Kind::partition, .target = "mixed-0", .duration_s = seconds}};
        const auto result = played(options, even_trace(60, 0.2, 100, 30));
        CAPTURE(seconds);
        CHECK(errors(result) == 0);
        CHECK((result.counts.placed_again > 0) == (seconds > 5));
    }
}

TEST_CASE("a prefill worker that dies during a hand-off is made up for by decode", "[sim][serving][faults]") {
    const auto times = linear_times();
    auto options = split(times);
    options.pools[0].count = 2;
    options.links.bytes_per_second = 2e7;  // 500 tokens take 2.5 s
    options.faults = {{.at_s = 0.6, .kind = sim::Fault::Kind::death, .target = "prefill-0", .duration_s = 1},
                      {.at_s = 0.7, .kind = sim::Fault::Kind::death, .target = "prefill-1", .duration_s = 1}};
    const auto result = played(options, even_trace(3, 0.01, 500, 20));
    CHECK(errors(result) == 0);
    CHECK(result.counts.recomputed > 0);
}

TEST_CASE("a run is the same whether every token is told or only those that matter", "[sim][serving]") {
    const auto times = linear_times();
    for (const bool is_split : {false, true}) {
        auto options = is_split ? split(times) : mixed(times, 3);
        options.checks = false;
        const auto trace = even_trace(120, 0.01, 150, 25);
        options.keeps_token_times = true;
        const auto all = played(options, trace);
        options.keeps_token_times = false;
        REQUIRE(!options.tells_every_token());
        const auto some = played(options, trace);
        CAPTURE(is_split);
        CHECK(all.counts.events == some.counts.events);
        CHECK(all.counts.tokens == some.counts.tokens);
        CHECK(all.counts.tokens == 120u * 25);
        CHECK(all.ended_s == some.ended_s);
        for (std::size_t i = 0; i < trace.requests.size(); ++i) {
            REQUIRE(all.outcomes[i].first_token_s == some.outcomes[i].first_token_s);
            REQUIRE(all.outcomes[i].last_token_s == some.outcomes[i].last_token_s);
            REQUIRE(all.outcomes[i].ended_s == some.outcomes[i].ended_s);
            REQUIRE(all.outcomes[i].tokens == some.outcomes[i].tokens);
            REQUIRE(all.outcomes[i].token_gaps_s.size() == 24);
            REQUIRE(some.outcomes[i].token_gaps_s.empty());
        }
    }
}

TEST_CASE("what can never fit is refused, what is wrong is said", "[sim][serving]") {
    const auto times = linear_times();
    auto options = mixed(times, 1);
    options.pools[0].kv_tokens = 320;
    const auto result = played(options, even_trace(1, 0, 500, 3));
    CHECK(result.outcomes[0].error == base::ErrorCode::invalid_argument);
    CHECK(result.counts.refused == 1);
    options.faults = {{.at_s = 1, .target = "decode-0"}};
    const auto wrong = sim::simulate_serving(options, even_trace(1, 0, 5, 3));
    REQUIRE(!wrong.has_value());
    CHECK(wrong.error().message.find("decode-0") != std::string::npos);
    CHECK(!sim::parse_policy("best").has_value());
}

TEST_CASE("faults are read, and mistakes in them are named", "[sim][faults]") {
    const auto faults = sim::read_faults(
        "- {time: 3, kind: death, target: decode-1, duration: 10}\n- {time: 4.5, kind: slow, target: any, factor: 8}\n",
        "f.yaml");
    REQUIRE(faults.has_value());
    REQUIRE(faults->size() == 2);
    CHECK((*faults)[0] ==
          sim::Fault{.at_s = 3, .kind = sim::Fault::Kind::death, .target = "decode-1", .duration_s = 10});
    CHECK((*faults)[1].factor == 8);
    for (const char* bad :
         {"time: 3", "- 3", "- {kind: death, target: any}", "- {time: 1, kind: fire, target: any}",
          "- {time: 1, kind: slow, target: any, factor: 0.5}", "- {time: -1, kind: slow, target: any}",
          "- {time: 1, kind: slow}", "- {time: 1, kind: slow, target: any, when: 3}", "- [",
          "- {time: .nan, kind: slow, target: any}"}) {
        CAPTURE(bad);
        const auto read = sim::read_faults(bad, "f.yaml");
        REQUIRE(!read.has_value());
        CHECK(read.error().message.starts_with("f.yaml: "));
    }
}
