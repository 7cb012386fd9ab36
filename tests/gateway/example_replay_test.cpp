// Examples that the large model answers again while it has little to do: what is asked, of whom, when, and what stays.
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/cache/response_cache.h"
#include "tests/gateway/api_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;
constexpr std::size_t kAnHour = 60;  // replays, so one a minute

gateway::GatewayOptions replaying(std::size_t an_hour = kAnHour) {
    gateway::GatewayOptions options;
    options.cache.enabled = true;
    options.cache.semantic.semantic = false;
    options.cache.from_anywhere = true;
    gateway::InContextSettings& in_context = options.cache.in_context;
    in_context.enabled = true;
    in_context.small = "small";
    in_context.large = "large";
    in_context.large_sequences = 1;
    in_context.replays_per_hour = an_hour;
    in_context.learning.loss_target = 0.5;
    in_context.learning.compare_share = 1;
    in_context.learning.helpfulness_min = 0.1;
    in_context.learning.threshold_share = 0;
    in_context.learning.pack_examples = 0;
    return options;
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// A gateway whose small model was as good as the large one and then was not, so that its examples are worth a look.
struct ReplayWorld : World {
    explicit ReplayWorld(gateway::GatewayOptions given = replaying())
        : World(std::move(given), make_models({"small", "large"}, {"auto=large"})) {
        use_cache();
        owner.table.on_cluster(description_of({"small", "large"}, 8192));
        for (int planet = 0; planet < 40; ++planet) {
            teach(planet, "two");
        }
        for (int planet = 40; planet < 50; ++planet) {
            teach(planet, "cheese");
        }
        REQUIRE(counts().small > 5);
    }

    std::shared_ptr<FakeExchange> ask(const std::string& text) {
        return send("POST", "/v1/chat/completions",
                    R"({"model":"auto","temperature":0,"messages":[{"role":"system","content":"Be short."},)"
                    R"({"role":"user","content":")" +
                        text + "\"}]}");
    }
    /// The large model says "two".
    void teach(int planet, const std::string& small_says) {
        const std::size_t first = placed();
        ask("how many moons has planet " + std::to_string(planet));
        for (std::size_t number = first; number < placed(); ++number) {
            answer(model_of(number) == "small" ? small_says : "two", number);
        }
        counts();  // what was said has been learnt
    }
    void answer(std::string_view text, std::size_t number) {
        place(number);
        say(text, kStopped, number);
        run();
    }
    /// The next sequence that nobody asked for; it is not answered yet.
    std::size_t next(std::size_t before) {
        REQUIRE(run_until([&] { return placed() > before; }));
        REQUIRE(placed() == before + 1);
        return before;
    }
    std::size_t placed() const { return owner.ports.placed.size(); }
    std::string model_of(std::size_t number) const { return owner.ports.placed.at(number).header().model(); }
    const proto::Start& start_of(std::size_t number) const {
        const proto::Start* start = nullptr;
        for (const auto& [to, command] : owner.ports.sent) {
            const bool is_it =
                command.has_start() && command.start().request_id() == owner.ports.placed.at(number).request_id();
            if (is_it) { start = &command.start(); }
        }
        REQUIRE(start != nullptr);
        return *start;
    }
    std::string prompt_of(std::size_t number) const {
        std::string text;
        for (const auto token : start_of(number).prompt()) {
            if (token >= 0 && token < 256) { text += static_cast<char>(token); }
        }
        return text;
    }
    caching::InContextCache::Counts counts() {
        caching::InContextCache::Counts result;
        bool is_told = false;
        REQUIRE(cache->examples()->stand([&](const caching::InContextCache::Counts& counts) {
            result = counts;
            is_told = true;
        }));
        REQUIRE(run_until([&] { return is_told; }));
        return result;
    }
    /// So much later, looked at every second like the gateway's timer does.
    void pass(std::chrono::seconds time) {
        for (auto second = std::chrono::seconds(0); second < time; ++second) {
            owner.clock.advance(std::chrono::seconds(1));
            cache->tick(owner.clock.now());
        }
        counts();  // what was asked of the examples' thread has been answered
    }
    double outcomes(const std::string& outcome) {
        const std::string row = "sluice_gateway_in_context_replays_total{outcome=\"" + outcome + "\"} ";
        const std::string text = owner.metrics.text();
        const auto at = text.find(row);
        return at == std::string::npos ? 0 : std::stod(text.substr(at + row.size()));
    }
    std::vector<gateway::LiveExamples::View> examples() {
        std::optional<gateway::LiveExamples::Listed> listed;
        REQUIRE(cache->examples()->list({}, 1000, [&](gateway::LiveExamples::Listed all) { listed = std::move(all); }));
        REQUIRE(run_until([&] { return listed.has_value(); }));
        return listed->shown;
    }
    std::size_t saying(std::string_view answer) {
        std::size_t count = 0;
        for (const auto& one : examples()) {
            count += one.answer == answer ? 1 : 0;
        }
        return count;
    }
};

}  // namespace

