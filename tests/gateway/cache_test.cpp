// The cache in front of the model, through the routes: what is answered again, to whom, and what is not.
#include "gateway/cache/response_cache.h"

#include <string>
#include <utility>
#include <vector>

#include "gateway/cache/cache_request.h"
#include "gateway/cache/cache_route.h"
#include "tests/gateway/cache_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using namespace std::chrono_literals;

gateway::GatewayOptions cached() {
    return CacheWorld::equal_only();
}

const std::string kStop = R"("temperature":0,"prompt":"hello")";
constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;

}  // namespace

TEST_CASE("an equal request is answered again, whole or as a stream, with its usage and a new id", "[gateway][cache]") {
    CacheWorld world;
    const auto first = world.ask();
    world.answer("abc");
    REQUIRE(text_of(*first) == "abc");
    CHECK(header(*first, "x-cache") == "MISS");

    world.owner.clock.advance(7s);
    const auto second = world.ask();
    CHECK(world.runs() == 1);
    CHECK(text_of(*second) == "abc");
    CHECK(header(*second, "x-cache") == "HIT");
    CHECK(header(*second, "x-cache-kind") == "exact");
    CHECK(header(*second, "age") == "7");
    CHECK(header(*second, "x-cache-entry") == "e-1");
    CHECK(body(*first).at("id") != body(*second).at("id"));
    json::object usage = body(*second).at("usage").as_object();
    const json::object saved = usage.at("response_cache").as_object();
    usage.erase("response_cache");
    CHECK(usage == body(*first).at("usage").as_object());
    CHECK(saved.at("saved_completion_tokens") == usage.at("completion_tokens"));
    CHECK(body(*first).at("choices").at(0).at("finish_reason") ==
          body(*second).at("choices").at(0).at("finish_reason"));

    const auto stream = world.ask(R"(,"stream":true,"stream_options":{"include_usage":true})");
    CHECK(world.runs() == 1);
    std::string streamed;
    for (const json::object& event : events(*stream)) {
        if (!event.at("choices").as_array().empty()) {
            streamed += event.at("choices").at(0).at("text").as_string().c_str();
        } else {
            CHECK(event.at("usage").at("completion_tokens") == usage.at("completion_tokens"));
        }
    }
    CHECK(streamed == "abc");
}

TEST_CASE("an answer that came as a stream is served whole (never written: semantic-router #1555)",
          "[gateway][cache]") {
    CacheWorld world;
    const auto stream = world.ask(R"(,"stream":true)");
    world.place();
    world.say("ab");
    world.say("c", kStopped);
    REQUIRE(events(*stream).size() >= 2);
    CHECK(text_of(*world.ask()) == "abc");
    CHECK(world.runs() == 1);
}

TEST_CASE("what differs in anything that counts is another request", "[gateway][cache]") {
    CacheWorld world;
    world.ask();
    world.answer("abc");
    std::size_t runs = 1;
    for (const std::string more :
         {R"(,"max_tokens":5)", R"(,"stop":["x"])", R"(,"min_tokens":2)", R"(,"presence_penalty":0.5)",
          R"(,"logit_bias":{"5":1})", R"(,"ignore_eos":true)", R"(,"guided_regex":"a+")", R"(,"cache_salt":"s")",
          R"(,"prompt":"hellp")", R"(,"skip_special_tokens":false)"}) {
        CAPTURE(more);
        const auto exchange = world.ask(more);
        CHECK(world.runs() == ++runs);
        world.answer("other", runs - 1);
        CHECK(header(*exchange, "x-cache") == "MISS");
    }
}

TEST_CASE("no tenant hears what another one was answered", "[gateway][cache]") {
    CacheWorld world;
    world.ask("", {{"x-tenant", "a"}});
    world.answer("for a");
    const auto other = world.ask("", {{"x-tenant", "b"}});
    CHECK(world.runs() == 2);
    // Nor while it is in work.
    const auto third = world.ask("", {{"x-tenant", "c"}});
    CHECK(world.runs() == 3);
    world.answer("for b", 1);
    world.answer("for c", 2);
    CHECK(text_of(*other) == "for b");
    CHECK(text_of(*third) == "for c");
    CHECK(text_of(*world.ask("", {{"x-tenant", "a"}})) == "for a");
}

