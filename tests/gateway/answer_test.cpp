#include "gateway/answer.h"

#include <functional>

#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using gateway::EndReason;

/// A source that has every answer already: a script for each sequence runs inside open().
class InstantSource final : public gateway::SequenceSource {
public:
    using Script = std::function<void(gateway::GenerationSink&)>;

    bool has_room(std::size_t) const override { return true; }
    base::RequestId open(gateway::GenerationRequest request, gateway::GenerationSink& sink) override {
        choices.push_back(request.sampling.choice());
        const std::size_t index = choices.size() - 1;
        sinks.push_back(&sink);
        scripts.at(index)(sink);
        return base::RequestId{index + 1};
    }
    void cancel(base::RequestId id, std::string_view) override {
        cancelled.push_back(base::raw(id));
        sinks.at(base::raw(id) - 1)->on_end({.reason = EndReason::cancelled});
    }

    std::vector<Script> scripts;
    std::vector<gateway::GenerationSink*> sinks;
    std::vector<std::uint32_t> choices;
    std::vector<std::uint64_t> cancelled;
};

gateway::GenerationEnd ending(EndReason reason) {
    gateway::GenerationEnd end{.reason = reason};
    end.completion_tokens = 1;
    if (reason == EndReason::failed) { end.error = base::Error{base::ErrorCode::unavailable, "made to fail"}; }
    return end;
}

InstantSource::Script whole(const std::string& text) {
    return [text](gateway::GenerationSink& sink) {
        sink.on_placed();
        sink.on_piece({.text = text, .tokens = {{.token = 'x'}}}, 1, "local");
        sink.on_end(ending(EndReason::length));
    };
}
void fails(gateway::GenerationSink& sink) {
    sink.on_end(ending(EndReason::failed));
}
void stays(gateway::GenerationSink&) {}

