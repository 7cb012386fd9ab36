// What several tenants were answered alike: who gets it, when, and that nobody can tell.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/cache/response_cache.h"
#include "tests/gateway/cache_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using namespace std::chrono_literals;

constexpr auto kGoesOn = proto::SequenceOutput::FINISH_NONE;
constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;

gateway::GatewayOptions common(bool blurs) {
    gateway::GatewayOptions options = CacheWorld::equal_only();
    options.cache.common.enabled = true;
    options.cache.common.answers.tenants_least = 3;
    options.cache.common.blurs = blurs;
    return options;
}

std::shared_ptr<FakeExchange> ask_as(CacheWorld& world, const std::string& tenant, const std::string& more = "",
                                     gateway::HttpFields fields = {}) {
    fields.emplace_back("x-tenant", tenant);
    return world.ask(more, fields);
}

/// Three tenants ask, each gets a run of its own, and the model says the same: a token after two seconds, and one each
/// three seconds later.
void three_ask(CacheWorld& world, const std::string& more = "", const gateway::HttpFields& fields = {}) {
    for (const char* tenant : {"a", "b", "c"}) {
        const std::size_t run = world.runs();
        const auto exchange = ask_as(world, tenant, more, fields);
        REQUIRE(world.runs() == run + 1);
        world.place(run);
        world.owner.clock.advance(2s);
        world.say("y", kGoesOn, run);
        world.owner.clock.advance(3s);
        world.say("e", kGoesOn, run);
        world.owner.clock.advance(3s);
        world.say("s", kStopped, run);
        world.run();
        REQUIRE(text_of(*exchange) == "yes");
    }
}

void let_pass(CacheWorld& world, base::Duration by) {
    world.owner.clock.advance(by);
    world.cache->tick(world.owner.clock.now());
    world.run();
}

/// What a stream has said so far.
std::string heard(const FakeExchange& exchange) {
    std::string text;
    std::string_view rest = exchange.streamed;
    for (auto end = rest.find("\n\n"); end != std::string_view::npos; end = rest.find("\n\n")) {
        const std::string_view event = rest.substr(0, end);
        rest.remove_prefix(end + 2);
        if (!event.starts_with("data: {")) { continue; }
        const json::object parsed = json::parse(event.substr(6)).as_object();
        const json::array& choices = parsed.at("choices").as_array();
        if (!choices.empty()) { text += choices.at(0).at("text").as_string().c_str(); }
    }
    return text;
}

/// A field of the answer's head, also of a stream's.
std::string told(const FakeExchange& exchange, std::string_view name) {
    for (const auto& [key, value] : exchange.response ? exchange.response->fields : exchange.head) {
        if (key == name) { return value; }
    }
    return {};
}

bool counts(CacheWorld& world, const std::string& row) {
    return world.owner.metrics.text().find(row) != std::string::npos;
}

void purge(CacheWorld& world, const caching::AnswerFilter& filter) {
    gateway::ResponseCache::Purge purge;
    purge.filter = filter;
    bool is_done = false;
    world.cache->purge(purge, [&](const auto& done) { is_done = done.has_value(); });
    REQUIRE(is_done);
}

}  // namespace

TEST_CASE("what three tenants were answered alike a fourth one gets, and a third one not yet",
          "[gateway][cache][common]") {
    CacheWorld world(common(false));
    three_ask(world);  // each of them from a run of its own
    REQUIRE(world.runs() == 3);
    world.owner.clock.advance(7s);
    const auto fourth = ask_as(world, "d");
    CHECK(world.runs() == 3);
    CHECK(text_of(*fourth) == "yes");
    CHECK(header(*fourth, "x-cache") == "HIT");
    CHECK(header(*fourth, "x-cache-kind") == "common");
    CHECK(header(*fourth, "x-cache-entry").empty());  // it is nobody's to purge
    CHECK(header(*fourth, "age") == "7");
    CHECK(body(*fourth).at("usage").at("response_cache").at("kind") == "common");
    CHECK(counts(world, "sluice_gateway_cache_common_served_total{model=\"m\"} 1"));
    CHECK(heard(*ask_as(world, "e", R"(,"stream":true)")) == "yes");
    CHECK(world.runs() == 3);
    // A conversation that differs in anything is another one.
    ask_as(world, "d", R"(,"max_tokens":5)");
    CHECK(world.runs() == 4);
}

TEST_CASE("without the setting no number of tenants shares anything", "[gateway][cache][common]") {
    CacheWorld world;
    three_ask(world);
    ask_as(world, "d");
    CHECK(world.runs() == 4);
}

TEST_CASE("however often one tenant asks, it is one", "[gateway][cache][common]") {
    CacheWorld world(common(false));
    for (std::size_t number = 0; number < 6; ++number) {
        ask_as(world, number % 2 == 0 ? "a" : "b", "", {{"cache-control", "no-cache"}});
        REQUIRE(world.runs() == number + 1);
        world.answer("yes", number);
    }
    ask_as(world, "c");
    CHECK(world.runs() == 7);
}