TEST_CASE("what a template of the request's own makes of a chat is not compared with other chats", "[gateway][cache]") {
    for (const bool similarity : {false, true}) {
        gateway::RequestForm form;
        form.template_context = R"({"messages":[{"role":"user","content":"a"}]})";
        const gateway::CacheTextReader reader({.similarity = similarity});
        REQUIRE(reader.rewrite(form, {}));
        CHECK((form.cache_texts->refused.empty() && form.cache_texts->messages.size() == (similarity ? 1u : 0u)));
        form.own_template = "{{ messages }}";
        REQUIRE(reader.rewrite(form, {}));
        CHECK((form.cache_texts->refused == "unread" && form.cache_texts->messages.empty()));
    }
}

TEST_CASE("what must not be kept says why", "[gateway][cache]") {
    CacheWorld world;
    const std::vector<std::pair<std::string, std::string>> cases = {
        {R"(,"temperature":0.7)", "temperature"},
        {R"(,"n":2)", "several-choices"},
        {R"(,"logprobs":1)", "logprobs"},
        {R"(,"prompt":["a","b"])", "several-prompts"},
        {R"(,"prompt":[104,105])", "prompt-ids"},
        {R"(,"prompt":"write to jo@example.org")", "personal"},
        {R"(,"return_token_ids":true)", "token-ids"}};
    for (const auto& [more, reason] : cases) {
        CAPTURE(more);
        for (int time = 0; time < 2; ++time) {
            const std::size_t before = world.runs();
            const auto exchange = world.ask(more);
            REQUIRE(world.runs() > before);
            const std::size_t after = world.runs();
            for (std::size_t number = before; number < after; ++number) {
                world.answer("x", number);
            }
            CHECK(header(*exchange, "x-cache") == "BYPASS");
            CHECK(header(*exchange, "x-cache-reason") == reason);
        }
    }
    // A seed makes another draw the same one.
    world.ask(R"(,"temperature":0.7,"seed":3)");
    world.answer("drawn", world.runs() - 1);
    const std::size_t runs = world.runs();
    CHECK(text_of(*world.ask(R"(,"temperature":0.7,"seed":3)")) == "drawn");
    CHECK(world.runs() == runs);
    world.ask(R"(,"temperature":0.7,"seed":4)");
    CHECK(world.runs() == runs + 1);
}

TEST_CASE("an answer whose KV may lose a little is nobody's but its client's", "[gateway][cache]") {
    gateway::GatewayOptions options = cached();
    base::Config config;
    REQUIRE(config.add_text("slo: {lossy_kv: allowed}", "test"));
    options.slo = gateway::SloClasses::read(config);
    REQUIRE(config.finish());
    CacheWorld world(std::move(options));
    const auto lossy = world.ask(R"(,"slo":{"lossy_kv":true})");
    world.answer("nearly");
    CHECK(header(*lossy, "x-cache") == "BYPASS");
    CHECK(header(*lossy, "x-cache-reason") == "lossy-kv");
    const auto exact = world.ask();
    REQUIRE(world.runs() == 2);
    world.answer("just so", 1);
    CHECK(text_of(*exact) == "just so");
    CHECK(text_of(*world.ask(R"(,"slo":{"lossy_kv":false})")) == "just so");
    world.ask(R"(,"slo":{"lossy_kv":true})");
    CHECK(world.runs() == 3);
}

TEST_CASE("what came of tools is of one moment", "[gateway][cache]") {
    CacheWorld world;
    const std::string agent =
        R"({"temperature":0,"messages":[{"role":"user","content":"w"},{"role":"assistant","content":"","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"7"}]})";
    const auto exchange = world.send("POST", "/v1/chat/completions", agent);
    world.answer("seven");
    CHECK(header(*exchange, "x-cache-reason") == "agent-loop");
}

TEST_CASE("answers that are cut, failed or personal are not kept", "[gateway][cache]") {
    CacheWorld world;
    world.ask();
    world.place();
    world.say("abc", proto::SequenceOutput::FINISH_LENGTH);
    world.ask();
    CHECK(world.runs() == 2);
    world.answer("call 4111 1111 1111 1111", 1);
    world.ask();
    CHECK(world.runs() == 3);
    world.answer("", 2);
    world.ask();
    CHECK(world.runs() == 4);
}

