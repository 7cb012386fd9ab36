// Two gateways that share a real Valkey or Redis server, through the routes.
#include <chrono>
#include <string>
#include <thread>

#include "gateway/cache/response_cache.h"
#include "tests/gateway/api_world.h"
#include "tests/support/catch.h"
#include "tests/support/key_value_server.h"

namespace {

using namespace gateway_test;
using namespace std::chrono_literals;
using test_support::KeyValueServer;

constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;
constexpr auto kLease = 400ms;

gateway::GatewayOptions sharing(const KeyValueServer& server) {
    gateway::GatewayOptions options;
    options.cache.enabled = true;
    options.cache.semantic.semantic = false;
    options.cache.shared.address = "unix:" + server.path();
    options.cache.shared.server = server.options();
    options.cache.shared.lease = kLease;
    return options;
}

/// Its clock stands still but where the test moves it; the thread at the server looks at it now and then.
struct SharingWorld : World {
    explicit SharingWorld(const KeyValueServer& server) : World(sharing(server)) {
        use_cache();
        until([this] { return cache->shared()->is_current(); });
    }
    template <class Condition>
    void until(const Condition& condition) {
        const auto end = std::chrono::steady_clock::now() + 2min;
        while (!condition()) {
            REQUIRE(std::chrono::steady_clock::now() < end);
            std::this_thread::sleep_for(2ms);
            run();
        }
    }
    std::shared_ptr<FakeExchange> ask(const gateway::HttpFields& fields = {}) {
        return send("POST", "/v1/completions", R"({"temperature":0,"prompt":"hello"})", fields);
    }
    /// Until it is answered, or at the model.
    std::shared_ptr<FakeExchange> ask_until_known(const gateway::HttpFields& fields = {}) {
        const std::size_t before = runs();
        auto exchange = ask(fields);
        until([&] { return exchange->response.has_value() || runs() > before; });
        return exchange;
    }
    void answer(std::string_view text, std::size_t number = 0) {
        place(number);
        say(text, kStopped, number);
        run();
    }
    std::size_t runs() const { return owner.ports.placed.size(); }
    std::size_t kept() const { return cache->book().counts().entries; }
};

std::string header(const FakeExchange& exchange, std::string_view name) {
    return field(exchange.response.value(), name);
}

std::string text_of(const FakeExchange& exchange) {
    return std::string(body(exchange).at("choices").at(0).at("text").as_string());
}

}  // namespace

TEST_CASE("sharing gateways: one serves what another one was answered, and neither what one has purged",
          "[gateway][cache][shared]") {
    if (!test_support::has_key_value_server()) { return; }
    KeyValueServer server;
    server.start();
    SharingWorld one(server);
    SharingWorld two(server);
    const auto first = one.ask_until_known({{"x-cache-tags", "handbook"}});
    one.answer("abc");
    REQUIRE(text_of(*first) == "abc");
    one.until([&] { return one.cache->shared()->counts().written == 1; });

    const auto second = two.ask_until_known();
    REQUIRE(two.runs() == 0);
    CHECK(header(*second, "x-cache") == "HIT");
    CHECK(header(*second, "x-cache-kind") == "exact");
    CHECK(text_of(*second) == "abc");
    CHECK(two.kept() == 1);
    CHECK(header(*two.ask(), "x-cache") == "HIT");  // at once: it is its own now

    std::optional<bool> is_purged;
    gateway::ResponseCache::Purge purge;
    purge.filter.tag = "handbook";
    one.cache->purge(
        purge, [&](const base::Result<gateway::ResponseCache::Purged>& purged) { is_purged = purged.has_value(); });
    one.until([&] { return is_purged.has_value(); });
    CHECK(*is_purged);
    CHECK(one.kept() == 0);
    two.until([&] {
        two.owner.clock.advance(kLease / 4);  // so that it looks
        return two.kept() == 0;
    });
    two.until([&] {
        two.owner.clock.advance(kLease / 16);
        return two.cache->shared()->is_current();
    });
    two.ask_until_known();
    CHECK(two.runs() == 1);
}

