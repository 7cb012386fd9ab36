// The cache under load and across restarts, through the routes.
#include <filesystem>
#include <string>

#include "gateway/cache/response_cache.h"
#include "gateway/request/pool_load.h"
#include "tests/gateway/api_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using namespace std::chrono_literals;

constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;

gateway::GatewayOptions cached() {
    gateway::GatewayOptions options;
    options.cache.enabled = true;
    options.cache.semantic.semantic = false;
    options.cache.ttl = 60s;
    return options;
}

struct CacheWorld : World {
    explicit CacheWorld(gateway::GatewayOptions given) : World(std::move(given)) { use_cache(); }
    std::shared_ptr<FakeExchange> ask(const std::string& prompt, const gateway::HttpFields& fields = {}) {
        return send("POST", "/v1/completions", R"({"temperature":0,"prompt":")" + prompt + R"("})", fields);
    }
    std::shared_ptr<FakeExchange> chat(const std::string& text) {
        return send("POST", "/v1/chat/completions",
                    R"({"temperature":0,"messages":[{"role":"user","content":")" + text + R"("}]})");
    }
    void answer(std::string_view text, std::size_t number) {
        place(number);
        say(text, kStopped, number);
        run();
    }
    std::size_t runs() const { return owner.ports.placed.size(); }
    /// The scheduler says that so many requests wait where four run, and somebody asks every second for a while.
    void load(std::uint32_t waiting, int seconds) {
        proto::DescribeReply reply = description(true);
        proto::WorkerState& worker = *reply.mutable_models(0)->add_workers();
        worker.set_state("ready");
        worker.set_role(proto::WORKER_ROLE_MIXED);
        worker.mutable_load()->set_requests_running(4);
        worker.mutable_load()->set_requests_waiting(waiting);
        for (int second = 0; second < seconds; ++second) {
            owner.table.on_cluster(reply);
            owner.clock.advance(1s);
            ask("nobody knows", {{"cache-control", "only-if-cached"}});
        }
    }
};

std::string header(const FakeExchange& exchange, std::string_view name) {
    return field(exchange.response.value(), name);
}

/// A folder that goes with the test.
struct Folder {
    Folder() {
        char name[] = "/tmp/sluice-relief-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::filesystem::path path;
};

proto::WorkerState worker_of(proto::WorkerRole role, std::uint32_t waiting, std::uint32_t running,
                             const std::string& state = "ready") {
    proto::WorkerState worker;
    worker.set_role(role);
    worker.set_state(state);
    worker.mutable_load()->set_requests_waiting(waiting);
    worker.mutable_load()->set_requests_running(running);
    return worker;
}

}  // namespace

TEST_CASE("a pool's load is what waits by what runs, or how full its memory is", "[gateway][cache][load]") {
    proto::ModelState state;
    CHECK(gateway::pool_load(state) == 0);
    *state.add_workers() = worker_of(proto::WORKER_ROLE_PREFILL, 1, 0);
    CHECK(gateway::pool_load(state) == 0.25);  // one that waits is no load yet
    *state.add_workers() = worker_of(proto::WORKER_ROLE_DECODE, 0, 40);
    *state.add_workers() = worker_of(proto::WORKER_ROLE_DECODE, 40, 40);
    CHECK(gateway::pool_load(state) == 0.5);
    *state.add_workers() = worker_of(proto::WORKER_ROLE_DECODE, 400, 1, "draining");
    CHECK(gateway::pool_load(state) == 0.5);
    proto::WorkerLoad& memory = *state.mutable_workers(1)->mutable_load();
    memory.set_blocks_used(90);
    memory.set_blocks_free(4);
    memory.set_blocks_cached(6);
    CHECK(gateway::pool_load(state) == 0.9);
    *state.add_workers() = worker_of(proto::WORKER_ROLE_PREFILL, 23, 4);
    CHECK(gateway::pool_load(state) == 3.0);  // the pool that has most to do

    const gateway::WorkersLoad all = gateway::workers_load(state);  // of all but the one that drains
    CHECK(all.waiting == 64);
    CHECK(all.running == 84);
    CHECK(all.kv_usage == 0.9);
}