TEST_CASE("Cache-Control of a request holds", "[gateway][cache]") {
    CacheWorld world;
    const auto control = [&](const std::string& value) { return world.ask("", {{"cache-control", value}}); };
    const auto only = control("only-if-cached");
    CHECK(only->response->status == 504);
    CHECK(world.runs() == 0);
    world.ask();
    world.answer("one");
    CHECK(text_of(*control("only-if-cached")) == "one");
    world.owner.clock.advance(10s);
    CHECK(text_of(*control("max-age=10")) == "one");
    // Older than the client takes: asked anew, and that is kept.
    const auto fresh = control("max-age=9");
    CHECK(world.runs() == 2);
    world.answer("two", 1);
    CHECK(text_of(*fresh) == "two");
    CHECK(text_of(*world.ask()) == "two");
    const auto revalidated = control("no-cache");
    CHECK(world.runs() == 3);
    world.answer("three", 2);
    CHECK(text_of(*revalidated) == "three");
    CHECK(text_of(*world.ask()) == "three");
    const auto unseen = control("no-store");
    CHECK(world.runs() == 4);
    world.answer("four", 3);
    CHECK(header(*unseen, "x-cache") == "BYPASS");
    CHECK(text_of(*world.ask()) == "three");
    world.owner.clock.advance(1h);
    const auto late = world.ask();
    CHECK(world.runs() == 5);
    world.answer("five", 4);
    CHECK(text_of(*late) == "five");
    CHECK(control("max-age=soon")->response->status == 400);
    CHECK(world.ask("", {{"x-cache-tags", "a b"}})->response->status == 400);
    CHECK(control("private, max-age=\"3600\", only-if-cached")->response->status == 200);
}

TEST_CASE("where the model fails, who takes an old answer gets it", "[gateway][cache]") {
    CacheWorld world;
    world.ask();
    world.answer("old");
    world.owner.clock.advance(1h + 30s);
    const auto fail_run = [&](std::size_t number) {
        world.place(number);
        world.owner.table.on_output(base::Incarnation{20},
                                    error_output(world.id(number), 0, base::ErrorCode::invalid_argument));
        world.run();
    };
    const auto stale = world.ask("", {{"cache-control", "stale-if-error=60"}});
    fail_run(1);
    CHECK(text_of(*stale) == "old");
    CHECK(header(*stale, "x-cache") == "STALE");
    const auto strict = world.ask("", {{"cache-control", "stale-if-error=10"}});
    fail_run(2);
    CHECK(strict->response->status >= 400);
}

TEST_CASE("equal requests at one time share one run", "[gateway][cache][coalescing]") {
    CacheWorld world;
    std::vector<std::shared_ptr<FakeExchange>> all;
    for (int number = 0; number < 20; ++number) {
        all.push_back(world.ask(number % 2 == 0 ? "" : R"(,"stream":true)"));
    }
    CHECK(world.runs() == 1);
    world.place();
    world.say("ab");
    all.push_back(world.ask(R"(,"stream":true)"));  // hears the beginning, too
    all.push_back(world.ask());
    all[2]->gone("client_gone");  // others go on
    all[0]->gone("client_gone");  // also without the one that began
    world.run();
    world.say("c", kStopped);
    CHECK(world.runs() == 1);
    for (std::size_t number = 1; number < all.size(); ++number) {
        CAPTURE(number);
        if (number == 2) { continue; }
        if (all[number]->streamed.empty()) {
            CHECK(text_of(*all[number]) == "abc");
            CHECK(header(*all[number], "x-cache") == "COALESCED");
        } else {
            std::string streamed;
            for (const json::object& event : events(*all[number])) {
                streamed += event.at("choices").at(0).at("text").as_string().c_str();
            }
            CHECK(streamed == "abc");
        }
    }
    CHECK(text_of(*world.ask()) == "abc");
}

TEST_CASE("a run that everybody has left is cancelled", "[gateway][cache][coalescing]") {
    CacheWorld world;
    const auto one = world.ask();
    const auto two = world.ask(R"(,"stream":true)");
    world.place();
    one->gone("client_gone");
    CHECK(world.owner.ports.released.empty());
    two->gone("client_gone");
    world.run();
    CHECK(world.owner.ports.released.size() == 1);
    world.ask();
    CHECK(world.runs() == 2);
}