TEST_CASE("tenants that were answered otherwise share nothing", "[gateway][cache][common]") {
    CacheWorld world(common(false));
    std::size_t run = 0;
    for (const auto& [tenant, text] : std::vector<std::pair<std::string, std::string>>{
             {"a", "yes"}, {"b", "no"}, {"c", "yes"}, {"d", "yes"}, {"e", "no"}}) {
        ask_as(world, tenant);
        REQUIRE(world.runs() == run + 1);
        world.answer(text, run++);
    }
    ask_as(world, "f");
    CHECK(world.runs() == 6);
}

TEST_CASE("who keeps an answer to itself shares it with nobody", "[gateway][cache][common]") {
    const std::vector<std::pair<std::string, gateway::HttpFields>> ways = {
        {"", {{"x-cache-tags", "handbook"}}}, {"", {{"cache-control", "private"}}}, {R"(,"cache_salt":"s")", {}}};
    for (const auto& [more, fields] : ways) {
        CAPTURE(more);
        CacheWorld world(common(false));
        three_ask(world, more, fields);
        ask_as(world, "d", more, fields);
        CHECK(world.runs() == 4);
        ask_as(world, "e", more);
        CHECK(world.runs() == 5);
    }
    // Nor does it take what others share.
    CacheWorld world(common(false));
    three_ask(world);
    ask_as(world, "d", "", {{"cache-control", "private"}});
    CHECK(world.runs() == 4);
    CHECK(header(*ask_as(world, "e"), "x-cache-kind") == "common");
}

TEST_CASE("only tenants that are named take part", "[gateway][cache][common]") {
    gateway::GatewayOptions options = common(false);
    options.cache.common.tenants = {"a", "b", "x", "y"};
    CacheWorld world(options);
    three_ask(world);  // c does not count
    ask_as(world, "x");
    REQUIRE(world.runs() == 4);
    world.answer("yes", 3);
    ask_as(world, "d");
    CHECK(world.runs() == 5);
    CHECK(text_of(*ask_as(world, "y")) == "yes");
    CHECK(world.runs() == 5);
}

TEST_CASE("one's own answer comes before everybody's, and Cache-Control holds", "[gateway][cache][common]") {
    CacheWorld world(common(false));
    three_ask(world);
    CHECK(header(*ask_as(world, "a"), "x-cache-kind") == "exact");
    ask_as(world, "d", "", {{"cache-control", "no-cache"}});
    CHECK(world.runs() == 4);
    ask_as(world, "d", "", {{"cache-control", "no-store"}});
    CHECK(world.runs() == 5);
    world.owner.clock.advance(10s);
    ask_as(world, "e", "", {{"cache-control", "max-age=5"}});
    CHECK(world.runs() == 6);
    CHECK(text_of(*ask_as(world, "f", "", {{"cache-control", "only-if-cached"}})) == "yes");
}

TEST_CASE("a purge of one of its tenants, of one of their entries, or its time, takes it from all",
          "[gateway][cache][common]") {
    CacheWorld world(common(false));
    SECTION("a tenant") {
        three_ask(world);
        purge(world, {.tenant = "b"});
    }
    SECTION("an entry") {
        three_ask(world);
        purge(world, {.id = 1});
    }
    SECTION("all that is older") {
        three_ask(world);
        purge(world, {.created_before_unix_us = world.owner.clock.unix_us() + 1});
    }
    SECTION("its time") {
        three_ask(world);
        world.owner.clock.advance(2h);
    }
    ask_as(world, "d");
    CHECK(world.runs() == 4);
}

TEST_CASE("what a model said before it was purged is nobody's when it ends", "[gateway][cache][common]") {
    CacheWorld world(common(false));
    ask_as(world, "a");
    ask_as(world, "b");
    const auto third = ask_as(world, "c");
    purge(world, {});
    for (std::size_t run = 0; run < 3; ++run) {
        world.answer("yes", run);
    }
    CHECK(text_of(*third) == "yes");
    ask_as(world, "d");
    CHECK(world.runs() == 4);
}