/// One answer of `n` choices from an instant source.
struct World {
    explicit World(std::vector<InstantSource::Script> scripts, const std::string& fields = "",
                   gateway::SloTargets targets = {}, gateway::Endpoint endpoint = gateway::Endpoint::completions,
                   bool allow_lossy_kv = false, bool shows_tools = true,
                   gateway::ReasoningFields reasoning = gateway::ReasoningFields::both) {
        source.scripts = std::move(scripts);
        text.shows_tools = shows_tools;
        text.style = {.tools = gateway::ToolFormat::hermes, .reasons = true};
        const std::string asked =
            endpoint == gateway::Endpoint::chat ? R"("messages":[{"role":"user","content":"a"}])" : R"("prompt":"ab")";
        gateway::FormLimits limits;
        gateway::ClusterView cluster;
        cluster.context_tokens = 100;
        auto form = gateway::read_form(
            endpoint, "{" + asked + ",\"n\":" + std::to_string(source.scripts.size()) + fields + "}", limits, models);
        REQUIRE(form);
        auto prepared = gateway::prepare(
            std::move(*form), {.limits = limits, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
        REQUIRE(prepared);
        gateway::AnswerHeader header;
        header.endpoint = endpoint;
        header.reasoning = reasoning;
        header.id = std::string(gateway::form_of(endpoint).id_prefix) + "0123456789abcdefghijklmnopqr";
        answer = std::make_unique<gateway::Answer>(
            gateway::Answer::Setup{.source = source,
                                   .text = text,
                                   .metrics = rows,
                                   .clock = clock,
                                   .prepared = std::move(*prepared),
                                   .exchange = exchange,
                                   .header = header,
                                   .tag = {.method = "POST", .path = "/", .id = "r", .received_at = clock.now()},
                                   .log = log,
                                   .tenant = "default",
                                   .slo = {.targets = targets, .allow_lossy_kv = allow_lossy_kv},
                                   .request_timeout = std::chrono::seconds(1),
                                   .ping_interval = {},
                                   .seed = 1,
                                   .done = [this](gateway::ClientAnswer&) { ++done; }});
        answer->start();
    }

    ByteText text;
    base::Metrics metrics;
    gateway::Models models = make_models({"m"});
    gateway::GatewayMetrics rows{metrics, models.own_names()};
    base::FakeClock clock;
    gateway::RequestLog log{{.kind = gateway::AccessLogKind::off, .metrics = rows, .clock = clock, .sink = {}}};
    InstantSource source;
    std::shared_ptr<FakeExchange> exchange = std::make_shared<FakeExchange>();
    double slo_requests(std::string slo, std::string outcome) {
        return metrics
            .counter(
                "sluice_gateway_slo_requests_total", "",
                {{"model", "m"}, {"slo_class", "default"}, {"slo", std::move(slo)}, {"outcome", std::move(outcome)}})
            .Value();
    }
    double goodput_tokens() {
        return metrics.counter("sluice_gateway_goodput_tokens_total", "", {{"model", "m"}, {"slo_class", "default"}})
            .Value();
    }

    int done = 0;
    std::unique_ptr<gateway::Answer> answer;
};

/// A sequence of three tokens whose first came after `ttft`, the others `tpot` apart.
InstantSource::Script timed(base::Duration ttft, base::Duration tpot) {
    return [ttft, tpot](gateway::GenerationSink& sink) {
        sink.on_placed();
        sink.on_piece({.text = "x", .tokens = {{.token = 'x'}}}, 1, "local");
        gateway::GenerationEnd end = ending(EndReason::length);
        end.completion_tokens = 3;
        end.first_token_at = base::FakeClock().now() + ttft;
        end.tpot = tpot;
        sink.on_end(end);
    };
}

}  // namespace

TEST_CASE("a source may answer from inside open()", "[gateway][answer]") {
    World world({whole("one"), whole("two")});
    REQUIRE(world.exchange->answers == 1);
    REQUIRE(world.exchange->response->status == 200u);
    const std::string& body = world.exchange->response->body;
    REQUIRE(body.find(R"("text":"one")") < body.find(R"("text":"two")"));
    REQUIRE(body.find(R"("text":"two")") != std::string::npos);
    REQUIRE(world.done == 1);
    REQUIRE(world.source.choices == std::vector<std::uint32_t>{0, 1});
}

TEST_CASE("a stream begins when the last of its sequences has a place, also when all come at once",
          "[gateway][answer]") {
    World world({whole("one"), whole("two")}, R"(,"stream":true)");
    REQUIRE(world.exchange->answers == 1);
    REQUIRE(world.exchange->streamed.find("one") < world.exchange->streamed.find("two"));
    REQUIRE(world.exchange->streamed.ends_with("data: [DONE]\n\n"));
    REQUIRE(world.done == 1);
}

TEST_CASE("a sequence that fails from inside open() takes its siblings with it", "[gateway][answer]") {
    World world({stays, fails, whole("never")});
    REQUIRE(world.exchange->answers == 1);
    REQUIRE(world.exchange->response->status == 503u);
    REQUIRE(world.done == 1);
    REQUIRE(world.source.choices.size() == 2u);  // the third was not asked for any more
    REQUIRE(world.source.cancelled == std::vector<std::uint64_t>{1});
}

TEST_CASE("a sequence whose answer fails while it is being opened is cancelled once it has a name",
          "[gateway][answer]") {
    // Logprobs of the prompt are missing: the answer fails inside on_piece, the sequence itself goes on.
    const auto without_prompt = [](gateway::GenerationSink& sink) {
        sink.on_placed();
        sink.on_piece({.text = "x", .tokens = {{.token = 'x'}}}, 1, "local");
    };
    World world({without_prompt, whole("never")}, R"(,"echo":true,"logprobs":1)");
    REQUIRE(world.exchange->response->status == 500u);
    REQUIRE(world.done == 1);
    REQUIRE(world.source.cancelled == std::vector<std::uint64_t>{1});
    REQUIRE(world.source.choices.size() == 1u);
}

TEST_CASE("a request counts as good when all of its sequences met all of its targets", "[gateway][answer][slo]") {
    using std::chrono::milliseconds;
    const gateway::SloTargets targets{.ttft = milliseconds(500), .tpot = milliseconds(30)};
    World good({timed(milliseconds(500), milliseconds(30)), timed(milliseconds(100), milliseconds(10))}, "", targets);
    REQUIRE(good.slo_requests("ttft", "good") == 1);
    REQUIRE(good.slo_requests("tpot", "good") == 1);
    REQUIRE(good.slo_requests("all", "good") == 1);
    REQUIRE(good.slo_requests("availability", "good") == 1);
    REQUIRE(good.goodput_tokens() == 6);

    World slow({timed(milliseconds(500), milliseconds(31)), timed(milliseconds(100), milliseconds(10))}, "", targets);
    REQUIRE(slow.slo_requests("ttft", "good") == 1);
    REQUIRE(slow.slo_requests("tpot", "bad") == 1);
    REQUIRE(slow.slo_requests("all", "bad") == 1);
    REQUIRE(slow.goodput_tokens() == 0);

    World late({timed(milliseconds(501), milliseconds(1))}, "", targets);
    REQUIRE(late.slo_requests("ttft", "bad") == 1);
    REQUIRE(late.slo_requests("all", "bad") == 1);
}

TEST_CASE(
    "without targets a request that is answered is good, one that failed is not, and a client that left is neither",
    "[gateway][answer][slo]") {
    World answered({whole("x")});
    REQUIRE(answered.slo_requests("all", "good") == 1);
    REQUIRE(answered.slo_requests("ttft", "good") == 0);
    World failed({fails});
    REQUIRE(failed.slo_requests("availability", "bad") == 1);
    REQUIRE(failed.slo_requests("all", "bad") == 1);
    World gone({stays});
    gone.answer->client_gone("client_gone");
    REQUIRE(gone.slo_requests("all", "excluded") == 1);
    REQUIRE(gone.slo_requests("all", "bad") == 0);
}

TEST_CASE("reasoning and calls stand in their own fields of an answer, whole and streamed", "[gateway][answer]") {
    const auto in_pieces = [](gateway::GenerationSink& sink) {
        sink.on_placed();
        for (const char* piece : {"<thi", "nk>why", "</think>Let me see.\n<tool_", "call>\n{\"name\": \"f\", \"argu",
                                  "ments\": {\"a\"", ": 1}}\n</tool_call>"}) {
            sink.on_piece({.text = piece, .tokens = {{.token = 'x'}}}, 1, "local");
        }
        gateway::GenerationEnd end = ending(EndReason::stop);
        end.reasoning_tokens = 3;
        sink.on_end(end);
    };
    const std::string tools = R"(,"tools":[{"type":"function","function":{"name":"f"}}])";
    World whole({in_pieces}, tools, {}, gateway::Endpoint::chat);
    const std::string& body = whole.exchange->response->body;
    CAPTURE(body);
    CHECK(body.find(R"("content":"Let me see.")") != std::string::npos);
    CHECK(body.find(R"("reasoning_content":"why","reasoning":"why")") != std::string::npos);
    CHECK(body.find(R"("function":{"name":"f","arguments":"{\"a\": 1}"})") != std::string::npos);
    CHECK(body.find(R"("finish_reason":"tool_calls")") != std::string::npos);
    CHECK(body.find(R"("completion_tokens_details":{"reasoning_tokens":3})") != std::string::npos);

    World streamed({in_pieces}, tools + R"(,"stream":true)", {}, gateway::Endpoint::chat);
    const std::string& events = streamed.exchange->streamed;
    CAPTURE(events);
    CHECK(events.find(R"("delta":{"reasoning_content":"why","reasoning":"why"})") != std::string::npos);
    CHECK(events.find(R"("delta":{"content":"Let me see."})") != std::string::npos);
    CHECK(events.find(R"("type":"function","function":{"name":"f","arguments":""}}])") != std::string::npos);
    CHECK(events.find(R"([{"index":0,"function":{"arguments":"{\"a\""}}])") != std::string::npos);
    CHECK(events.find(R"("finish_reason":"tool_calls")") != std::string::npos);
    CHECK(events.find("tool_call>") == std::string::npos);

    World refused({in_pieces}, tools + R"(,"tool_choice":"none")", {}, gateway::Endpoint::chat);
    CHECK(refused.exchange->response->body.find("<tool_call>") != std::string::npos);
}

TEST_CASE("JSON that its last token has closed is whole, also where no further one was allowed", "[gateway][answer]") {
    const auto says = [](std::string text, EndReason reason) {
        return [text = std::move(text), reason](gateway::GenerationSink& sink) {
            sink.on_placed();
            sink.on_piece({.text = text, .tokens = {{.token = 'x'}}}, 1, "local");
            sink.on_end(ending(reason));
        };
    };
    const std::string form = R"(,"response_format":{"type":"json_object"})";
    for (const bool streams : {false, true}) {
        const auto reason_of = [&](const std::string& text, const std::string& fields) {
            World world({says(text, EndReason::length)}, fields + (streams ? R"(,"stream":true)" : ""), {},
                        gateway::Endpoint::chat);
            const std::string& body = streams ? world.exchange->streamed : world.exchange->response->body;
            const bool is_length = body.find(R"("finish_reason":"length")") != std::string::npos;
            const bool is_stop = body.find(R"("finish_reason":"stop")") != std::string::npos;
            REQUIRE(is_length != is_stop);
            return std::string(is_stop ? "stop" : "length");
        };
        CHECK(reason_of(R"({"a":1})", form) == "stop");
        CHECK(reason_of(R"(<think>{"b":</think>{"a":1})", form) == "stop");
        CHECK(reason_of(R"({"a":1)", form) == "length");
        CHECK(reason_of(R"(<think>{}</think>{"a":)", form) == "length");
        CHECK(reason_of(R"({"a":1})",
                        R"(,"structured_outputs":{"json":{"type":"object"},"disable_any_whitespace":true})") == "stop");
        CHECK(reason_of(R"({"a":1})", "") == "length");  // nobody has said that nothing follows
        CHECK(reason_of(R"({"a":1})", R"(,"guided_regex":".*")") == "length");
    }
}

TEST_CASE("the reasoning of a chat has the names that the server is told, or none", "[gateway][answer]") {
    using gateway::ReasoningFields;
    const auto reasons = [](gateway::GenerationSink& sink) {
        sink.on_placed();
        sink.on_piece({.text = "<think>why</think>so", .tokens = {{.token = 'x'}}}, 1, "local");
        sink.on_end(ending(EndReason::stop));
    };
    for (const auto& [fields, told] : {std::pair{ReasoningFields::reasoning_content, R"("reasoning_content":"why"})"},
                                       {ReasoningFields::reasoning, R"("reasoning":"why"})"},
                                       {ReasoningFields::none, ""}}) {
        for (const bool streams : {false, true}) {
            World world({reasons}, streams ? R"(,"stream":true)" : "", {}, gateway::Endpoint::chat, false, true,
                        fields);
            const std::string& body = streams ? world.exchange->streamed : world.exchange->response->body;
            CAPTURE(body, streams);
            CHECK(body.find(told) != std::string::npos);
            CHECK((body.find("why") != std::string::npos) == (fields != ReasoningFields::none));
            CHECK((body.find("reasoning_content") != std::string::npos) ==
                  (fields == ReasoningFields::reasoning_content));
            CHECK(body.find(R"("content":"so")") != std::string::npos);
            CHECK(body.find(R"("delta":{},"logprobs":null,"finish_reason":null)") == std::string::npos);
        }
    }
}

TEST_CASE("an answer says how its KV came, the lossiest of its choices; the head of a stream what may be",
          "[gateway][answer]") {
    const auto came = [](const std::string& kv) {
        return [kv](gateway::GenerationSink& sink) {
            sink.on_placed();
            sink.on_piece({.text = "x", .tokens = {{.token = 'x'}}}, 1, "disagg");
            gateway::GenerationEnd end = ending(EndReason::length);
            end.kv = kv;
            sink.on_end(end);
        };
    };
    const auto told = [](const gateway::HttpFields& fields) {
        std::string value = "nothing";
        for (const auto& [name, text] : fields) {
            if (name == "x-sluice-kv") { value = text; }
        }
        return value;
    };
    CHECK(told(World({came("exact"), came("sluice/3"), came("raw")}).exchange->response->fields) == "sluice/3");
    CHECK(told(World({came("exact")}).exchange->response->fields) == "exact");
    CHECK(told(World({whole("one")}).exchange->response->fields) == "nothing");
    CHECK(told(World({came("raw")}, R"(,"stream":true)").exchange->head) == "nothing");
    CHECK(told(World({came("raw")}, R"(,"stream":true)", {}, gateway::Endpoint::completions, true).exchange->head) ==
          "lossy-allowed");
}

TEST_CASE("an answer says that its model was not told of the tools", "[gateway][answer]") {
    const auto told = [](const gateway::HttpFields& fields) {
        return std::any_of(fields.begin(), fields.end(), [](const auto& one) {
            return one == std::pair<std::string, std::string>("x-sluice-tools", "left-out");
        });
    };
    const std::string tools = R"(,"tools":[{"type":"function","function":{"name":"f"}}])";
    const auto asked = [&](const std::string& fields, bool shows_tools) {
        return World({whole("one")}, fields, {}, gateway::Endpoint::chat, false, shows_tools);
    };
    CHECK(told(asked(tools, false).exchange->response->fields));
    CHECK(told(asked(tools + R"(,"stream":true)", false).exchange->head));
    CHECK_FALSE(told(asked(tools, true).exchange->response->fields));
    CHECK_FALSE(told(asked("", false).exchange->response->fields));
}