TEST_CASE("sharing gateways: who waits for a frozen server waits for the patience, and then nobody does",
          "[gateway][cache][shared]") {
    if (!test_support::has_key_value_server()) { return; }
    KeyValueServer server;
    server.start();
    SharingWorld world(server);
    server.stop(SIGSTOP);
    const auto first = world.ask();
    CHECK(world.runs() == 0);
    world.owner.clock.advance(1ms);
    world.cache->tick(world.owner.clock.now());
    CHECK(world.runs() == 0);
    world.owner.clock.advance(1ms);
    world.cache->tick(world.owner.clock.now());
    CHECK(world.runs() == 1);
    world.answer("abc");
    CHECK(header(*first, "x-cache") == "MISS");
    CHECK(text_of(*first) == "abc");
    // Within the lease what is kept is served; the server is not asked.
    CHECK(header(*world.ask(), "x-cache") == "HIT");
    // Then nobody knows what was purged elsewhere: the model answers, and no request waits for the server.
    world.owner.clock.advance(kLease);
    const auto late = world.ask();
    world.until([&] {
        // At once where the thread is at the server already, else after the patience.
        world.owner.clock.advance(1ms);
        world.cache->tick(world.owner.clock.now());
        return world.runs() == 2;
    });
    // Equal requests share that run.
    const auto joined = world.ask();
    world.answer("abc", 1);
    CHECK(header(*late, "x-cache") == "MISS");
    CHECK(header(*joined, "x-cache") == "COALESCED");
    server.stop(SIGCONT);
    world.until([&] {
        world.owner.clock.advance(kLease / 4);
        return world.cache->shared()->is_current();
    });
    CHECK(header(*world.ask(), "x-cache") == "HIT");
}

TEST_CASE("sharing gateways: a purge that others may not hear of is an error that says so",
          "[gateway][cache][shared]") {
    if (!test_support::has_key_value_server()) { return; }
    KeyValueServer server;
    server.start();
    SharingWorld world(server);
    world.ask_until_known();
    world.answer("abc");
    REQUIRE(world.kept() == 1);
    server.stop(SIGKILL);
    world.until([&] {
        world.owner.clock.advance(kLease / 4);
        return !world.cache->shared()->is_up();
    });
    std::optional<base::Result<gateway::ResponseCache::Purged>> outcome;
    world.cache->purge({}, [&](base::Result<gateway::ResponseCache::Purged> purged) { outcome = std::move(purged); });
    world.until([&] { return outcome.has_value(); });
    REQUIRE_FALSE(outcome->has_value());
    CHECK(outcome->error().code == base::ErrorCode::unavailable);
    CHECK(outcome->error().message.find("other gateways may not hear of it") != std::string::npos);
    CHECK(world.kept() == 0);
    // A purge of what has its name here only concerns nobody else.
    gateway::ResponseCache::Purge own;
    own.equal = own.examples = false;
    own.filter.id = 1;
    own.similar_filter.entry = caching::EntryId{1};
    outcome.reset();
    world.cache->purge(own, [&](base::Result<gateway::ResponseCache::Purged> purged) { outcome = std::move(purged); });
    world.until([&] { return outcome.has_value(); });
    CHECK(outcome->has_value());
}

TEST_CASE("a gateway without a shared server has nothing of it", "[gateway][cache]") {
    gateway::GatewayOptions options;
    options.cache.enabled = true;
    options.cache.semantic.semantic = false;
    World world(options);
    world.use_cache();
    world.send("POST", "/v1/completions", R"({"temperature":0,"prompt":"hello"})");
    CHECK(world.owner.ports.placed.size() == 1);  // the model was asked without any detour
    CHECK(world.cache->shared() == nullptr);
    CHECK(world.owner.metrics.text().find("cache_shared") == std::string::npos);
}
