// A name that two models answer to, through the routes: which of them does, with which examples, and whose they are.
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "gateway/cache/cache_route.h"
#include "gateway/cache/response_cache.h"
#include "tests/gateway/api_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;

gateway::GatewayOptions routed(caching::RouteMode route = caching::RouteMode::learnt) {
    gateway::GatewayOptions options;
    options.cache.enabled = true;
    options.cache.semantic.semantic = false;
    options.cache.from_anywhere = true;
    options.cache.in_context.enabled = true;
    options.cache.in_context.small = "small";
    options.cache.in_context.large = "large";
    options.cache.in_context.learning.route = route;
    options.cache.in_context.learning.compare_share = 1;
    options.cache.in_context.learning.helpfulness_min = 0.1;
    options.cache.in_context.learning.threshold_share = 0;
    options.tenant_header = "x-tenant";
    return options;
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// A gateway with two models behind the name "auto", whose workers say what the test says.
struct RoutedWorld : World {
    explicit RoutedWorld(gateway::GatewayOptions given = routed(), bool has_small = true)
        : World(std::move(given), make_models({"small", "large"}, {"auto=large"})) {
        use_cache();
        proto::DescribeReply reply;
        for (const std::string name : {"small", "large"}) {
            if (name == "small" && !has_small) { continue; }
            proto::ModelState& state = *reply.add_models();
            state.set_model(name);
            state.set_numerics_id(name == "small" ? 1 : 2);
            state.set_block_tokens(4);
            state.set_context_tokens(4096);
            state.set_ready(true);
        }
        owner.table.on_cluster(reply);
    }

    std::shared_ptr<FakeExchange> ask(const std::string& text, const std::string& more = "",
                                      const gateway::HttpFields& fields = {}, const std::string& model = "auto") {
        return send("POST", "/v1/chat/completions",
                    R"({"model":")" + model + R"(","temperature":0,"messages":[{"role":"user","content":")" + text +
                        "\"}]" + more + "}",
                    fields);
    }
    /// The model answers the `number`-th sequence that was asked a place for.
    void answer(std::string_view text, std::size_t number) {
        place(number);
        say(text, kStopped, number);
        run();
    }
    std::size_t placed() const { return owner.ports.placed.size(); }
    std::string model_of(std::size_t number) const { return owner.ports.placed.at(number).header().model(); }
    /// What it got, once it was placed.
    std::string prompt_of(std::size_t number) const {
        for (const auto& [to, command] : owner.ports.sent) {
            if (!command.has_start() || command.start().request_id() != owner.ports.placed.at(number).request_id()) {
                continue;
            }
            std::string text;
            for (const auto token : command.start().prompt()) {
                if (token >= 0 && token < 256) { text += static_cast<char>(token); }
            }
            return text;
        }
        return {};
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
    /// One question at the large model, and the comparison with the small one. The prompt that the latter got.
    std::string teach(const std::string& question, const std::string& said, const gateway::HttpFields& fields = {}) {
        const std::size_t first = placed();
        ask(question, "", fields);
        std::string shown;
        for (std::size_t number = first; number < placed(); ++number) {
            answer(said, number);
            if (model_of(number) == "small") { shown = prompt_of(number); }
        }
        counts();  // what was said has been learnt
        return shown;
    }
};

std::string header(const FakeExchange& exchange, std::string_view name) {
    return field(exchange.response.value(), name);
}

std::string text_of(const FakeExchange& exchange) {
    return std::string(body(exchange).at("choices").at(0).at("message").at("content").as_string());
}

}  // namespace

