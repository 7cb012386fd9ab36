#include "gateway/api.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

struct KnownRoute {
    std::string_view path;  // without /v1
    std::string_view name;  // in metrics
    bool is_post;
};
constexpr std::array<KnownRoute, 8> kRoutes = {{{"/chat/completions", "chat", true},
                                                {"/completions", "completions", true},
                                                {"/models", "models", false},
                                                {"/health", "health", false},
                                                {"/ready", "health", false},
                                                {"/live", "live", false},
                                                {"/metrics", "metrics", false},
                                                {"/version", "version", false}}};
constexpr std::string_view kModelPrefix = "/models/";

std::string lower(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return result;
}

bool is_request_id(std::string_view text) {
    return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._:-").find(c) != std::string_view::npos;
    });
}

ApiError not_ready(std::string message) {
    ApiError error{.status = 503, .message = std::move(message)};
    error.code = "unavailable";
    error.retry_after_s = 1;
    return error;
}

}  // namespace

Api::Api(Setup setup) : setup_(std::move(setup)), started_unix_s_(setup_.clock.unix_us() / 1'000'000) {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    random_.seed(seed);
    models_ = setup_.options.aliases;
    models_.insert(models_.begin(), setup_.options.model);
}

Api::~Api() {
    CHECK(answers_.empty(), answers_.size() << " requests were never answered");
}

