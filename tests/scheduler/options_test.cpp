#include "scheduler/options.h"

#include <cmath>
#include <map>
#include <string>

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
    REQUIRE_FALSE(options.rules.local_prefill_by_prediction);
    REQUIRE(options.scan_workers_max == 32);
    REQUIRE(options.rules.probe_after_seconds == 1);
}

TEST_CASE("the scheduler's settings are read from its section", "[scheduler][options]") {
    base::Config config;
    REQUIRE(config
                .add_text("scheduler: {heartbeat_ms: 2000, allow_mixed_numerics: true, models: [m, n], workers_max: 5, "
                          "probe_after_ms: 0}",
                          "f")
                .has_value());
    const auto options = SchedulerOptions::read(config);
    REQUIRE(config.finish().has_value());
    REQUIRE(options.models == std::vector<std::string>{"m", "n"});
    REQUIRE(options.rules.allow_mixed_numerics);
    REQUIRE(options.workers_max == 5);
    REQUIRE(std::isinf(options.rules.probe_after_seconds));
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

TEST_CASE("tenants may have weights, and classes priorities and aims", "[scheduler][options]") {
    base::Config config;
    REQUIRE(config
                .add_text("scheduler: {tenant_weights: {gold: 3, trial: 0.5}}\nslo_classes: {chat: {priority: 2, "
                          "attainment: 0.99}, "
                          "batch: {priority: -1}}",
                          "f")
                .has_value());
    const auto options = SchedulerOptions::read(config);
    REQUIRE(options.tenant_weights == std::map<std::string, double>{{"gold", 3}, {"trial", 0.5}});
    REQUIRE(options.classes.at("chat").priority == 2);
    REQUIRE(options.classes.at("chat").attainment == 0.99);
    REQUIRE(options.classes.at("batch").priority == -1);
    REQUIRE_FALSE(options.classes.at("batch").attainment.has_value());
    REQUIRE(config.finish().has_value());
}

TEST_CASE("a weight of nothing is a problem that names the key", "[scheduler][options]") {
    base::Config config;
    REQUIRE(config.set("scheduler.tenant_weights.gold=0").has_value());
    SchedulerOptions::read(config);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished.has_value());
    REQUIRE(finished.error().message.find("scheduler.tenant_weights.gold") != std::string::npos);
}

TEST_CASE("a setting that is gone says what has taken its place", "[scheduler][options]") {
    base::Config config;
    REQUIRE(config.set("scheduler.local_prefill_tokens_max=512").has_value());
    SchedulerOptions::read(config);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished.has_value());
    REQUIRE(finished.error().message.find("scheduler.local_prefill_by_prediction") != std::string::npos);
}