TEST_CASE("a blurred answer comes as slowly as the model's and says nothing of where it is from",
          "[gateway][cache][common]") {
    CacheWorld world(common(true));
    three_ask(world);
    const auto stream = ask_as(world, "d", R"(,"stream":true,"stream_options":{"include_usage":true})");
    const auto whole = ask_as(world, "e");
    REQUIRE(world.runs() == 3);
    REQUIRE_FALSE(world.wakes.empty());
    let_pass(world, 1500ms);  // the model took two seconds to begin, give or take a quarter
    CHECK(heard(*stream).empty());
    let_pass(world, 1100ms);
    CHECK(heard(*stream) == "y");
    let_pass(world, 1900ms);  // and three for each that follows
    CHECK(heard(*stream) == "y");
    let_pass(world, 1100ms);
    CHECK(heard(*stream) == "ye");
    CHECK_FALSE(whole->response.has_value());
    let_pass(world, 3s);
    CHECK(heard(*stream) == "yes");
    CHECK(stream->streamed.ends_with("data: [DONE]\n\n"));
    REQUIRE(whole->response.has_value());
    CHECK(text_of(*whole) == "yes");
    CHECK(world.runs() == 3);
    for (const auto* one : {stream.get(), whole.get()}) {
        CHECK(told(*one, "x-cache") == "MISS");
        CHECK(told(*one, "x-cache-kind").empty());
        CHECK(told(*one, "age").empty());
    }
    json::object first = body(*ask_as(world, "a")).at("usage").as_object();
    first.erase("response_cache");
    CHECK(body(*whole).at("usage").as_object() == first);
    CHECK(counts(world, "sluice_gateway_cache_common_served_total{model=\"m\"} 2"));
    // Asked for again it is there, like any answer of the model.
    const auto again = ask_as(world, "d");
    CHECK(header(*again, "x-cache") == "HIT");
    CHECK(header(*again, "x-cache-kind") == "exact");
    CHECK(header(*again, "age") == "0");
    // And these copies are no further voices: an end of the time is one for all.
    world.owner.clock.advance(59min + 58s);
    ask_as(world, "f");
    CHECK(world.runs() == 4);
    // Who may ask whether there is one learns nothing.
    CHECK(ask_as(world, "g", "", {{"cache-control", "only-if-cached"}})->response->status == 504);
}

TEST_CASE("who may only have what is there is not told of what is blurred", "[gateway][cache][common]") {
    CacheWorld world(common(true));
    three_ask(world);
    CHECK(ask_as(world, "d", "", {{"cache-control", "only-if-cached"}})->response->status == 504);
    CHECK(world.runs() == 3);
}

TEST_CASE("equal requests of one tenant share what is blurred, as they share a run", "[gateway][cache][common]") {
    CacheWorld world(common(true));
    three_ask(world);
    const auto one = ask_as(world, "d");
    const auto two = ask_as(world, "d", R"(,"stream":true)");
    const auto other = ask_as(world, "e");  // not another tenant's
    one->gone("client_gone");               // and it goes on without the first
    for (int second = 0; second < 10; ++second) {
        let_pass(world, 1s);
    }
    CHECK(heard(*two) == "yes");
    CHECK(told(*two, "x-cache") == "COALESCED");
    CHECK(told(*other, "x-cache") == "MISS");
    CHECK(world.runs() == 3);
}

TEST_CASE("more than may wait go to the model", "[gateway][cache][common]") {
    gateway::GatewayOptions options = common(true);
    options.cache.waiters_max = 1;
    CacheWorld world(options);
    three_ask(world);
    const auto one = ask_as(world, "d");
    REQUIRE(world.runs() == 3);
    ask_as(world, "e");
    CHECK(world.runs() == 4);
    one->gone("client_gone");
    ask_as(world, "f");
    CHECK(world.runs() == 4);
}

TEST_CASE("what is blurred and was purged meanwhile is the model's to answer", "[gateway][cache][common]") {
    CacheWorld world(common(true));
    three_ask(world);
    const auto begun = ask_as(world, "d", R"(,"stream":true)");
    let_pass(world, 2600ms);
    REQUIRE(heard(*begun) == "y");
    const auto silent = ask_as(world, "e");
    const auto gone = ask_as(world, "f");
    gone->gone("client_gone");
    REQUIRE(world.runs() == 3);
    purge(world, {.tenant = "a"});
    REQUIRE(world.runs() == 4);  // what has said nothing yet
    world.answer("anew", 3);
    CHECK(text_of(*silent) == "anew");
    let_pass(world, 6s);
    CHECK(heard(*begun) == "yes");  // the other is said to its end, and not kept
    ask_as(world, "d");
    CHECK(world.runs() == 5);
    let_pass(world, 1h);
    CHECK(world.runs() == 5);
}

TEST_CASE("a list of tenants that could never share anything is refused", "[gateway][cache][common]") {
    const auto problem_of = [](const std::string& text) {
        base::Config config;
        REQUIRE(config.add_text(text, "test"));
        const auto options = gateway::CacheOptions::read(config);
        const auto finished = config.finish();
        return finished ? std::string() : finished.error().message;
    };
    CHECK(problem_of("caching: {common: {enabled: true, tenants: [a, b], tenants_least: 3}}")
              .find("caching.common.tenants") != std::string::npos);
    CHECK(problem_of("caching: {common: {enabled: true, tenants: [a, b, c], tenants_least: 3}}").empty());
    CHECK(problem_of("caching: {common: {enabled: true}}").empty());
    CHECK_FALSE(problem_of("caching: {common: {tenants_least: 1}}").empty());  // one is no agreement
}