TEST_CASE("what the large model answered is shown to the small one, and both are compared", "[gateway][in_context]") {
    RoutedWorld world;
    const auto first = world.ask("how many moons has Mars");
    REQUIRE(world.placed() == 1);
    CHECK(world.model_of(0) == "large");  // nothing is offloaded on faith
    world.answer("two", 0);
    CHECK(text_of(*first) == "two");
    CHECK(body(*first).at("model") == "auto");
    CHECK(header(*first, "x-routed-model") == "large");
    CHECK(header(*first, "x-routed-reason") == "quality");
    CHECK(header(*first, "x-routed-examples") == "0");
    REQUIRE(world.placed() == 2);
    CHECK(world.model_of(1) == "small");
    world.answer("two", 1);
    CHECK_FALSE(has(world.prompt_of(1), "<examples>"));
    CHECK(world.counts().book.examples == 1);
    CHECK(world.counts().comparisons == 1);

    const std::string shown = world.teach("how many moons has Jupiter", "many");
    CHECK(has(shown, "<examples>"));
    // Whoever places it knows what the examples cost: they are prompt tokens, with the names of their blocks.
    const auto& alone = world.owner.ports.placed.at(1);
    const auto& with_example = world.owner.ports.placed.at(world.model_of(2) == "small" ? 2 : 3);
    CHECK(with_example.prompt_tokens() >= shown.size());
    CHECK(with_example.prompt_tokens() > alone.prompt_tokens() + 100);
    CHECK(with_example.block_hashes().size() == with_example.prompt_tokens() / 4 * 16);
    CHECK(has(shown, "how many moons has Mars"));
    CHECK(has(shown, "two"));
    // The large model gets none.
    for (std::size_t number = 0; number < world.placed(); ++number) {
        if (world.model_of(number) == "large") { CHECK_FALSE(has(world.prompt_of(number), "<examples>")); }
    }
}

TEST_CASE("a small model that says the same gets the requests", "[gateway][in_context]") {
    RoutedWorld world;
    for (int count = 0; count < 40; ++count) {
        world.teach("how many moons has planet " + std::to_string(count), "two");
    }
    CHECK(world.counts().small > 10);
    const auto last = world.ask("how many moons has planet 99");
    world.answer("two", world.placed() - 1);
    CHECK(header(*last, "x-routed-model") == "small");
    CHECK(header(*last, "x-routed-examples") != "0");
    const auto lines = world.lines();
    REQUIRE_FALSE(lines.empty());
    CHECK(std::string(lines.back().at("routed").as_string()).starts_with("small+"));
    CHECK(lines.back().at("model") == "small");
}

TEST_CASE("a small model that says something else does not", "[gateway][in_context]") {
    RoutedWorld world;
    for (int count = 0; count < 30; ++count) {
        const std::size_t first = world.placed();
        world.ask("how many moons has planet " + std::to_string(count));
        for (std::size_t number = first; number < world.placed(); ++number) {
            world.answer(world.model_of(number) == "small" ? "the moon is made of cheese" : "two", number);
        }
    }
    CHECK(world.counts().small < 5);
}

TEST_CASE("examples of one tenant are shown to no other", "[gateway][in_context]") {
    RoutedWorld world;
    world.teach("what is the code of the door", "it is 4711", {{"x-tenant", "acme"}});
    CHECK_FALSE(has(world.teach("what is the code of the door", "no idea", {{"x-tenant", "other"}}), "4711"));
    CHECK(has(world.teach("what is the code of that door", "it is 4711", {{"x-tenant", "acme"}}), "4711"));
}

TEST_CASE("no-store is no example", "[gateway][in_context]") {
    RoutedWorld world;
    world.teach("how many moons has Mars", "two", {{"cache-control", "no-store"}});
    CHECK(world.counts().book.examples == 0);
}

