#pragma once

#include <boost/json.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "gateway/api.h"
#include "gateway/cache/response_cache.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace gateway_test {

namespace json = boost::json;

/// The routes over recorded ports; posted work runs when run() is called.
struct World {
    explicit World(gateway::GatewayOptions given = {}, gateway::Models models = make_models({"m"}, {"org/m"}),
                   std::vector<const gateway::FormRewriter*> given_rewriters = {})
        : options(std::move(given)),
          owner({.keeps_timelines = options.explain.is_on()}, std::move(models)),
          rewriters(std::move(given_rewriters)) {
        cors = gateway::Cors::make(options.cors_origins).value();
        use_keys(nullptr);
    }
    ~World() { end(); }

    /// From now on the model is asked through a cache, as the options say.
    void use_cache() {
        cache = std::make_unique<gateway::ResponseCache>(
            gateway::ResponseCache::Setup{.options = options.cache,
                                          .models = owner.models,
                                          .hash_key = {},
                                          .loads = owner.table.loads(),
                                          .inner = owner.table,
                                          .metrics = owner.metrics,
                                          .clock = owner.clock,
                                          .post =
                                              [this](std::function<void()> work) {
                                                  const std::scoped_lock lock(posting);
                                                  posted.push_back(std::move(work));
                                              },
                                          .wake = [this](base::TimePoint at) { wakes.push_back(at); }});
        for (const gateway::FormRewriter* one : cache->rewriters()) {
            rewriters.push_back(one);
        }
        use_keys(nullptr);
    }

    /// From now on requests need a key of these; null: none.
    void use_keys(gateway::KeyKeeper* keys) {
        api = std::make_unique<gateway::Api>(
            gateway::Api::Setup{.options = options,
                                .models = owner.models,
                                .hash_key = {},
                                .table = owner.table,
                                .source = cache ? cache->source() : owner.table,
                                .workers = owner.ports,
                                .rewriters = rewriters,
                                .metrics = owner.rows,
                                .log = log,
                                .timelines = &timelines,
                                .tracing = tracing,
                                .clock = owner.clock,
                                .post =
                                    [this](std::function<void()> work) {
                                        const std::scoped_lock lock(posting);
                                        posted.push_back(std::move(work));
                                    },
                                .post_text =
                                    [this](const std::string&, std::uint64_t, std::function<void()> work) {
                                        const std::scoped_lock lock(posting);
                                        posted.push_back(std::move(work));
                                    },
                                .wake = [this](base::TimePoint at) { wakes.push_back(at); },
                                .load = [] { return gateway::HttpServer::Load{}; },
                                .cors = cors,
                                .version = "1",
                                .keys = keys,
                                .cache = cache.get()});
    }

    /// From now on requests are traced.
    void trace(double sampled_share = 1) {
        tracing = {.spans = &spans, .sampled_share = sampled_share};
        use_keys(nullptr);
    }

    /// Gives up what is still in work; nothing can be sent any more.
    void end() {
        if (!api) { return; }
        api->give_up_all();
        if (cache) { cache->stop(); }
        run();
        api.reset();
        cache.reset();
        posted.clear();  // of its threads
    }

