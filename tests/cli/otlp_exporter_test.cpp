#include "cli/otlp_exporter.h"

#include <boost/json.hpp>
#include <future>
#include <mutex>

#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using base::ErrorCode;

base::Span span(const std::string& name) {
    base::Span one{
        .context = base::parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").value(),
        .name = name};
    one.begin_unix_us = 1'000'000;
    one.end_unix_us = 1'500'000;
    return one;
}

/// Takes bodies as the test says.
struct Receiver {
    base::Result<void> take(const std::string& body) {
        const std::scoped_lock lock(mutex);
        ++tries;
        if (!answers.empty()) {
            auto answer = answers.front();
            answers.erase(answers.begin());
            if (!answer) { return answer; }
        }
        const json::value request = json::parse(body);
        for (const auto& one : request.at("resourceSpans").at(0).at("scopeSpans").at(0).at("spans").as_array()) {
            names.emplace_back(one.at("name").as_string());
        }
        return {};
    }
    std::mutex mutex;
    int tries = 0;
    std::vector<base::Result<void>> answers;
    std::vector<std::string> names;
};

double count(base::Metrics& metrics, const std::string& outcome) {
    return metrics.counter("sluice_trace_spans_total", "", {{"outcome", outcome}}).Value();
}

}  // namespace

TEST_CASE("spans are written as OTLP's JSON", "[cli]") {
    base::Span one = span("chat m");
    one.parent = 5;
    one.kind = base::Span::Kind::server;
    one.attributes = {{"text", std::string("a\"b")},
                      {"number", std::int64_t{-3}},
                      {"share", 0.5},
                      {"flag", true},
                      {"list", std::vector<std::string>{"stop"}}};
    one.error = "gone";
    const json::value all = json::parse(cli::otlp_json({one, span("b")}, "sluice-gateway", "i", "1.0"));
    const json::value& resource = all.at("resourceSpans").at(0);
    REQUIRE(resource.at("resource").at("attributes").at(0) ==
            json::parse(R"({"key":"service.name","value":{"stringValue":"sluice-gateway"}})"));
    const json::array& spans = resource.at("scopeSpans").at(0).at("spans").as_array();
    REQUIRE(spans.at(0) == json::parse(R"({"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7",
        "parentSpanId":"0000000000000005","name":"chat m","kind":2,"startTimeUnixNano":"1000000000",
        "endTimeUnixNano":"1500000000","attributes":[{"key":"text","value":{"stringValue":"a\"b"}},
        {"key":"number","value":{"intValue":"-3"}},{"key":"share","value":{"doubleValue":0.5}},
        {"key":"flag","value":{"boolValue":true}},
        {"key":"list","value":{"arrayValue":{"values":[{"stringValue":"stop"}]}}}],
        "status":{"code":2,"message":"gone"}})"));
    REQUIRE(spans.at(1).as_object().if_contains("parentSpanId") == nullptr);
}

TEST_CASE("where spans go", "[cli]") {
    REQUIRE(*cli::traces_url("http://127.0.0.1:4318") == "http://127.0.0.1:4318/v1/traces");
    REQUIRE(*cli::traces_url("https://a.b/otlp/") == "https://a.b/otlp/v1/traces");
    REQUIRE(*cli::traces_url("http://a/v1/traces") == "http://a/v1/traces");
    for (const char* wrong : {"127.0.0.1:4318", "http://", "ftp://a", "http://a b", "http://a?x"}) {
        REQUIRE(cli::traces_url(wrong).error().code == ErrorCode::invalid_argument);
    }
}

TEST_CASE("spans that wait are sent at the end, in the order in which they came", "[cli]") {
    base::Metrics metrics;
    Receiver receiver;
    {
        cli::OtlpExporter exporter({.service = "s",
                                    .instance = "i",
                                    .version = "1",
                                    .batch_max = 2,
                                    .gather = std::chrono::hours(1),
                                    .patience = std::chrono::hours(1),
                                    .post = [&](const std::string& body, auto) { return receiver.take(body); },
                                    .metrics = metrics});
        for (const char* name : {"a", "b", "c"}) {
            exporter.add(span(name));
        }
    }
    REQUIRE(receiver.names == std::vector<std::string>{"a", "b", "c"});
    REQUIRE(count(metrics, "exported") == 3);
    REQUIRE(count(metrics, "dropped") == 0);
}

TEST_CASE("a batch that is refused for now is tried again, one that is wrong is not", "[cli]") {
    base::Metrics metrics;
    Receiver receiver;
    const bool may_retry = GENERATE(true, false);
    receiver.answers = {base::fail(may_retry ? ErrorCode::unavailable : ErrorCode::failed_precondition, "no")};
    std::promise<void> done;
    {
        cli::OtlpExporter exporter({.service = "s",
                                    .instance = "i",
                                    .version = "1",
                                    .batch_max = 1,
                                    .patience = std::chrono::hours(1),
                                    .retry_after = {std::chrono::milliseconds(1)},
                                    .post =
                                        [&](const std::string& body, auto) {
                                            auto taken = receiver.take(body);
                                            if (taken || !may_retry) { done.set_value(); }
                                            return taken;
                                        },
                                    .metrics = metrics});
        exporter.add(span("a"));
        done.get_future().wait();
    }
    REQUIRE(receiver.tries == (may_retry ? 2 : 1));
    REQUIRE(count(metrics, may_retry ? "exported" : "failed") == 1);
}

TEST_CASE("who adds a span never waits: what finds no room is left out and counted", "[cli]") {
    base::Metrics metrics;
    std::promise<void> is_posting;
    std::promise<void> go_on;
    auto may_go_on = go_on.get_future().share();
    bool is_first = true;
    {
        cli::OtlpExporter exporter({.service = "s",
                                    .instance = "i",
                                    .version = "1",
                                    .spans_max = 2,
                                    .batch_max = 1,
                                    .patience = std::chrono::hours(1),
                                    .post = [&](const std::string&, auto) -> base::Result<void> {
                                        if (std::exchange(is_first, false)) { is_posting.set_value(); }
                                        may_go_on.wait();
                                        return {};
                                    },
                                    .metrics = metrics});
        exporter.add(span("a"));
        is_posting.get_future().wait();  // the thread has it, and is held up
        for (const char* name : {"b", "c", "d", "e"}) {
            exporter.add(span(name));
        }
        REQUIRE(count(metrics, "dropped") == 2);
        go_on.set_value();
    }
    REQUIRE(count(metrics, "exported") == 3);
}