TEST_CASE("while there is little to do an example is answered again, and the better answer stays",
          "[gateway][in_context][replay]") {
    ReplayWorld world;
    const std::size_t before = world.placed();
    world.pass(std::chrono::seconds(59));
    CHECK(world.placed() == before);  // it has to be quiet for a minute
    world.pass(std::chrono::seconds(2));
    const std::size_t again = world.next(before);
    CHECK(world.model_of(again) == "large");
    world.place(again);
    CHECK(has(world.prompt_of(again), "Be short."));
    CHECK(has(world.prompt_of(again), "how many moons has planet"));
    CHECK_FALSE(has(world.prompt_of(again), "<examples>"));
    CHECK(world.start_of(again).sampling().temperature() == 0.7F);
    world.say("a pair", kStopped, again);
    world.run();
    // The small model is asked two questions next to it, with the one answer and with the other.
    for (std::size_t trial = 0; trial < 4; ++trial) {
        const std::size_t number = world.next(again + 1 + trial);
        CHECK(world.model_of(number) == "small");
        world.place(number);
        const std::string prompt = world.prompt_of(number);
        CHECK(has(prompt, "Be short."));
        CHECK(has(prompt, "<examples>"));
        CHECK(has(prompt, trial % 2 == 0 ? "two" : "a pair"));
        CHECK(has(prompt, "a pair") == (trial % 2 == 1));
        CHECK(world.start_of(number).sampling().temperature() == 0);
        world.say(trial % 2 == 0 ? "cheese" : "two", kStopped, number);
        world.run();
    }
    REQUIRE(world.run_until([&] { return world.outcomes("better") == 1; }));
    CHECK(world.saying("a pair") == 1);
    // The next one has its turn a minute later, and is another one.
    const std::size_t done = world.placed();
    world.pass(std::chrono::seconds(61));
    world.next(done);
    world.place(done);
    CHECK(world.prompt_of(done) != world.prompt_of(again));
}

TEST_CASE("an answer that the small model does no better with changes nothing", "[gateway][in_context][replay]") {
    ReplayWorld world;
    std::size_t number = world.placed();
    world.pass(std::chrono::seconds(62));
    world.next(number);
    world.answer("a pair", number);
    for (std::size_t trial = 0; trial < 4; ++trial) {
        world.next(++number);
        world.answer(trial % 2 == 0 ? "two" : "cheese", number);
    }
    REQUIRE(world.run_until([&] { return world.outcomes("no_better") == 1; }));
    CHECK(world.saying("a pair") == 0);
}

TEST_CASE("answers that are cut off or fail become no examples", "[gateway][in_context][replay]") {
    ReplayWorld world;
    const std::size_t number = world.placed();
    world.pass(std::chrono::seconds(62));
    world.next(number);
    world.place(number);
    world.say("a pai", proto::SequenceOutput::FINISH_LENGTH, number);
    REQUIRE(world.run_until([&] { return world.outcomes("failed") == 1; }));
    CHECK(world.placed() == number + 1);
    CHECK(world.saying("a pai") == 0);
}

