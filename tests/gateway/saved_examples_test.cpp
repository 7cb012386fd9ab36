// Examples of a name that two models answer to, from one life of a gateway to the next.
#include <string>

#include "gateway/cache/response_cache.h"
#include "tests/caching/store_world.h"
#include "tests/gateway/api_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using store_test::Folder;

gateway::GatewayOptions stored(const Folder& folder) {
    gateway::GatewayOptions options;
    options.cache.enabled = true;
    options.cache.semantic.semantic = false;
    options.cache.from_anywhere = true;
    options.cache.store_file = folder.file();
    options.cache.in_context.enabled = true;
    options.cache.in_context.small = "small";
    options.cache.in_context.large = "large";
    options.cache.in_context.learning.route = caching::RouteMode::large;
    options.cache.in_context.learning.compare_share = 0;
    options.cache.in_context.learning.compare_idle_share = 0;
    options.cache.in_context.learning.compare_unsure_share = 0;
    options.tenant_header = "x-tenant";
    return options;
}

/// One life of a gateway whose large model answers.
struct Life : World {
    explicit Life(gateway::GatewayOptions given)
        : World(std::move(given), make_models({"small", "large"}, {"auto=large"})) {
        use_cache();
        owner.table.on_cluster(description_of({"small", "large"}));
    }
    void teach(const std::string& tenant, const std::string& question, const std::string& answer) {
        const std::size_t number = owner.ports.placed.size();
        const std::string body =
            R"({"model":"auto","temperature":0,"messages":[{"role":"user","content":")" + question + "\"}]}";
        send("POST", "/v1/chat/completions", body, {{"x-tenant", tenant}});
        REQUIRE(owner.ports.placed.size() == number + 1);
        place(number);
        say(answer, proto::SequenceOutput::FINISH_STOP, number);
        run();
    }
    json::object listed() {
        const auto exchange = send("GET", "/cache/examples");
        REQUIRE(run_until([&] { return exchange->response.has_value(); }));
        return body(*exchange);
    }
    std::int64_t examples() { return listed().at("total").as_int64(); }
    bool counts(const std::string& row) { return owner.metrics.text().find(row) != std::string::npos; }
};

}  // namespace

TEST_CASE("examples outlive the gateway, each its tenant's, and what is purged stays away",
          "[gateway][in_context][store]") {
    const Folder folder;
    {
        Life life(stored(folder));
        life.teach("a", "Which birds can swim?", "Penguins.");
        life.teach("a", "Which fish can fly?", "Flying fish.");
        life.teach("b", "Which birds can swim?", "Ducks.");
        CHECK(life.examples() == 3);
    }
    {
        Life life(stored(folder));
        const json::object listed = life.listed();
        REQUIRE(listed.at("total") == 3);
        std::size_t of_b = 0;
        for (const json::value& one : listed.at("examples").as_array()) {
            of_b += one.at("tenant") == "b" ? 1 : 0;
        }
        CHECK(of_b == 1);
        const auto purged = life.send("POST", "/cache/purge", R"({"tenant":"b"})");
        REQUIRE(life.run_until([&] { return purged->response.has_value(); }));
        CHECK(body(*purged).at("examples") == 1);
    }
    {
        Life life(stored(folder));
        CHECK(life.examples() == 2);
    }
    // In memory only: what was on the disk goes, too.
    gateway::GatewayOptions options = stored(folder);
    options.cache.in_context.stores = false;
    {
        Life life(options);
        CHECK(life.examples() == 0);
        life.teach("a", "Which cats can climb?", "Leopards.");  // the answers to the others are there still
        CHECK(life.examples() == 1);
    }
    Life life(stored(folder));
    CHECK(life.examples() == 0);
}

TEST_CASE("a tenant's quota of writes holds for its examples and its answers", "[gateway][in_context][cache]") {
    const Folder folder;
    gateway::GatewayOptions options = stored(folder);
    options.cache.tenant_writes_per_minute = 2;
    Life life(options);
    for (int number = 0; number < 5; ++number) {
        life.teach("a", "What is the number " + std::to_string(number) + " good for?", "Nothing.");
    }
    life.teach("b", "What is the number 7 good for?", "A lot.");
    CHECK(life.examples() == 3);
    CHECK(life.counts("sluice_gateway_in_context_kept_total{outcome=\"quota\"} 3"));
    CHECK(life.counts("sluice_gateway_cache_stored_total{outcome=\"quota\"} 3"));
    CHECK(life.counts("sluice_gateway_cache_stored_total{outcome=\"kept\"} 3"));
    life.owner.clock.advance(std::chrono::minutes(1));
    life.teach("a", "What is the number 8 good for?", "Nothing.");
    CHECK(life.examples() == 4);
}
