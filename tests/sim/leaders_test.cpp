// Schedulers of a simulated cluster that die or stand still: who leads, and what becomes of requests.
#include "sim/leaders.h"

#include "sim/serving.h"
#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

namespace {

using namespace sim_test;

double latest_first_token(const sim::ServingResult& result, const sim::ServingTrace& trace) {
    double latest = 0;
    for (std::size_t i = 0; i < result.outcomes.size(); ++i) {
        latest = std::max(latest, result.outcomes[i].first_token_s - trace.requests[i].arrival_s);
    }
    return latest;
}

}  // namespace

TEST_CASE("when the scheduler that leads dies the other one takes over, and no request is lost", "[sim][leaders]") {
    const auto times = linear_times();
    auto options = mixed(times, 3);
    const auto trace = even_trace(200, 0.05, 100, 40);
    options.faults = {{.at_s = 3, .kind = sim::Fault::Kind::scheduler_death, .target = "", .duration_s = 0}};
    const auto result = played(options, trace);
    CHECK(errors(result) == 0);
    CHECK(result.counts.terms == 2);
    // New requests wait for a lease, and for the workers to attach; streams do not notice.
    CHECK(latest_first_token(result, trace) > 1.5);
    CHECK(latest_first_token(result, trace) < 4.5);
}

TEST_CASE("a leader that stands still for less than its lease leads on", "[sim][leaders]") {
    const auto times = linear_times();
    auto options = mixed(times, 2);
    const auto trace = even_trace(100, 0.05, 100, 10);
    options.faults = {{.at_s = 2, .kind = sim::Fault::Kind::scheduler_pause, .target = "", .duration_s = 1}};
    const auto briefly = played(options, trace);
    CHECK(errors(briefly) == 0);
    CHECK(briefly.counts.terms == 1);
    options.faults[0].duration_s = 4;
    const auto longer = played(options, trace);
    CHECK(errors(longer) == 0);
    CHECK(longer.counts.terms == 2);
}

TEST_CASE("without any scheduler requests are refused in the end, and taken again when one is there",
          "[sim][leaders]") {
    const auto times = linear_times();
    auto options = mixed(times, 2);
    const auto trace = even_trace(40, 1, 100, 10);
    options.faults = {{.at_s = 5.5, .kind = sim::Fault::Kind::scheduler_death, .target = "", .duration_s = 15},
                      {.at_s = 5.6, .kind = sim::Fault::Kind::scheduler_death, .target = "", .duration_s = 20}};
    const auto result = played(options, trace);
    CHECK(result.counts.terms == 2);
    CHECK(errors(result) > 5);
    for (std::size_t i = 0; i < trace.requests.size(); ++i) {
        const double at = trace.requests[i].arrival_s;
        CAPTURE(i, at);
        if (at < 5 || at > 26) { CHECK(!result.outcomes[i].error); }
        if (at > 6 && at < 15) { CHECK(result.outcomes[i].error == base::ErrorCode::unavailable); }
    }
}

TEST_CASE("plain policies have no scheduler that could fail", "[sim][leaders]") {
    const auto times = linear_times();
    auto options = mixed(times, 1);
    options.policy = sim::Policy::round_robin;
    options.faults = {{.at_s = 1, .kind = sim::Fault::Kind::scheduler_death, .target = "", .duration_s = 1}};
    const auto result = sim::simulate_serving(options, even_trace(1, 0, 10, 1));
    REQUIRE(!result);
    CHECK(result.error().message.find("round-robin") != std::string::npos);
}

TEST_CASE("one scheduler at most leads, whoever stands still, dies and comes back", "[sim][leaders]") {
    sim::VirtualClock clock;
    sim::Leaders leaders(std::chrono::milliseconds(2000), clock);
    const auto look = [&](std::uint32_t seat) {
        static_cast<void>(leaders.look(seat, {}));
        const auto wrong = leaders.violation();
        if (wrong) { FAIL(*wrong); }
    };
    const auto pass = [&](int milliseconds) { clock.set(clock.now() + std::chrono::milliseconds(milliseconds)); };
    look(0);
    look(1);
    REQUIRE(leaders.leader() == 0u);
    const std::uint64_t epoch = leaders.standing(0).epoch;
    leaders.stop(0);
    for (int i = 0; i < 19; ++i) {
        pass(100);
        look(1);
        CHECK(leaders.leader() == std::nullopt);
    }
    for (int i = 0; i < 3; ++i) {
        pass(100);
        look(1);
    }
    REQUIRE(leaders.leader() == 1u);
    CHECK(leaders.standing(1).epoch > epoch);
    leaders.go_on(0);
    REQUIRE(leaders.leader() == 1u);  // the lease of the one that stood still is over, as it sees itself
    look(0);
    leaders.kill(1);
    REQUIRE(leaders.leader() == std::nullopt);
    for (int i = 0; i < 22; ++i) {
        pass(100);
        look(0);
    }
    REQUIRE(leaders.leader() == 0u);
    leaders.begin(1);
    look(1);
    CHECK(leaders.leader() == 0u);
}