TEST_CASE("a run that fails is begun anew for those who wait", "[gateway][cache][coalescing]") {
    CacheWorld world;
    const auto leader = world.ask();
    const auto whole = world.ask();
    const auto stream = world.ask(R"(,"stream":true)");
    world.place();
    world.say("ab");
    world.owner.table.on_output(base::Incarnation{20}, error_output(world.id(), 0, base::ErrorCode::invalid_argument));
    world.run();
    CHECK(leader->response->status >= 400);
    REQUIRE(world.runs() == 2);
    world.place(1);
    SECTION("and goes on where it was") {
        world.say("a", proto::SequenceOutput::FINISH_NONE, 1);
        world.say("bcd", kStopped, 1);
        CHECK(text_of(*whole) == "abcd");
        std::string streamed;
        for (const json::object& event : events(*stream)) {
            streamed += event.at("choices").at(0).at("text").as_string().c_str();
        }
        CHECK(streamed == "abcd");
    }
    SECTION("and who has heard something else is told") {
        world.say("x", kStopped, 1);
        CHECK(stream->streamed.find("error") != std::string::npos);
        CHECK(whole->response->status >= 400);  // it has heard the beginning, too
    }
    SECTION("also when its repeat ends before") {
        world.say("a", kStopped, 1);
        CHECK(stream->streamed.find("error") != std::string::npos);
    }
}

TEST_CASE("failures one after the other end in an error for all", "[gateway][cache][coalescing]") {
    CacheWorld world;
    std::vector<std::shared_ptr<FakeExchange>> all;
    for (int number = 0; number < 6; ++number) {
        all.push_back(world.ask());
    }
    std::size_t failed = 0;
    for (; failed < world.runs(); ++failed) {
        world.place(failed);
        world.owner.table.on_output(base::Incarnation{20},
                                    error_output(world.id(failed), 0, base::ErrorCode::invalid_argument));
        world.run();
    }
    CHECK(failed == 4);
    for (const auto& one : all) {
        CHECK(one->response->status >= 400);
    }
}

TEST_CASE("operators see and purge what is kept (no way to: prompt-cache #8)", "[gateway][cache]") {
    gateway::GatewayOptions options = cached();
    options.cache.from_anywhere = true;
    CacheWorld world(options);
    world.ask("", {{"x-tenant", "a"}, {"x-cache-tags", "doc1, doc2"}});
    world.answer("for a");
    world.ask("", {{"x-tenant", "b"}});
    world.answer("for b", 1);
    const json::object listed = body(*world.send("GET", "/cache/entries"));
    REQUIRE(listed.at("total") == 2);
    CHECK(listed.at("entries").at(0).at("tenant") == "b");
    CHECK_FALSE(listed.at("entries").at(0).as_object().contains("text"));
    CHECK(body(*world.send("GET", "/cache")).at("equal").at("tenants").at("a").at("entries") == 1);
    world.ask("", {{"x-tenant", "b"}});
    const json::object served = body(*world.send("GET", "/cache")).at("served").as_object();
    CHECK(served.at("tenants").at("a").at("requests") == 1);
    CHECK(served.at("tenants").at("a").at("hits") == 0);
    CHECK(served.at("tenants").at("b").at("requests") == 2);
    CHECK(served.at("tenants").at("b").at("hits") == 1);
    CHECK(served.at("others").at("requests") == 0);
    const auto purge = [&](const std::string& text) { return body(*world.send("POST", "/cache/purge", text)); };
    CHECK(purge(R"({"tag":"doc2","dry_run":true})").at("equal") == 1);
    CHECK(purge(R"({"tag":"doc3"})").at("equal") == 0);
    CHECK(purge(R"({"older_than_s":5})").at("equal") == 0);
    CHECK(purge(R"({"tag":"doc2"})").at("equal") == 1);
    CHECK(purge(R"({"entry":"e-2","tenant":"a"})").at("equal") == 0);
    CHECK(purge(R"({"entry":"e-2"})").at("equal") == 1);
    CHECK(world.send("POST", "/cache/purge", "{}")->response->status == 400);
    CHECK(world.send("POST", "/cache/purge", R"({"tenants":"a"})")->response->status == 400);
    CHECK(world.send("POST", "/cache/purge", R"({"entry":"12"})")->response->status == 400);
    CHECK(world.send("GET", "/cache/purge")->response->status == 405);
    // What is in work while it is purged is not kept.
    world.ask("", {{"x-tenant", "a"}, {"x-cache-tags", "doc1"}});
    CHECK(world.runs() == 3);
    purge(R"({"tag":"doc1"})");
    world.answer("old", 2);
    world.ask("", {{"x-tenant", "a"}, {"x-cache-tags", "doc1"}});
    CHECK(world.runs() == 4);
}