    void run() {
        while (const auto work = next_posted()) {
            work();
        }
    }
    /// Empty when there is none.
    std::function<void()> next_posted() {
        const std::scoped_lock lock(posting);
        if (posted.empty()) { return {}; }
        auto work = std::move(posted.front());
        posted.pop_front();
        return work;
    }
    /// Runs what other threads post, too, until `is_done`; false after a minute without.
    bool run_until(const std::function<bool()>& is_done) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        for (run(); !is_done(); run()) {
            if (std::chrono::steady_clock::now() > end) { return false; }
            std::this_thread::yield();
        }
        return true;
    }

    std::shared_ptr<FakeExchange> send(const std::string& method, const std::string& path, const std::string& body = "",
                                       const gateway::HttpFields& fields = {}) {
        gateway::HttpRequest request;
        request.head.method = method;
        request.head.path = path;
        request.head.sent_path = path;
        request.head.fields = fields;
        if (method == "POST" && !request.head.field("content-type")) {
            request.head.fields.emplace_back("content-type", "application/json");
        }
        request.body = body;
        request.received_at = owner.clock.now();
        auto exchange = std::make_shared<FakeExchange>();
        api->handle(std::move(request), exchange);
        run();
        return exchange;
    }
    std::shared_ptr<FakeExchange> chat(const std::string& fields) {
        return send("POST", "/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}");
    }
    std::shared_ptr<FakeExchange> complete(const std::string& fields) {
        return send("POST", "/v1/completions", "{" + fields + "}");
    }

    /// The sequence that was asked a place for as the `number`-th.
    base::RequestId id(std::size_t number = 0) const {
        return base::RequestId{owner.ports.placed.at(number).request_id()};
    }
    void place(std::size_t number = 0) {
        owner.table.on_place_answered(id(number), base::Epoch{0}, local_placement(make_endpoint(2, 20)));
    }
    void say(std::string_view text, proto::SequenceOutput::Finish finish = proto::SequenceOutput::FINISH_NONE,
             std::size_t number = 0) {
        owner.table.on_output(base::Incarnation{20}, output(id(number), 0, text, finish));
    }

    /// The whole access log, each line parsed; nothing can be sent any more.
    std::vector<json::object> lines() {
        end();
        log_writer.reset();  // writes what waits
        std::vector<json::object> result;
        for (const std::string& line : written) {
            result.push_back(json::parse(line).as_object());
        }
        return result;
    }

    gateway::GatewayOptions options;
    Owner owner;
    std::vector<const gateway::FormRewriter*> rewriters;
    gateway::TimelineBook timelines{options.explain, owner.clock};
    gateway::Cors cors;
    struct Spans final : base::SpanSink {
        void add(base::Span span) override { all.push_back(std::move(span)); }
        std::vector<base::Span> all;
    } spans;
    gateway::Tracing tracing;
    std::vector<std::string> written;  // by the log's thread, until it is gone
    std::optional<gateway::RequestLog> log_writer{
        std::in_place, gateway::RequestLog::Setup{.kind = options.access_log,
                                                  .metrics = owner.rows,
                                                  .clock = owner.clock,
                                                  .sink = [this](const std::string& line) { written.push_back(line); },
                                                  .spans = &spans}};
    gateway::RequestLog& log = *log_writer;
    std::mutex posting;                        // guards `posted`
    std::deque<std::function<void()>> posted;  // also by a cache's threads
    std::vector<base::TimePoint> wakes;        // asked for by answers
    std::unique_ptr<gateway::ResponseCache> cache;
    std::unique_ptr<gateway::Api> api;
};

inline std::vector<json::object> events(const FakeExchange& exchange) {
    std::vector<json::object> result;
    std::string_view rest = exchange.streamed;
    REQUIRE(rest.ends_with("data: [DONE]\n\n"));
    while (!rest.empty()) {
        const auto end = rest.find("\n\n");
        REQUIRE(end != std::string_view::npos);
        const std::string_view event = rest.substr(0, end);
        rest.remove_prefix(end + 2);
        if (event.starts_with(": ")) { continue; }
        REQUIRE(event.starts_with("data: "));
        REQUIRE(event.find('\n') == std::string_view::npos);
        if (event != "data: [DONE]") { result.push_back(json::parse(event.substr(6)).as_object()); }
    }
    return result;
}

inline std::string field(const gateway::HttpResponse& response, std::string_view name) {
    for (const auto& [key, value] : response.fields) {
        if (key == name) { return value; }
    }
    return {};
}

inline json::object body(const FakeExchange& exchange) {
    return json::parse(exchange.response.value().body).as_object();
}

}  // namespace gateway_test