TEST_CASE("a client's request ends a replay, whose turn comes again", "[gateway][in_context][replay]") {
    ReplayWorld world;
    const std::size_t replayed = world.placed();
    world.pass(std::chrono::seconds(62));
    world.next(replayed);
    world.place(replayed);
    const std::string prompt = world.prompt_of(replayed);
    const auto client = world.send("POST", "/v1/chat/completions",
                                   R"({"model":"large","temperature":0,"messages":[{"role":"user","content":"hi"}]})");
    const std::size_t of_client = replayed + 1;
    REQUIRE(world.placed() == of_client + 1);
    world.cache->tick(world.owner.clock.now());
    CHECK(world.outcomes("gave_way") == 1);
    bool is_cancelled = false;
    for (const auto& [to, command] : world.owner.ports.sent) {
        is_cancelled |= command.has_cancel() && command.cancel().request_id() == world.start_of(replayed).request_id();
    }
    CHECK(is_cancelled);
    world.pass(std::chrono::seconds(90));
    CHECK(world.placed() == of_client + 1);  // the client has its answer first,
    world.answer("hello", of_client);
    REQUIRE(client->response);
    world.pass(std::chrono::seconds(30));
    CHECK(world.placed() == of_client + 1);  // and a minute of quiet follows
    world.pass(std::chrono::seconds(32));
    const std::size_t again = world.next(of_client + 1);
    world.place(again);
    CHECK(world.prompt_of(again) == prompt);
}

TEST_CASE("a pool that has much to do is left alone", "[gateway][in_context][replay]") {
    ReplayWorld world;
    const std::size_t before = world.placed();
    const auto describe = [&](std::uint32_t waiting) {
        proto::DescribeReply reply = description_of({"small", "large"}, 8192);
        for (proto::ModelState& state : *reply.mutable_models()) {
            proto::WorkerState& worker = *state.add_workers();
            worker.set_state("ready");
            worker.set_role(proto::WORKER_ROLE_MIXED);
            worker.mutable_load()->set_requests_waiting(state.model() == "small" ? waiting : 0);
        }
        world.owner.table.on_cluster(reply);
    };
    describe(8);
    REQUIRE(world.owner.table.loads().front() > 1);
    world.pass(std::chrono::seconds(200));
    CHECK(world.placed() == before);
    describe(0);
    world.pass(std::chrono::seconds(62));
    world.next(before);
}

TEST_CASE("after three that brought nothing there is none for an hour", "[gateway][in_context][replay]") {
    ReplayWorld world;
    std::size_t number = world.placed();
    for (int round = 1; round <= 3; ++round) {
        world.pass(std::chrono::seconds(62));
        world.next(number);
        world.answer("two", number);  // as before: there is nothing to try
        REQUIRE(world.run_until([&] { return world.outcomes("same") == round; }));
        ++number;
    }
    world.pass(std::chrono::minutes(59));
    CHECK(world.placed() == number);
    world.pass(std::chrono::minutes(2));
    world.next(number);
}

TEST_CASE("without a number of replays there are none, and nothing looks for them", "[gateway][in_context][replay]") {
    ReplayWorld world(replaying(0));
    const std::size_t before = world.placed();
    CHECK_FALSE(world.cache->tick(world.owner.clock.now()));
    world.pass(std::chrono::minutes(5));
    CHECK(world.placed() == before);
    CHECK_FALSE(has(world.owner.metrics.text(), "in_context_replays_total"));
}

TEST_CASE("what operators purge meanwhile does not come back", "[gateway][in_context][replay]") {
    ReplayWorld world;
    const std::size_t number = world.placed();
    world.pass(std::chrono::seconds(62));
    world.next(number);
    const auto purge = world.send("POST", "/cache/purge", R"({"all":true})");
    REQUIRE(world.run_until([&] { return purge->response.has_value(); }));
    world.answer("two", number);
    REQUIRE(world.run_until([&] { return world.outcomes("gone") == 1; }));
    CHECK(world.examples().empty());
}

TEST_CASE("a gateway that ends takes its replay with it", "[gateway][in_context][replay]") {
    ReplayWorld world;
    const std::size_t number = world.placed();
    world.pass(std::chrono::seconds(62));
    world.next(number);
    world.place(number);
    world.end();  // checks that no sequence is left
    CHECK(world.outcomes("gave_way") == 1);
}
