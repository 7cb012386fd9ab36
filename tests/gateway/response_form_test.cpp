#include "gateway/openai/response_form.h"

#include <boost/json.hpp>
#include <limits>

#include "gateway/answer.h"
#include "gateway/openai/errors.h"
#include "gateway/openai/json_writer.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using gateway::Endpoint;
using gateway::EndReason;

gateway_test::ByteText text;

gateway::ResponseForm form(Endpoint endpoint, bool usage_null = false) {
    return gateway::ResponseForm(
        {.endpoint = endpoint, .id = "id-1", .created = 7, .model = "m", .fingerprint = "b1", .usage_null = usage_null},
        text);
}

const std::string kChunkStart =
    R"(data: {"id":"id-1","object":"chat.completion.chunk","created":7,"model":"m","system_fingerprint":"b1","choices":[)";
const std::string kEnd = "\n\n";

}  // namespace

TEST_CASE("chunks of a chat stream are what clients expect, byte for byte", "[gateway][openai]") {
    const auto chat = form(Endpoint::chat);
    REQUIRE(chat.role_chunk(1, {}) ==
            kChunkStart +
                R"({"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]})" +
                kEnd);
    REQUIRE(chat.text_chunk(0, "a\n\"b\"", {}, nullptr, {}) ==
            kChunkStart + R"({"index":0,"delta":{"content":"a\n\"b\""},"logprobs":null,"finish_reason":null}]})" +
                kEnd);
    REQUIRE(chat.end_chunk(0, {.reason = EndReason::length}, {}) ==
            kChunkStart + R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"length","stop_reason":null}]})" +
                kEnd);
    REQUIRE(chat.end_chunk(0, {.reason = EndReason::stop, .stop_string = "x"}, {}) ==
            kChunkStart + R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":"x"}]})" +
                kEnd);
    REQUIRE(form(Endpoint::chat, true).usage_chunk({.prompt_tokens = 5, .cached_tokens = 4, .completion_tokens = 2}) ==
            kChunkStart + R"(],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,)" +
                R"("prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":0}}})" +
                kEnd);
    REQUIRE(form(Endpoint::chat, true).text_chunk(0, "a", {}, nullptr, {}) ==
            kChunkStart + R"({"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}],"usage":null})" +
                kEnd);
    REQUIRE(gateway::sse_event("{}") == "data: {}\n\n");
    REQUIRE(gateway::kSseDone == "data: [DONE]\n\n");
}

TEST_CASE("a whole chat answer has every required field", "[gateway][openai]") {
    gateway::ChoiceForm choice{.index = 0,
                               .text = "hey",
                               .logprobs = {},
                               .end = {.reason = EndReason::stop},
                               .token_ids = {},
                               .prompt_token_ids = {}};
    REQUIRE(
        form(Endpoint::chat).whole({choice}, {.prompt_tokens = 1, .cached_tokens = 0, .completion_tokens = 3}) ==
        R"({"id":"id-1","object":"chat.completion","created":7,"model":"m","system_fingerprint":"b1","choices":[)"
        R"({"index":0,"message":{"role":"assistant","content":"hey","refusal":null},"logprobs":null,)"
        R"("finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4,)"
        R"("prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}})");
}

TEST_CASE("logprobs have the forms of both endpoints", "[gateway][openai]") {
    gateway::LogprobsForm logprobs{.tokens = {{.token = 'a', .logprob = -0.5F, .top = {{'a', -0.5F}, {'b', -2.0F}}}}};
    REQUIRE(
        form(Endpoint::chat)
            .text_chunk(0, "a", logprobs, nullptr, {})
            .find(
                R"("logprobs":{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[)"
                R"({"token":"a","logprob":-0.5,"bytes":[97]},{"token":"b","logprob":-2.0,"bytes":[98]}]}],"refusal":null})") !=
        std::string::npos);
    logprobs.tokens.insert(logprobs.tokens.begin(), {.token = gateway_test::kBos, .text_offset = 4});
    logprobs.tokens[1].text_offset = 5;
    logprobs.first_has_none = true;
    REQUIRE(form(Endpoint::completions)
                .text_chunk(0, "a", logprobs, nullptr, {})
                .find(R"("logprobs":{"text_offset":[4,5],"token_logprobs":[null,-0.5],"tokens":["<s>","a"],)"
                      R"("top_logprobs":[null,{"a":-0.5,"b":-2.0}]})") != std::string::npos);
}

