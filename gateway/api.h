#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/batch/batch_desk.h"
#include "gateway/intake.h"
#include "gateway/openai/json_writer.h"
#include "gateway/text_queue.h"

namespace gateway {

/// The routes: from a whole HTTP request to its answer. What makes sequences goes to Intake; the rest is answered here.
/// I/O thread only, but for the text work that Intake hands out.
class Api {
public:
    struct Setup {
        const GatewayOptions& options;  // borrowed, like all references here
        const Models& models;
        base::HashKey hash_key;
        RequestTable& table;
        SequenceSource& source;  // of sequences: the table, or what stands before it
        WorkerPort& workers;
        std::vector<const FormRewriter*> rewriters;  // borrowed
        GatewayMetrics& metrics;
        RequestLog& log;
        TimelineBook* timelines = nullptr;  // null: none are kept
        Tracing tracing = {};
        const base::Clock& clock;
        Post post;           // back to the I/O thread
        PostText post_text;  // to a text thread
        Wake wake = {};      // asks for tick(); empty: its owner looks by itself
        std::function<HttpServer::Load()> load;
        const Cors& cors;
        std::string version;
        KeyKeeper* keys = nullptr;       // borrowed; null: everybody may ask
        ResponseCache* cache = nullptr;  // borrowed; null: none
    };
    explicit Api(Setup setup);

    void handle(HttpRequest request, std::shared_ptr<Exchange> exchange);
    /// Files and batches are answered by `desk`, which outlives the requests; without it there are none.
    void use_batches(BatchDesk& desk) { batches_ = &desk; }
    /// A request that came by no socket.
    void take(Endpoint endpoint, HttpRequest request, const std::shared_ptr<Exchange>& exchange, RequestTag tag) {
        intake_.take(endpoint, std::move(request), exchange, std::move(tag));
    }
    std::string random_id(std::string_view prefix) { return intake_.random_id(prefix); }
    /// What is due, and when the next is.
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// New requests and those that wait for a text thread get 503 from now on, /health too. `progress` is called
    /// whenever in_flight() has fallen.
    void drain(std::function<void()> progress) { intake_.drain(std::move(progress)); }
    /// Every request still in work gets its error.
    void give_up_all() { intake_.give_up_all(); }
    std::size_t in_flight() const { return intake_.in_flight(); }
    /// Of the connections that are open now.
    void refresh_metrics() const;
    /// Of the route that stands first in `path`, with or without the version.
    static ErrorStyle style_of(std::string_view path);

private:
    struct Get;
    static const Get* find_get(std::string_view path);
    /// 401 or 403 where the request's key is none, or is not for this route; else the tag gets the key.
    ApiResult<void> admit(const RequestHead& head, std::string_view scope, RequestTag& tag) const;
    // What a key may see; null: everything.
    HttpResponse models(const ApiKey* key) const;
    /// Empty when there is no model of that name.
    std::optional<HttpResponse> model(std::string_view name, const ApiKey* key) const;
    HttpResponse health(const ApiKey*) const;
    HttpResponse live(const ApiKey*) const;
    HttpResponse version(const ApiKey*) const;
    HttpResponse metrics(const ApiKey*) const;
    HttpResponse server_info(const ApiKey*) const;
    /// Of the first model, like tokenizer_info().
    HttpResponse model_info(const ApiKey*) const;
    HttpResponse tokenizer_info(const ApiKey*) const;
    void write_model_info(JsonWriter& json, std::size_t model) const;
    void answer_batches(HttpRequest request, std::string_view route, std::shared_ptr<Exchange> exchange,
                        RequestTag tag);
    void respond(Exchange& exchange, const RequestTag& tag, std::string_view model, std::string_view endpoint,
                 HttpResponse response);

    HttpResponse explain(const HttpRequest& request, std::string_view route) const;
    /// Answered when the workers have done it.
    void reset_prefix_cache(const std::shared_ptr<Exchange>& exchange, const RequestTag& tag);

    Setup setup_;
    BatchDesk* batches_ = nullptr;
    Intake intake_;
    bool is_resetting_ = false;
    std::int64_t started_unix_s_;
};

}  // namespace gateway