TEST_CASE("what is no single question goes to the large model and is not learnt from", "[gateway][in_context]") {
    RoutedWorld world;
    const auto turns = world.send("POST", "/v1/chat/completions",
                                  R"({"model":"auto","temperature":0,"messages":[{"role":"user","content":"hi"},)"
                                  R"({"role":"assistant","content":"hello"},{"role":"user","content":"and now"}]})");
    world.answer("so", 0);
    CHECK(header(*turns, "x-routed-model") == "large");
    CHECK(header(*turns, "x-routed-reason") == "history");
    const auto text = world.send("POST", "/v1/completions", R"({"model":"auto","temperature":0,"prompt":"once"})");
    world.answer("upon", 1);
    CHECK(header(*text, "x-routed-reason") == "form");
    CHECK(world.placed() == 2);
    world.ask("two of them", R"(,"n":2)");
    CHECK(world.placed() == 4);
    CHECK(world.model_of(2) == "large");
    CHECK(world.model_of(3) == "large");
    const auto is_long = world.send("POST", "/v1/chat/completions",
                                    R"({"model":"auto","temperature":0,"messages":[{"role":"user","content":")" +
                                        std::string(66'000, 'a') + R"("}]})");
    CHECK(is_long->response->status == 400u);  // more than the context holds; nobody has looked for examples
    CHECK(world.counts().book.examples == 0);
}

TEST_CASE("a near miss of similar questions is an example", "[gateway][in_context]") {
    gateway::GatewayOptions options = routed();
    options.cache.semantic.semantic = true;
    options.cache.semantic.shadow_share = 0;
    options.cache.lookup_timeout = std::chrono::hours(1);  // of a clock that stands still
    RoutedWorld world(options);
    const auto ask_both = [&](const std::string& text, std::string_view said) {
        const std::size_t first = world.placed();
        const auto exchange = world.ask(text);
        REQUIRE(world.run_until([&] { return exchange->response.has_value() || world.placed() > first; }));
        std::string shown;
        for (std::size_t number = first; number < world.placed(); ++number) {
            const bool is_small = world.model_of(number) == "small";
            world.answer(is_small ? "the moon is made of cheese" : said, number);
            if (is_small) { shown = world.prompt_of(number); }
        }
        world.counts();                     // what was said has been learnt
        CHECK(text_of(*exchange) == said);  // by the large one
        return shown;
    };
    ask_both("How do I list hidden files in a folder?", "ls -a");
    const std::size_t placed = world.placed();
    // So near that it is answered from there; then nearly so, and the opposite.
    const auto same = world.ask("How can I list hidden files in a folder?");
    REQUIRE(world.run_until([&] { return same->response.has_value(); }));
    CHECK(header(*same, "x-cache") == "HIT");
    CHECK(world.placed() == placed);
    const std::string shown = ask_both("How do I delete hidden files in a folder?", "rm .*");
    CHECK(has(shown, "How do I list hidden files in a folder?"));
    CHECK(has(shown, "ls -a"));
}

TEST_CASE("a model that is asked by its own name is left alone", "[gateway][in_context]") {
    RoutedWorld world;
    const auto own = world.ask("how many moons has Mars", "", {}, "small");
    world.answer("two", 0);
    CHECK(world.model_of(0) == "small");
    CHECK(header(*own, "x-routed-model").empty());
    CHECK(world.placed() == 1);
    CHECK(world.counts().book.examples == 0);
}

TEST_CASE("an equal request is answered again, whichever model it would go to now", "[gateway][in_context]") {
    RoutedWorld world;
    world.teach("how many moons has Mars", "two");
    const std::size_t placed = world.placed();
    const auto again = world.ask("how many moons has Mars");
    CHECK(world.placed() == placed);
    REQUIRE(again->response);
    CHECK(text_of(*again) == "two");
    CHECK(header(*again, "x-cache") == "HIT");
    CHECK(header(*again, "x-routed-model").empty());
}

TEST_CASE("streams are routed like whole answers", "[gateway][in_context]") {
    RoutedWorld world;
    const auto stream = world.ask("how many moons has Mars", R"(,"stream":true)");
    world.place(0);
    world.say("tw", proto::SequenceOutput::FINISH_NONE, 0);
    world.say("o", kStopped, 0);
    world.run();
    std::string text;
    for (const auto& event : events(*stream)) {
        for (const auto& choice : event.at("choices").as_array()) {
            if (const auto* content = choice.at("delta").as_object().if_contains("content")) {
                text += content->as_string().c_str();
            }
        }
    }
    CHECK(text == "two");
    CHECK(world.counts().book.examples == 1);
}

TEST_CASE("where the small model has no workers the large one answers", "[gateway][in_context]") {
    RoutedWorld world(routed(caching::RouteMode::small), false);
    const auto one = world.ask("how many moons has Mars");
    REQUIRE(world.placed() == 1);
    CHECK(world.model_of(0) == "large");
    world.answer("two", 0);
    CHECK(header(*one, "x-routed-model") == "large");
    CHECK(header(*one, "x-routed-reason") == "fallback");
}

TEST_CASE("operators see examples and remove them", "[gateway][in_context]") {
    RoutedWorld world;
    world.teach("how many moons has Mars", "two", {{"x-tenant", "acme"}});
    world.teach("how many moons has Venus", "none", {{"x-tenant", "other"}});
    const auto ask = [&](const std::string& method, const std::string& path, const std::string& body_of = "") {
        const auto exchange = world.send(method, path, body_of);
        REQUIRE(world.run_until([&] { return exchange->response.has_value(); }));
        REQUIRE(exchange->response->status == 200u);
        return body(*exchange);
    };
    CHECK(ask("GET", "/cache").at("examples").at("examples") == 2);
    const auto listed = ask("GET", "/cache/examples");
    CHECK(listed.at("total") == 2);
    CHECK_FALSE(listed.at("examples").at(0).as_object().contains("answer"));
    CHECK(ask("POST", "/cache/purge", R"({"tenant":"acme","dry_run":true})").at("examples") == 1);
    CHECK(ask("POST", "/cache/purge", R"({"tenant":"acme"})").at("examples") == 1);
    const auto left = ask("GET", "/cache/examples");
    CHECK(left.at("total") == 1);
    CHECK(left.at("examples").at(0).at("tenant") == "other");
    const std::string entry(left.at("examples").at(0).at("entry").as_string());
    CHECK(ask("POST", "/cache/purge", R"({"entry":")" + entry + "\"}").at("examples") == 1);
    CHECK(ask("GET", "/cache/examples").at("total") == 0);
}