TEST_CASE("text offsets of an echo fit its text: BOS has none, bytes of a character share one", "[gateway][openai]") {
    const bool stream = GENERATE(true, false);
    CAPTURE(stream);
    gateway_test::Owner owner;
    gateway::FormLimits limits;
    auto read = gateway::read_form(Endpoint::completions,
                                   R"({"prompt":"\u00e9a","echo":true,"logprobs":0,"max_tokens":3,"stream":)" +
                                       std::string(stream ? "true}" : "false}"),
                                   limits, owner.models);
    REQUIRE(read);
    auto prepared = gateway::prepare(
        std::move(*read),
        {.limits = limits, .text = owner.text, .cluster = owner.table.cluster(0), .hash_key = {}, .now_unix_s = 0});
    REQUIRE(prepared);
    const auto exchange = std::make_shared<gateway_test::FakeExchange>();
    gateway::RequestLog log(
        {.kind = gateway::AccessLogKind::off, .metrics = owner.rows, .clock = owner.clock, .sink = {}});
    gateway::Answer answer({.source = owner.table,
                            .text = owner.text,
                            .metrics = owner.rows,
                            .clock = owner.clock,
                            .prepared = std::move(*prepared),
                            .exchange = exchange,
                            .header = {.endpoint = Endpoint::completions, .id = "id-1", .model = "m"},
                            .tag = {.method = "POST", .path = "/", .id = "r", .received_at = owner.clock.now()},
                            .log = log,
                            .tenant = "default",
                            .request_timeout = std::chrono::seconds(60),
                            .ping_interval = {},
                            .seed = 1,
                            .done = [](gateway::ClientAnswer&) {}});
    answer.start();
    const base::RequestId id{owner.ports.placed.at(0).request_id()};
    owner.table.on_place_answered(id, base::Epoch{0},
                                  gateway_test::local_placement(gateway_test::make_endpoint(2, 20)));
    auto all = gateway_test::output(id, 0, "\xc3\xa9x", proto::SequenceOutput::FINISH_LENGTH);
    for (const int token : {0xc3, 0xa9, int{'a'}}) {
        all.add_prompt()->set_token(token);
    }
    owner.table.on_output(base::Incarnation{20}, all);
    REQUIRE(exchange->answers == 1);

    namespace json = boost::json;
    std::string shown;
    json::array offsets;
    const auto gather = [&](const json::value& object) {
        for (const auto& choice : object.at("choices").as_array()) {
            shown += choice.at("text").as_string().c_str();
            if (choice.at("logprobs").is_null()) { continue; }
            for (const auto& one : choice.at("logprobs").at("text_offset").as_array()) {
                offsets.push_back(one);
            }
        }
    };
    if (stream) {
        for (const std::string& event : exchange->sends) {
            std::string_view rest = event;
            for (auto at = rest.find("data: {"); at != std::string_view::npos; at = rest.find("data: {")) {
                rest.remove_prefix(at + 6);
                gather(json::parse(json::string_view(rest.data(), rest.find("\n\n"))));
            }
        }
    } else {
        gather(json::parse(exchange->response.value().body));
    }
    REQUIRE(shown ==
            "\xc3\xa9"
            "a\xc3\xa9x");
    REQUIRE(offsets == json::array{0, 0, 0, 1, 2, 2, 3});
}

TEST_CASE("JSON text is valid whatever goes in", "[gateway][openai]") {
    gateway::JsonWriter json;
    json.begin_array();
    json.string(std::string("\x01\x7f\0\\", 4)).string("\xc3\xa9 \xf0\x9f\x98\x80").string("\xff\xc3(\xed\xa0\x80");
    json.number(1e-7F)
        .number(-0.0F)
        .number(3.0F)
        .number(std::numeric_limits<float>::infinity())
        .integer(-5)
        .boolean(true);
    json.begin_object().key("a").null().end_object().end_array();
    REQUIRE(json.text() ==
            "[\"\\u0001\\u007f\\u0000\\\\\",\"\xc3\xa9 "
            "\xf0\x9f\x98\x80\",\"\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd"
            "\xef\xbf\xbd\",0.0000001,-0.0,3.0,null,-5,true,{\"a\":null}]");
    REQUIRE(gateway::code_points("a\xc3\xa9\xf0\x9f\x98\x80") == 3u);
}

