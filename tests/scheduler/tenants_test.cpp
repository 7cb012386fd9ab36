#include "scheduler/tenants.h"

#include <chrono>
#include <cstdint>
#include <string>

#include "tests/scheduler/builders.h"
#include "tests/scheduler/fixture.h"

#include "tests/support/catch.h"

using scheduler::TenantId;
using scheduler::Tenants;
using scheduler_test::Fixture;
using scheduler_test::make_place;

TEST_CASE("the first tenants are told apart, all others are one", "[scheduler][tenants]") {
    Tenants tenants(2);
    const TenantId by_default = tenants.id_of("");
    REQUIRE(tenants.id_of("default") == by_default);
    const TenantId red = tenants.id_of("red");
    REQUIRE(red != by_default);
    const TenantId other = tenants.id_of("blue");
    REQUIRE(tenants.id_of("green") == other);
    REQUIRE(tenants.id_of("other") == other);
    REQUIRE(tenants.id_of("red") == red);
    REQUIRE(tenants.names()[base::raw(other)] == "other");
    REQUIRE(tenants.names()[base::raw(red)] == "red");
    REQUIRE(tenants.names().size() == 3);
    REQUIRE(Tenants(100).id_of(std::string(65, 'x')) == TenantId{0});
}

TEST_CASE("classes may get other priorities while it places: who was compared before is compared no more",
          "[scheduler][tenants]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    std::uint64_t request = 0;
    const auto tokens_ahead = [&](const std::string& tenant, const std::string& slo_class) {
        auto ask = make_place({.request_id = ++request, .prompt_tokens = 100, .new_tokens_max = 1, .tenant = tenant});
        ask.set_slo_class(slo_class);
        const auto reply = f.scheduler.place(ask);
        REQUIRE(reply.has_placement());
        return reply.placement().tenant_tokens();
    };
    REQUIRE(tokens_ahead("red", "batch") == 0);
    REQUIRE(tokens_ahead("blue", "chat") == 0);  // lifted to where red is
    REQUIRE(tokens_ahead("blue", "chat") > 0);
    f.scheduler.set_class_rules({{"chat", {.priority = 1}}});
    REQUIRE(tokens_ahead("blue", "chat") == 0);  // nobody else asks with that priority
    f.scheduler.set_class_rules({});
    REQUIRE(tokens_ahead("blue", "chat") > 0);
}

TEST_CASE("placements are counted for their tenant until their release", "[scheduler][tenants]") {
    scheduler::SchedulerOptions options;
    options.tenants_max = 2;
    Fixture f(options);
    f.attach(1, {.id = 1, .incarnation = 11});
    f.placed({.request_id = 1});
    f.placed({.request_id = 2, .tenant = "red"});
    f.placed({.request_id = 3, .tenant = "red"});
    f.placed({.request_id = 4, .tenant = "blue"});
    f.placed({.request_id = 5, .tenant = "green"});
    f.placed({.request_id = 3, .epoch = 1, .tenant = "red"});  // again: still one
    f.scheduler.tick();
    const auto tells = [&f](const std::string& tenant, int placements) {
        return f.tells("sluice_scheduler_tenant_placements{model=\"test-model\",tenant=\"" + tenant + "\"} " +
                       std::to_string(placements) + "\n");
    };
    REQUIRE(tells("default", 1));
    REQUIRE(tells("red", 2));
    REQUIRE(tells("other", 2));
    REQUIRE_FALSE(f.tells("blue"));
    f.release(2, proto::ReleaseRequest::Ended::PHASE_ALL);
    f.release(3, proto::ReleaseRequest::Ended::PHASE_ALL, 1);
    f.scheduler.tick();
    REQUIRE(tells("red", 0));
    REQUIRE(tells("other", 2));
}

TEST_CASE("a tenant that asks for nothing any more is not told of for ever", "[scheduler][tenants]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.placed({.request_id = 1, .tenant = "red"});
    f.scheduler.tick();
    f.release(1, proto::ReleaseRequest::Ended::PHASE_ALL);
    f.scheduler.tick();
    f.clock.advance(scheduler::ModelMetrics::kTenantStays - std::chrono::seconds(1));
    f.scheduler.tick();
    REQUIRE(f.tells(R"(tenant="red")"));
    f.clock.advance(std::chrono::seconds(1));
    f.scheduler.tick();
    REQUIRE_FALSE(f.tells(R"(tenant="red")"));
    f.attach(2, {.id = 2, .incarnation = 21});
    f.placed({.request_id = 3, .tenant = "red"});
    f.scheduler.tick();
    REQUIRE(f.tells(R"(sluice_scheduler_tenant_placements{model="test-model",tenant="red"} 1)"));
}