TEST_CASE("an answer that is in work while operators purge is no example", "[gateway][in_context]") {
    RoutedWorld world;
    world.ask("how many moons has Mars");
    world.place(0);
    const auto purge = world.send("POST", "/cache/purge", R"({"all":true})");
    REQUIRE(world.run_until([&] { return purge->response.has_value(); }));
    world.say("two", kStopped, 0);
    world.run();
    CHECK(world.counts().book.examples == 0);
}

TEST_CASE("in-context settings that cannot work are refused with what to do", "[gateway][in_context]") {
    const auto models = [] {
        std::vector<gateway::ServedModel> list;
        for (const std::string name : {"small", "large"}) {
            list.push_back({.name = name, .text = std::make_shared<ByteText>()});
        }
        return list;
    }();
    const auto why = [&](const std::function<void(gateway::InContextSettings&)>& change, bool cache_is_on = true) {
        gateway::InContextSettings settings = routed().cache.in_context;
        change(settings);
        const auto checked = gateway::check_in_context(settings, cache_is_on, models);
        return checked ? std::string() : checked.error().message;
    };
    CHECK(why([](auto&) {}).empty());
    CHECK(has(why([](auto&) {}, false), "caching.enabled: true"));
    CHECK(has(why([](auto& settings) { settings.small = "tiny"; }), "'tiny', which is not served here"));
    CHECK(has(why([](auto& settings) { settings.large.clear(); }), "large must name a model"));
    CHECK(has(why([](auto& settings) { settings.small = "large"; }), "must be two models"));
    CHECK(has(why([](auto& settings) { settings.name = "small"; }), "a served model's own"));
    CHECK(why([](auto& settings) { settings = {}; }, false).empty());
}