void Api::handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
    const std::string* given_id = request.head.field("x-request-id");
    const std::string request_id = given_id != nullptr && is_request_id(*given_id) ? *given_id : random_id("req-");
    std::string_view path = request.head.path;
    if (path.starts_with("/v1/")) { path.remove_prefix(3); }

    const auto route =
        std::find_if(kRoutes.begin(), kRoutes.end(), [&](const KnownRoute& one) { return one.path == path; });
    const bool is_model = path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size();
    if (route == kRoutes.end() && !is_model) {
        ApiError error{.status = 404, .message = "no such route: " + std::string(path.substr(0, 200))};
        error.code = "not_found";
        respond(*exchange, "other", error_response(error), request_id, false);
        return;
    }
    const bool is_post = !is_model && route->is_post;
    const std::string_view name = is_model ? "models" : route->name;
    const std::vector<std::string> allowed =
        is_post ? std::vector<std::string>{"POST", "OPTIONS"} : std::vector<std::string>{"GET", "HEAD", "OPTIONS"};
    const std::string& method = request.head.method;
    if (method == "OPTIONS") {
        HttpResponse response{
            .status = 204, .fields = {{"Allow", is_post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS"}}, .body = {}};
        respond(*exchange, name, std::move(response), request_id);
        return;
    }
    if (std::find(allowed.begin(), allowed.end(), method) == allowed.end()) {
        ApiError error{.status = 405, .message = "method " + method + " is not allowed here"};
        error.code = "method_not_allowed";
        error.allow = allowed;
        respond(*exchange, name, error_response(error), request_id);
        return;
    }
    if (is_post) {
        generate(name == "chat" ? Endpoint::chat : Endpoint::completions, std::move(request), exchange, request_id);
    } else {
        get(is_model ? "model" : std::string(name), request, *exchange, request_id);
    }
}

void Api::get(const std::string& name, const HttpRequest& request, Exchange& exchange, const std::string& request_id) {
    const ClusterView& cluster = setup_.table.cluster();
    HttpResponse response;
    if (name == "models") {
        response.body = models_json(models_, started_unix_s_, cluster.context_tokens);
    } else if (name == "model") {
        std::string_view path = request.head.path;
        const std::string model(path.substr(path.find(kModelPrefix) + kModelPrefix.size()));
        if (std::find(models_.begin(), models_.end(), model) == models_.end()) {
            ApiError error{.status = 404, .message = "the model '" + model.substr(0, 200) + "' does not exist"};
            error.param = "model";
            error.code = "model_not_found";
            respond(exchange, "models", error_response(error), request_id, false);
            return;
        }
        response.body = model_json(model, started_unix_s_, cluster.context_tokens);
    } else if (name == "health") {
        if (draining_ || !cluster.ready) {
            response = error_response(not_ready(draining_        ? "the gateway is draining"
                                                : !cluster.known ? "the scheduler has not answered yet"
                                                                 : "no workers for both phases"));
        } else {
            response.body = R"({"status":"ok"})";
        }
    } else if (name == "live") {
        response.body = R"({"status":"ok"})";
    } else if (name == "version") {
        response.body = JsonWriter().begin_object().key("version").string(setup_.version).end_object().take();
    } else {
        const HttpServer::Load load = setup_.load();
        setup_.metrics.connections(static_cast<double>(load.connections), static_cast<double>(load.send_buffer_bytes),
                                   static_cast<double>(load.slow_clients));
        response.content_type = "text/plain; version=0.0.4; charset=utf-8";
        response.body = setup_.metrics.registry().text();
    }
    respond(exchange, name == "model" ? "models" : name, std::move(response), request_id);
}

std::optional<ApiError> Api::refusal(const HttpRequest& request) const {
    if (draining_) { return not_ready("the gateway is draining"); }
    if (const std::string* encoding = request.head.field("content-encoding");
        encoding != nullptr && lower(*encoding) != "identity") {
        return ApiError{.status = 415, .message = "Content-Encoding is not supported"};
    }
    if (const std::string* type = request.head.field("content-type")) {
        std::string plain = lower(type->substr(0, type->find(';')));
        plain.erase(plain.find_last_not_of(" \t") + 1);
        if (plain != "application/json" && !plain.empty()) {
            return ApiError{.status = 415, .message = "Content-Type must be application/json"};
        }
    }
    if (in_flight_ >= setup_.options.inflight_requests_max ||
        preparing_bytes_ + request.body.size() > setup_.options.http.bodies_bytes_max) {
        return api_error({base::ErrorCode::resource_exhausted, "too many requests are in work"}, 1000);
    }
    const ClusterView& cluster = setup_.table.cluster();
    if (!cluster.known) { return not_ready("the scheduler has not answered yet"); }
    // Without its length limit no request can be checked.
    if (cluster.context_tokens == 0) { return not_ready("no workers for both phases"); }
    return std::nullopt;
}

void Api::generate(Endpoint endpoint, HttpRequest request, const std::shared_ptr<Exchange>& exchange,
                   const std::string& request_id) {
    const std::string_view name = endpoint == Endpoint::chat ? "chat" : "completions";
    if (const auto refused = refusal(request)) {
        setup_.metrics.admission(draining_                ? "rejected_draining"
                                 : refused->status == 429 ? "rejected_capacity"
                                 : refused->status == 503 ? "rejected_unavailable"
                                                          : "rejected_invalid");
        respond(*exchange, name, error_response(*refused), request_id);
        return;
    }
    ++in_flight_;
    setup_.metrics.in_flight(1);
    preparing_bytes_ += request.body.size();
    FormLimits limits = setup_.options.form;
    limits.models = models_;
    const std::uint32_t context_tokens = setup_.table.cluster().context_tokens;
    const std::int64_t now_unix_s = setup_.clock.unix_us() / 1'000'000;
    setup_.post_text([this, endpoint, limits = std::move(limits), context_tokens, now_unix_s, exchange, request_id,
                      body = std::move(request.body), received_at = request.received_at] {
        ApiResult<PreparedRequest> result = tl::unexpected<ApiError>(ApiError{});
        if (draining_) {
            result = pass_on(not_ready("the gateway is draining"));
        } else if (setup_.clock.now() >= received_at + setup_.options.request_timeout) {
            result = pass_on(
                api_error({base::ErrorCode::deadline_exceeded, "the request waited too long to be prepared"}, 0));
        } else if (auto form = read_form(endpoint, body, limits, setup_.text.vocabulary())) {
            result = prepare(std::move(*form), limits, setup_.text, context_tokens, now_unix_s);
        } else {
            result = pass_on(form.error());
        }
        auto shared = std::make_shared<ApiResult<PreparedRequest>>(std::move(result));
        setup_.post([this, shared, endpoint, received_at, exchange, request_id, bytes = body.size()] {
            preparing_bytes_ -= bytes;
            prepared(std::move(*shared), endpoint, received_at, exchange, request_id);
        });
    });
}

void Api::prepared(ApiResult<PreparedRequest> result, Endpoint endpoint, base::TimePoint received_at,
                   const std::shared_ptr<Exchange>& exchange, const std::string& given_id) {
    const std::string_view name = endpoint == Endpoint::chat ? "chat" : "completions";
    const std::string request_id =
        result && !result->form.request_id.empty() && given_id.starts_with("req-") ? result->form.request_id : given_id;
    const auto leave = [&] {
        --in_flight_;
        setup_.metrics.in_flight(-1);
    };
    if (exchange->is_gone()) {
        setup_.metrics.cancelled("queued", "client_gone");
        setup_.metrics.request_ended(true, name, 499, false);
        leave();
        return;
    }
    if (result && !setup_.table.has_room(Answer::sequences(*result))) {
        result = pass_on(api_error({base::ErrorCode::resource_exhausted, "too many sequences are in work"}, 1000));
    }
    if (result && draining_) { result = pass_on(not_ready("the gateway is draining")); }
    if (!result) {
        const unsigned status = result.error().status;
        setup_.metrics.admission(status == 429   ? "rejected_capacity"
                                 : status == 503 ? "rejected_draining"
                                 : status == 504 ? "rejected_timeout"
                                                 : "rejected_invalid");
        respond(*exchange, name, error_response(result.error()), request_id, result.error().code != "model_not_found");
        leave();
        return;
    }
    setup_.metrics.admission("admitted");
    const auto& asked_ping = result->form.ping_interval_s;
    AnswerHeader header{.endpoint = endpoint,
                        .id = random_id(endpoint == Endpoint::chat ? "chatcmpl-" : "cmpl-"),
                        .created = setup_.clock.unix_us() / 1'000'000,
                        .model = result->form.model,
                        .fingerprint = fingerprint(),
                        .usage_null = result->form.stream && result->form.include_usage};
    const std::uint64_t seed = result->form.seed.value_or(random_());
    const base::Duration ping = !asked_ping        ? setup_.options.ping_interval
                                : *asked_ping <= 0 ? base::Duration::zero()
                                                   : std::chrono::seconds(*asked_ping);
    auto answer = std::make_shared<Answer>(Answer::Setup{.source = setup_.table,
                                                         .text = setup_.text,
                                                         .metrics = setup_.metrics,
                                                         .clock = setup_.clock,
                                                         .prepared = std::move(*result),
                                                         .exchange = exchange,
                                                         .header = std::move(header),
                                                         .request_id = request_id,
                                                         .received_at = received_at,
                                                         .request_timeout = setup_.options.request_timeout,
                                                         .ping_interval = ping,
                                                         .seed = seed,
                                                         .done = [this](Answer& one) { done(one); }});
    answers_.emplace(answer.get(), answer);
    exchange->on_gone([weak = std::weak_ptr<Answer>(answer)](std::string_view cause) {
        if (const auto one = weak.lock()) { one->client_gone(cause); }
    });
    answer->start();
}

void Api::done(Answer& answer) {
    const auto at = answers_.find(&answer);
    CHECK(at != answers_.end());
    --in_flight_;
    setup_.metrics.in_flight(-1);
    // Its own calls are still on the stack.
    setup_.post([kept = std::move(at->second)] {});
    answers_.erase(at);
}

void Api::tick(base::TimePoint now) {
    for (const auto& [key, answer] : answers_) {
        answer->tick(now);
    }
}

void Api::give_up_all() {
    std::vector<std::shared_ptr<Answer>> all;
    for (const auto& [key, answer] : answers_) {
        all.push_back(answer);
    }
    for (const auto& answer : all) {
        answer->give_up(not_ready("the gateway is shutting down"), "drain");
    }
}

void Api::respond(Exchange& exchange, std::string_view endpoint, HttpResponse response, const std::string& request_id,
                  bool known_model) {
    setup_.metrics.request_ended(known_model, endpoint, response.status, false);
    response.fields.emplace_back("x-request-id", request_id);
    exchange.respond(std::move(response));
}

std::string Api::fingerprint() const {
    char text[64];
    std::snprintf(text, sizeof text, "b%s-%016llx", setup_.version.substr(0, 20).c_str(),
                  static_cast<unsigned long long>(setup_.table.cluster().numerics_id));
    return text;
}

std::string Api::random_id(std::string_view prefix) {
    static constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    std::string id(prefix);
    std::uniform_int_distribution<std::size_t> pick(0, kAlphabet.size() - 1);
    for (int count = 0; count < 24; ++count) {
        id += kAlphabet[pick(random_)];
    }
    return id;
}

}  // namespace gateway
