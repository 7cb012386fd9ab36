#include "gateway/api.h"

#include <algorithm>
#include <array>
#include <utility>

#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

constexpr std::string_view kModelPrefix = "/models/";
constexpr std::string_view kNoModel = GatewayMetrics::kNoModel;

bool is_request_id(std::string_view text) {
    return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._:-").find(c) != std::string_view::npos;
    });
}

HttpResponse json_response(std::string body) {
    HttpResponse response;
    response.body = std::move(body);
    return response;
}

/// What stands between a model and its first answer; empty: nothing.
std::string_view problem_of(const ClusterView& cluster) {
    if (cluster.ready) { return ""; }
    return cluster.known ? "no workers for both phases" : "the scheduler has not answered yet";
}

ApiError no_such_route(std::string_view path) {
    ApiError error{.status = 404, .message = "no such route: " + std::string(path.substr(0, 200))};
    error.code = "not_found";
    return error;
}

ApiError no_such_model(std::string_view name) {
    ApiError error{.status = 404, .message = "the model '" + std::string(name.substr(0, 200)) + "' does not exist"};
    error.param = "model";
    error.code = "model_not_found";
    return error;
}

ApiError method_not_allowed(const std::string& method, std::vector<std::string> allowed) {
    ApiError error{.status = 405, .message = "method " + method + " is not allowed here"};
    error.code = "method_not_allowed";
    error.allow = std::move(allowed);
    return error;
}

}  // namespace

/// A route that is answered at once.
struct Api::Get {
    std::string_view path;  // without /v1
    std::string_view name;  // in metrics
    HttpResponse (Api::*answer)() const;
};

const Api::Get* Api::find_get(std::string_view path) {
    static constexpr std::array<Get, 6> kGets = {{{"/models", "models", &Api::models},
                                                  {"/health", "health", &Api::health},
                                                  {"/ready", "health", &Api::health},
                                                  {"/live", "live", &Api::live},
                                                  {"/metrics", "metrics", &Api::metrics},
                                                  {"/version", "version", &Api::version}}};
    const auto at = std::find_if(kGets.begin(), kGets.end(), [&](const Get& get) { return get.path == path; });
    return at == kGets.end() ? nullptr : &*at;
}

Api::Api(Setup setup)
    : setup_(std::move(setup)),
      intake_({.options = setup_.options,
               .models = setup_.models,
               .hash_key = setup_.hash_key,
               .table = setup_.table,
               .source = setup_.source,
               .rewriters = setup_.rewriters,
               .metrics = setup_.metrics,
               .clock = setup_.clock,
               .post = setup_.post,
               .post_text = setup_.post_text,
               .wake = setup_.wake,
               .version = setup_.version}),
      started_unix_s_(setup_.clock.unix_us() / 1'000'000) {}

void Api::handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
    const std::string* given_id = request.head.field("x-request-id");
    const std::string request_id =
        given_id != nullptr && is_request_id(*given_id) ? *given_id : intake_.random_id("req-");
    std::string_view path = request.head.path;
    if (path.starts_with("/v1/")) { path.remove_prefix(3); }

    const auto endpoint =
        std::find_if(kEndpoints.begin(), kEndpoints.end(), [&](const EndpointForm& one) { return one.path == path; });
    const bool is_post = endpoint != kEndpoints.end();
    const Get* const get = find_get(path);
    const bool is_model = path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size();
    if (!is_post && get == nullptr && !is_model) {
        respond(*exchange, kNoModel, "other", error_response(no_such_route(path)), request_id);
        return;
    }
    const std::string_view name = is_post ? endpoint->name : is_model ? "models" : get->name;
    const std::vector<std::string> allowed =
        is_post ? std::vector<std::string>{"POST", "OPTIONS"} : std::vector<std::string>{"GET", "HEAD", "OPTIONS"};
    const std::string& method = request.head.method;
    if (method == "OPTIONS") {
        HttpResponse response{
            .status = 204, .fields = {{"Allow", is_post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS"}}, .body = {}};
        respond(*exchange, kNoModel, name, std::move(response), request_id);
    } else if (std::find(allowed.begin(), allowed.end(), method) == allowed.end()) {
        respond(*exchange, kNoModel, name, error_response(method_not_allowed(method, allowed)), request_id);
    } else if (is_post) {
        intake_.take(endpoint->endpoint, std::move(request), exchange, request_id);
    } else if (is_model) {
        path.remove_prefix(kModelPrefix.size());
        auto found = model(path);
        const std::string_view label = found ? kNoModel : GatewayMetrics::kOtherModel;
        respond(*exchange, label, name, found ? std::move(*found) : error_response(no_such_model(path)), request_id);
    } else {
        respond(*exchange, kNoModel, name, (this->*get->answer)(), request_id);
    }
}

HttpResponse Api::models() const {
    std::vector<ModelEntry> entries;
    for (const auto& [name, model] : setup_.models.names()) {
        entries.push_back({.name = name, .context_tokens = setup_.table.cluster(model).context_tokens});
    }
    return json_response(models_json(entries, started_unix_s_));
}

std::optional<HttpResponse> Api::model(std::string_view name) const {
    const auto model = setup_.models.find(name);
    if (!model) { return std::nullopt; }
    return json_response(
        model_json({.name = name, .context_tokens = setup_.table.cluster(*model).context_tokens}, started_unix_s_));
}

HttpResponse Api::health() const {
    if (intake_.draining()) { return error_response(not_ready("the gateway is draining")); }
    std::string problems;
    bool all_ready = true;
    for (std::size_t model = 0; model < setup_.models.size(); ++model) {
        const std::string_view problem = problem_of(setup_.table.cluster(model));
        all_ready = all_ready && problem.empty();
        if (setup_.models.size() > 1) {
            problems += (model == 0 ? "" : "; ") + setup_.models[model].name + ": ";
            problems += problem.empty() ? "ready" : problem;
        } else {
            problems = problem;
        }
    }
    if (!all_ready) { return error_response(not_ready(std::move(problems))); }
    JsonWriter json;
    json.begin_object().key("status").string("ok");
    if (setup_.models.size() > 1) {
        json.key("models").begin_object();
        for (const ServedModel& model : setup_.models) {
            json.key(model.name).string("ready");
        }
        json.end_object();
    }
    return json_response(json.end_object().take());
}

HttpResponse Api::live() const {
    return json_response(R"({"status":"ok"})");
}

HttpResponse Api::version() const {
    return json_response(JsonWriter().begin_object().key("version").string(setup_.version).end_object().take());
}

HttpResponse Api::metrics() const {
    const HttpServer::Load load = setup_.load();
    setup_.metrics.connections(static_cast<double>(load.connections), static_cast<double>(load.send_buffer_bytes),
                               static_cast<double>(load.slow_clients));
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = setup_.metrics.registry().text();
    return response;
}

void Api::respond(Exchange& exchange, std::string_view model, std::string_view endpoint, HttpResponse response,
                  const std::string& request_id) {
    setup_.metrics.request_ended(model, endpoint, response.status, false);
    response.fields.emplace_back("x-request-id", request_id);
    exchange.respond(std::move(response));
}

}  // namespace gateway