TEST_CASE("under load an answer is served beyond its time, and says so", "[gateway][cache][load]") {
    gateway::GatewayOptions options = cached();
    options.cache.semantic.relieves = true;
    CacheWorld world(options);
    world.ask("hello");
    world.answer("abc", 0);
    world.load(0, 30);
    CHECK(header(*world.ask("hello"), "x-cache") == "HIT");
    world.load(0, 31);
    const auto at_rest = world.ask("hello");
    REQUIRE(world.runs() == 2);
    world.answer("abc", 1);
    CHECK(header(*at_rest, "x-cache") == "MISS");

    world.load(40, 61);
    const auto late = world.ask("hello");
    CHECK(world.runs() == 2);
    CHECK(header(*late, "x-cache") == "STALE");
    CHECK(header(*late, "x-cache-kind") == "exact");
    CHECK(header(*late, "age") == "61");
    // Who takes nothing so old does not get it.
    world.ask("hello", {{"cache-control", "max-age=60"}});
    CHECK(world.runs() == 3);
    world.answer("abc", 2);
    world.load(40, 121);
    world.ask("hello");
    CHECK(world.runs() == 4);  // twice its time is the end
}

TEST_CASE("where nothing was said of it, load changes nothing", "[gateway][cache][load]") {
    CacheWorld world(cached());
    world.ask("hello");
    world.answer("abc", 0);
    world.load(40, 61);
    world.ask("hello");
    CHECK(world.runs() == 2);
}

TEST_CASE("a scheduler that is not heard of is no load", "[gateway][cache][load]") {
    gateway::GatewayOptions options = cached();
    options.cache.semantic.relieves = true;
    CacheWorld world(options);
    world.load(40, 5);
    CHECK(world.owner.table.loads().front() == 10.0);
    world.owner.table.on_cluster(base::fail(base::ErrorCode::unavailable, "gone"));
    CHECK(world.owner.table.loads().front() == 0.0);
}

TEST_CASE("similar questions are answered after a restart, and what was purged is not", "[gateway][cache][store]") {
    const Folder folder;
    gateway::GatewayOptions options = cached();
    options.cache.ttl = 1h;
    options.cache.store_file = (folder.path / "answers.db").string();
    options.cache.semantic.semantic = true;
    options.cache.semantic.shadow_share = 0;
    options.cache.lookup_timeout = 1h;  // of a clock that stands still
    {
        CacheWorld world(options);
        world.chat("How do I list hidden files in a folder?");
        REQUIRE(world.run_until([&] { return world.runs() == 1; }));
        world.answer("ls -a", 0);
        world.chat("Which flag makes grep ignore upper case?");
        REQUIRE(world.run_until([&] { return world.runs() == 2; }));
        world.answer("grep -i", 1);
    }
    {
        CacheWorld world(options);
        const auto reworded = world.chat("How can I list hidden files in a folder?");
        REQUIRE(world.run_until([&] { return reworded->response.has_value() || world.runs() > 0; }));
        REQUIRE(world.runs() == 0);
        CHECK(header(*reworded, "x-cache") == "HIT");
        CHECK(header(*reworded, "x-cache-kind") == "semantic");
        CHECK(body(*reworded).at("choices").at(0).at("message").at("content") == "ls -a");
        gateway::ResponseCache::Purge purge;
        purge.similar_filter.near_text = "How do I list hidden files in a folder?";
        purge.equal = false;
        std::size_t similar = 0;
        bool is_done = false;
        world.cache->purge(purge, [&](const auto& purged) {
            REQUIRE(purged);
            similar = purged->similar;
            is_done = true;
        });
        REQUIRE(world.run_until([&] { return is_done; }));
        CHECK(similar == 1);
    }
    CacheWorld world(options);
    world.chat("How can I list hidden files in a folder?");
    REQUIRE(world.run_until([&] { return world.runs() == 1; }));
    const auto other = world.chat("Which flag makes grep ignore the upper case?");
    REQUIRE(world.run_until([&] { return other->response.has_value() || world.runs() > 1; }));
    CHECK(world.runs() == 1);
    CHECK(body(*other).at("choices").at(0).at("message").at("content") == "grep -i");
}
