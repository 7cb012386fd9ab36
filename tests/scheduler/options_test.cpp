#include "scheduler/options.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::SchedulerOptions;

TEST_CASE("the scheduler's settings have defaults that finish without a problem", "[scheduler][options]") {
    base::Config config;
    const auto options = SchedulerOptions::read(config);
    REQUIRE(config.finish().has_value());
    REQUIRE(options.heartbeat == 250ms);
    REQUIRE(options.suspect_after >= 2 * options.heartbeat);
    REQUIRE(options.lease >= options.suspect_after);
    REQUIRE_FALSE(options.rules.allow_mixed_numerics);
    REQUIRE(options.rules.local_prefill_tokens_max == 0);
}

TEST_CASE("the scheduler's settings are read from its section", "[scheduler][options]") {
    base::Config config;
    REQUIRE(config
                .add_text("scheduler: {heartbeat_ms: 2000, allow_mixed_numerics: true, models: [m, n], workers_max: 5}",
                          "f")
                .has_value());
    const auto options = SchedulerOptions::read(config);
    REQUIRE(config.finish().has_value());
    REQUIRE(options.models == std::vector<std::string>{"m", "n"});
    REQUIRE(options.rules.allow_mixed_numerics);
    REQUIRE(options.workers_max == 5);
    REQUIRE(options.suspect_after == 4000ms);  // never below two heartbeats
    REQUIRE(options.lease == 5000ms);
}

TEST_CASE("a lease shorter than suspicion is a problem that names the key", "[scheduler][options]") {
    base::Config config;
    SECTION("than the usual one") {
        REQUIRE(config.set("scheduler.lease_ms=100").has_value());
    }
    SECTION("than two of the heartbeats asked for") {
        REQUIRE(config.set("scheduler.heartbeat_ms=10000").has_value());
        REQUIRE(config.set("scheduler.lease_ms=5000").has_value());
    }
    SchedulerOptions::read(config);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished.has_value());
    REQUIRE(finished.error().message.find("scheduler.lease_ms") != std::string::npos);
}