TEST_CASE("of more tenants than can be told apart the later ones are told together", "[gateway][cache]") {
    gateway::TenantSums sums;
    gateway::CacheAsk ask;
    for (std::size_t tenant = 0; tenant < gateway::TenantSums::kTenantsMost + 5; ++tenant) {
        ask.tenant = std::to_string(tenant);
        ask.outcome = gateway::CacheOutcome::miss;
        sums.decided(ask, 0);
        ask.outcome = gateway::CacheOutcome::coalesced;
        sums.decided(ask, 0.5);
    }
    ask.outcome = gateway::CacheOutcome::bypass;
    sums.decided(ask, 0);
    CHECK(sums.named().size() == gateway::TenantSums::kTenantsMost);
    CHECK(sums.named().at("0").requests == 2);
    CHECK(sums.named().at("0").hits == 1);
    CHECK(sums.others().requests == 10);
    CHECK(sums.others().hits == 5);
    CHECK(sums.others().saved_s == 2.5);
}

TEST_CASE("the routes are for this machine, and for a gateway with a cache", "[gateway][cache]") {
    CacheWorld world;
    CHECK(world.send("GET", "/cache")->response->status == 403);
    World without;
    CHECK(without.send("GET", "/cache")->response->status == 404);
    const auto plain = without.complete(kStop);
    without.place();
    without.say("abc", kStopped);
    CHECK(field(plain->response.value(), "x-cache").empty());
}

TEST_CASE("similar questions are answered where that is on, from one tenant's answers", "[gateway][cache]") {
    gateway::GatewayOptions options = cached();
    options.cache.semantic.semantic = true;
    options.cache.semantic.shadow_share = 0;
    options.cache.lookup_timeout = 1h;  // of a clock that stands still
    CacheWorld world(options);
    const auto chat = [&](const std::string& text, const std::string& tenant) {
        return world.send("POST", "/v1/chat/completions",
                          R"({"temperature":0,"messages":[{"role":"user","content":")" + text + R"("}]})",
                          {{"x-tenant", tenant}});
    };
    const std::string asked = "How do I list hidden files in a folder?";
    const std::string reworded = "How can I list hidden files in a folder?";
    const auto first = chat(asked, "a");
    REQUIRE(world.run_until([&] { return world.runs() == 1; }));
    world.answer("ls -a");
    const auto second = chat(reworded, "a");
    REQUIRE(world.run_until([&] { return second->response.has_value() || world.runs() > 1; }));
    REQUIRE(world.runs() == 1);
    CHECK(world.runs() == 1);
    CHECK(body(*second).at("choices").at(0).at("message").at("content") == "ls -a");
    CHECK(header(*second, "x-cache") == "HIT");
    CHECK(header(*second, "x-cache-kind") == "semantic");
    CHECK(header(*second, "x-cache-entry") == "s-1");
    CHECK_FALSE(header(*second, "x-cache-similarity").empty());
    chat(reworded, "b");
    REQUIRE(world.run_until([&] { return world.runs() == 2; }));
    chat("How do I delete hidden files in a folder?", "a");
    REQUIRE(world.run_until([&] { return world.runs() == 3; }));
}

TEST_CASE("the same request in another body is the same request (Bifrost #3049: a hash that is not deterministic)",
          "[gateway][cache]") {
    CacheWorld world;
    world.ask();
    world.answer("abc");
    for (const std::string other :
         {R"({"prompt":"hello",  "temperature":0.0})", R"({"temperature":0,"model":"m","prompt":"hello"})",
          R"({"temperature":0,"model":"org/m","prompt":"hello"})", R"({"prompt":"hello","user":"u","temperature":0})",
          R"({"prompt":["hello"],"temperature":0,"n":1,"stream":false,"logprobs":null})",
          R"({"prompt":"hello","temperature":0,"seed":7})"}) {
        CAPTURE(other);
        CHECK(header(*world.send("POST", "/v1/completions", other), "x-cache") == "HIT");
    }
    CHECK(world.runs() == 1);
}

TEST_CASE("an error is never an answer (semantic-router #2130, nenya #18)", "[gateway][cache]") {
    CacheWorld world;
    const auto stream = world.ask(R"(,"stream":true)");
    world.place();
    world.say("half");
    world.owner.table.on_output(base::Incarnation{20}, error_output(world.id(), 0, base::ErrorCode::invalid_argument));
    world.run();
    CHECK(stream->streamed.find("error") != std::string::npos);
    const auto whole = world.ask();
    CHECK(world.runs() == 2);
    world.answer("whole", 1);
    CHECK(text_of(*whole) == "whole");
    CHECK(whole->streamed.empty());
}