TEST_CASE("errors have all four keys, and fields that SDKs obey", "[gateway][openai]") {
    REQUIRE(gateway::error_json(gateway::bad_request("n", "too many").value()) ==
            R"({"error":{"message":"too many","type":"invalid_request_error","param":"n","code":null}})");
    const auto full = gateway::error_response(gateway::api_error({base::ErrorCode::resource_exhausted, "full"}, 2500));
    REQUIRE(full.status == 429u);
    REQUIRE(full.fields == gateway::HttpFields{{"Retry-After", "3"}});
    const auto never = gateway::error_response(gateway::api_error({base::ErrorCode::unavailable, "never"}, 0));
    REQUIRE(never.status == 503u);
    REQUIRE(never.fields == gateway::HttpFields{{"x-should-retry", "false"}});
    REQUIRE(gateway::api_error({base::ErrorCode::resource_exhausted, ""}, 900'000).retry_after_s == 60u);
    for (const auto& [code, status] :
         {std::pair{base::ErrorCode::deadline_exceeded, 504u}, std::pair{base::ErrorCode::internal, 500u}}) {
        const auto ours = gateway::error_response(gateway::api_error({code, ""}, 1000));
        REQUIRE(ours.status == status);
        REQUIRE(ours.fields == gateway::HttpFields{{"x-should-retry", "false"}});
    }
    REQUIRE(gateway::api_error({base::ErrorCode::invalid_argument, ""}, 0).status == 400u);
    REQUIRE(gateway::error_json({.message = std::string(100000, 'x')}).size() < 1200u);
}

TEST_CASE("models are listed with their context", "[gateway][openai]") {
    REQUIRE(
        gateway::models_json({{"a", 512}, {"b", 0}}, 7) ==
        R"({"object":"list","data":[{"id":"a","object":"model","created":7,"owned_by":"sluice","max_model_len":512,)"
        R"("type":"model","display_name":"a","lifecycle":"active","created_at":"1970-01-01T00:00:07Z"},)"
        R"({"id":"b","object":"model","created":7,"owned_by":"sluice","max_model_len":null,)"
        R"("type":"model","display_name":"b","lifecycle":"active","created_at":"1970-01-01T00:00:07Z"}],)"
        R"("has_more":false,"first_id":"a","last_id":"b"})");
    REQUIRE(gateway::models_json({}, 7) ==
            R"({"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null})");
}

TEST_CASE("what a client may take for the end of a line is escaped, in texts and in names", "[gateway][openai]") {
    // Every character that Python's splitlines() splits at, JavaScript's old line ends, and the other C1 controls.
    for (const std::string broken : {"\n", "\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\xc2\x85", "\xe2\x80\xa8",
                                     "\xe2\x80\xa9", "\xc2\x80", "\xc2\x9f", "\x7f", "\x01"}) {
        gateway::JsonWriter json;
        json.begin_object().any_key("k" + broken).string("a" + broken + "b").end_object();
        CAPTURE(json.text());
        for (const char c : json.text()) {
            CHECK((c >= 0x20 && c < 0x7f));
        }
        CHECK(boost::json::parse(json.text()).as_object().at("k" + broken).as_string() == "a" + broken + "b");
    }
    for (const std::string whole :
         {"\xc2\xa0", "\xe2\x80\xa7", "\xe2\x80\xaa", "\xe2\x81\xa8", "\xc3\x85", "\xef\xbb\xbf"}) {
        gateway::JsonWriter json;
        CHECK(json.string(whole).text() == "\"" + whole + "\"");
    }
    gateway::JsonWriter json;
    REQUIRE(json.string("\xe2\x80\xa8\xe2\x80\xa9\xc2\x85").text() == R"("\u2028\u2029\u0085")");
    REQUIRE(gateway::JsonWriter().string(std::string(1, '\0')).text() == R"("\u0000")");
    REQUIRE(form(Endpoint::chat).text_chunk(0, "a\xe2\x80\xa8", {}, nullptr, {}).find(R"("a\u2028")") !=
            std::string::npos);
}

TEST_CASE("an error from inside is told without the places that it names", "[gateway][openai]") {
    const std::vector<std::string> places = {
        "127.0.0.1:7000",      "10.1.2.3",           "[::1]:7000",       "fe80::1%eth0",
        "ipv4:10.0.0.1:7000",  "ipv6:%5B::1%5D:70",  "unix:/run/s.sock", "dns:///decode-0.svc:70",
        "http://decode-0:80/", "decode-0.svc:7001",  "localhost:1",      "/models/llama/model.safetensors",
        "decode-0:65535",      "tcp://10.0.0.7:443",
    };
    for (const std::string& place : places) {
        for (const std::string before : {"cannot reach ", "last error (", "at '", "peer=", ""}) {
            for (const std::string behind : {"", ": refused", ").", "'; ", ", later"}) {
                const auto error = gateway::api_error({base::ErrorCode::internal, before + place + behind}, 0);
                CAPTURE(before, place, behind, error.message);
                CHECK(error.message == before + "[internal]" + behind);
            }
        }
    }
    for (const std::string said :
         {"queues full: 12 of 12", "a worker gave logprobs for 3 of 5 prompt tokens", "retry in 5 s: no room", "and/or",
          "model org/name:v1 is 50% loaded", "at 12.5 ms", "version 1.2.3"}) {
        CHECK(gateway::api_error({base::ErrorCode::unavailable, said}, 0).message == said);
    }
}
