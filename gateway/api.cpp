#include "gateway/api.h"

#include <algorithm>
#include <array>
#include <utility>

#include "gateway/cache/cache_route.h"
#include "gateway/explain/explain_route.h"
#include "gateway/http/ready_parts.h"
#include "gateway/openai/json_writer.h"
#include "gateway/page/page.h"
#include "gateway/tenant.h"

namespace gateway {
namespace {

constexpr std::string_view kModelPrefix = "/models/";
constexpr std::string_view kResponsePrefix = "/responses/";
constexpr std::string_view kNoModel = GatewayMetrics::kNoModel;
constexpr std::array<std::string_view, 2> kResetPaths = {"/reset_prefix_cache", "/flush_cache"};  // vLLM's, SGLang's
constexpr std::string_view kResetName = "reset_prefix_cache";
constexpr base::Duration kResetTimeout = std::chrono::seconds(10);
constexpr std::size_t kShownBytesMax = 200;  // of what a client sent, in messages

bool is_request_id(std::string_view text) {
    return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._:-").find(c) != std::string_view::npos;
    });
}

SessionHints hints_of(const RequestHead& head) {
    const auto text = [&head](std::string_view field) {
        const std::string* value = head.field(field);
        return value == nullptr ? std::string() : value->substr(0, SessionHints::kNameBytesMax);
    };
    SessionHints hints{.session = text("x-session-id"), .parent = text("x-parent-id")};
    const std::string last = text("x-session-final");
    hints.ends = last == "true" || last == "1";
    return hints;
}

HttpResponse json_response(std::string body) {
    HttpResponse response;
    response.body = std::move(body);
    return response;
}

/// What stands between a model and its first answer; empty: nothing.
std::string_view problem_of(const ClusterView& cluster, ModelKind kind) {
    if (cluster.ready) { return ""; }
    return cluster.known ? no_workers_of(kind) : "the scheduler has not answered yet";
}

ReadyParts ready_parts(const Models& models, const RequestTable& table, bool is_draining) {
    ReadyParts parts{
        {.name = "requests", .is_ready = !is_draining, .words = is_draining ? "the gateway is draining" : "taken"}};
    for (std::size_t model = 0; model < models.size(); ++model) {
        const std::string_view problem = problem_of(table.cluster(model), models[model].kind);
        parts.push_back({.name = "model " + models[model].name,
                         .is_ready = problem.empty(),
                         .words = problem.empty() ? "its workers are there" : std::string(problem)});
    }
    return parts;
}

/// How much of /health and /ready somebody is told.
enum class Told { state, models, parts };
/// Who has no key where there are keys learns the state alone; parts are for who may read metrics.
Told told_of_health(const KeyKeeper* keys, const RequestHead& head, std::string_view route) {
    const KeyKeeper::Key key = keys == nullptr ? nullptr : keys->find(head);
    if (keys != nullptr && key == nullptr) { return Told::state; }
    const bool may_know = keys == nullptr || key->allows("admin");
    return route == "/ready" && may_know && asks_for_parts(head.query) ? Told::parts : Told::models;
}

HttpResponse state_answer(const ReadyParts& parts) {
    if (!are_ready(parts)) { return error_response(not_ready("not ready")); }
    return json_response(R"({"status":"ok"})");
}

HttpResponse parts_answer(const ReadyParts& parts) {
    HttpResponse response;
    response.status = are_ready(parts) ? 200 : 503;
    response.content_type = "text/plain; charset=utf-8";
    response.body = ready_text(parts);
    return response;
}

ApiError no_such_route(std::string_view path) {
    std::string message = "no such route: " + std::string(path.substr(0, kShownBytesMax));
    if (path.starts_with("/v1/v1/")) { message += " (does the base URL end in /v1 where the client adds it?)"; }
    ApiError error{.status = 404, .message = std::move(message)};
    error.code = "not_found";
    return error;
}

/// A 400 and no 404: proxies that meet a 404 take the whole server out of service.
ApiError not_built_yet(std::string_view path, std::string_view route) {
    ApiError error{.status = 400, .message = std::string(path.substr(0, kShownBytesMax))};
    error.message += BatchDesk::is_route(route)
                         ? " is not served here: the setting batch.file names no file for files and batches"
                         : " is not supported by this server yet";
    error.code = "not_supported";
    return error;
}

ApiError no_such_response(std::string_view route) {
    ApiError error;
    error.status = 404;
    error.message = "the response '" + std::string(route.substr(kResponsePrefix.size(), kShownBytesMax)) +
                    "' does not exist: this server stores no responses";
    error.code = "response_not_found";
    return error;
}

/// The first words of routes that clients of OpenAI's API, and of those that go with it (Anthropic's messages, rerank),
/// know and that are not built; whatever follows them belongs to them.
bool is_not_built_yet(std::string_view route) {
    static constexpr auto kWords =
        std::to_array<std::string_view>({"assistants",    "audio",    "batches",    "chat/completions",
                                         "classify",      "complete", "containers", "conversations",
                                         "edits",         "evals",    "files",      "fine-tunes",
                                         "fine_tuning",   "images",   "messages",   "moderations",
                                         "organization",  "pooling",  "realtime",   "rerank",
                                         "responses",     "score",    "threads",    "uploads",
                                         "vector_stores", "videos"});
    return std::any_of(kWords.begin(), kWords.end(), [&](std::string_view word) {
        const std::string_view rest = route.substr(1);
        return rest.starts_with(word) && (rest.size() == word.size() || rest[word.size()] == '/');
    });
}

/// A path as routes are written: one slash at a time, none at the end, without the version.
std::string route_of(std::string_view path) {
    std::string route;
    for (const char c : path) {
        if (c != '/' || !route.ends_with('/')) { route += c; }
    }
    while (route.size() > 1 && route.ends_with('/')) {
        route.pop_back();
    }
    for (const std::string_view version : {"/v1/", "/v2/rerank"}) {
        if (route.starts_with(version)) {
            route.erase(0, 3);
            break;
        }
    }
    return route;
}

ApiError method_not_allowed(const std::string& method, std::string_view path, std::vector<std::string> allowed) {
    ApiError error{.status = 405,
                   .message = "method " + method + " is not allowed at " + std::string(path.substr(0, kShownBytesMax))};
    error.code = "method_not_allowed";
    error.allow = std::move(allowed);
    return error;
}

/// What stands behind the first `part` in `text`; empty where it is not in it.
std::string_view after(std::string_view text, std::string_view part) {
    const auto at = text.find(part);
    return at == std::string_view::npos ? std::string_view() : text.substr(at + part.size());
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) {
        text += (text.empty() ? "" : ", ") + word;
    }
    return text;
}

}  // namespace

/// A route that is answered at once.
struct Api::Get {
    std::string_view path;   // without /v1
    std::string_view name;   // in metrics
    std::string_view scope;  // that a key needs; empty: everybody may ask
    HttpResponse (Api::*answer)(const ApiKey*) const;
};

const Api::Get* Api::find_get(std::string_view path) {
    static constexpr std::array<Get, 11> kGets = {
        {{"/models", "models", "models", &Api::models},
         {"/health", "health", "", &Api::health},
         {"/ready", "health", "", &Api::health},
         {"/live", "live", "", &Api::live},
         {"/metrics", "metrics", "admin", &Api::metrics},
         {"/version", "version", "models", &Api::version},
         {"/server_info", "server_info", "admin", &Api::server_info},
         {"/get_server_info", "server_info", "admin", &Api::server_info},
         {"/model_info", "model_info", "models", &Api::model_info},
         {"/get_model_info", "model_info", "models", &Api::model_info},
         {"/tokenizer_info", "tokenizer_info", "models", &Api::tokenizer_info}}};
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
               .log = setup_.log,
               .timelines = setup_.timelines,
               .clock = setup_.clock,
               .post = setup_.post,
               .post_text = setup_.post_text,
               .wake = setup_.wake,
               .version = setup_.version,
               .keys = setup_.keys,
               .cache = setup_.cache}),
      started_unix_s_(setup_.clock.unix_us() / 1'000'000) {}

ErrorStyle Api::style_of(std::string_view path) {
    const std::string route = route_of(path);
    return route == "/messages" || route.starts_with("/messages/") ? ErrorStyle::anthropic : ErrorStyle::openai;
}

void Api::handle(HttpRequest request, std::shared_ptr<Exchange> exchange) {
    const RequestHead& head = request.head;
    const std::string* given_id = head.field("x-request-id");
    RequestTag tag{
        .method = head.method,
        .path = head.sent_path,
        .id = given_id != nullptr && is_request_id(*given_id) ? *given_id : intake_.random_id("req-"),
        .received_at = request.received_at,
        .style = style_of(head.path),
    };
    tag.hints = hints_of(head);
    if (setup_.options.capture.is_on()) {
        const std::string* session = head.field(setup_.options.capture.session_header);
        if (session != nullptr) { tag.session = session->substr(0, SessionHints::kNameBytesMax); }
    }
    const std::string route = route_of(head.path);

    const auto endpoint =
        std::find_if(kEndpoints.begin(), kEndpoints.end(), [&](const EndpointForm& one) { return one.path == route; });
    const auto text_route = std::find_if(kTextRoutes.begin(), kTextRoutes.end(),
                                         [&](const TextRouteForm& one) { return one.path == route; });
    const bool is_text = text_route != kTextRoutes.end();
    const bool is_reset = std::find(kResetPaths.begin(), kResetPaths.end(), route) != kResetPaths.end();
    const bool is_cache = is_cache_route(route);
    const bool is_post = endpoint != kEndpoints.end() || is_text || is_reset || route == kCachePurgePath;
    const Get* const get = find_get(route);
    const bool is_model = route.starts_with(kModelPrefix);
    const bool is_explain = route == kExplainPath || route.starts_with(std::string(kExplainPath) + "/");
    std::optional<HttpResponse> page = setup_.options.has_page ? page_file(route) : std::nullopt;
    const bool is_batch = batches_ != nullptr && BatchDesk::is_route(route);
    const bool is_known = is_post || get != nullptr || is_model || is_explain || is_cache || page || is_batch;
    const bool is_unbuilt = !is_known && is_not_built_yet(route);
    const std::string_view name = is_text          ? text_route->name
                                  : is_reset       ? kResetName
                                  : is_cache       ? "cache"
                                  : is_post        ? endpoint->name
                                  : is_model       ? "models"
                                  : is_explain     ? "explain"
                                  : get != nullptr ? get->name
                                  : page           ? "page"
                                  : is_batch       ? "batches"
                                  : is_unbuilt     ? "unbuilt"
                                                   : "other";
    std::vector<std::string> allowed{"GET", "HEAD", "OPTIONS"};
    if (is_post) { allowed = {"POST", "OPTIONS"}; }
    if (is_batch) { allowed = BatchDesk::methods_of(route); }
    if (!is_known) { allowed = {"GET", "HEAD", "POST", "OPTIONS"}; }
    const std::string methods = joined(allowed);
    const std::string_view scope = is_text          ? text_route->scope
                                   : is_reset       ? "admin"
                                   : is_explain     ? "admin"
                                   : is_cache       ? "admin"
                                   : is_post        ? endpoint->name
                                   : get != nullptr ? get->scope
                                   : page           ? ""
                                   : is_batch       ? "batches"
                                                    : "models";
    // Also for a path that gives an error then: the page could not read it otherwise.
    HttpFields preflight = setup_.cors.preflight_fields(head, methods);
    if (head.method == "OPTIONS" && (is_known || head.path == "*" || !preflight.empty())) {
        const bool is_of_server = head.path == "*";  // about no route: RFC 9110 has it answered with 200
        HttpResponse response{
            .status = is_of_server ? 200u : 204u, .content_type = "", .fields = std::move(preflight), .body = {}};
        response.fields.emplace_back("Allow", methods);
        respond(*exchange, tag, kNoModel, name, std::move(response));
    } else if (const auto admitted = admit(head, scope, tag); !admitted) {
        respond(*exchange, tag, kNoModel, name, error_response(admitted.error(), tag.style));
    } else if (route.starts_with(kResponsePrefix) && !is_known && route != "/responses/compact") {
        respond(*exchange, tag, kNoModel, form_of(Endpoint::responses).name, error_response(no_such_response(route)));
    } else if (is_unbuilt) {
        respond(*exchange, tag, kNoModel, name, error_response(not_built_yet(head.sent_path, route), tag.style));
    } else if (!is_known) {
        respond(*exchange, tag, kNoModel, name, error_response(no_such_route(head.sent_path), tag.style));
    } else if (std::find(allowed.begin(), allowed.end(), head.method) == allowed.end()) {
        respond(*exchange, tag, kNoModel, name,
                error_response(method_not_allowed(head.method, head.sent_path, std::move(allowed)), tag.style));
    } else if (is_reset) {
        reset_prefix_cache(exchange, tag);
    } else if (is_cache) {
        answer_cache(request, route, tag, setup_.cache, [this, exchange, tag](HttpResponse response) {
            respond(*exchange, tag, kNoModel, "cache", std::move(response));
        });
    } else if (is_text) {
        intake_.take_text(*text_route, std::move(request), exchange, std::move(tag));
    } else if (is_post) {
        tag.trace = begin_trace(head, setup_.tracing);
        intake_.take(endpoint->endpoint, std::move(request), exchange, std::move(tag));
    } else if (is_batch) {
        answer_batches(std::move(request), route, std::move(exchange), std::move(tag));
    } else if (is_explain) {
        respond(*exchange, tag, kNoModel, name, explain(request, route));
    } else if (page) {
        respond(*exchange, tag, kNoModel, name, std::move(*page));
    } else if (is_model) {
        const std::string_view asked = std::string_view(route).substr(kModelPrefix.size());
        auto found = model(asked, tag.key.get());
        // A name may begin with a slash, or hold two of them.
        if (!found) { found = model(after(head.path, kModelPrefix), tag.key.get()); }
        const std::string_view label = found ? kNoModel : GatewayMetrics::kOtherModel;
        respond(*exchange, tag, label, name, found ? std::move(*found) : error_response(no_such_model(asked)));
    } else if (get->answer == &Api::health) {
        const auto told = told_of_health(setup_.keys, head, route);
        const auto parts = [&] { return ready_parts(setup_.models, setup_.table, intake_.draining()); };
        respond(*exchange, tag, kNoModel, name,
                told == Told::state   ? state_answer(parts())
                : told == Told::parts ? parts_answer(parts())
                                      : health(nullptr));
    } else {
        respond(*exchange, tag, kNoModel, name, (this->*get->answer)(tag.key.get()));
    }
}

ApiResult<void> Api::admit(const RequestHead& head, std::string_view scope, RequestTag& tag) const {
    if (setup_.keys == nullptr || scope.empty()) { return {}; }
    auto key = setup_.keys->who(head);
    if (!key) { return pass_on(key.error()); }
    tag.key = std::move(*key);
    if (tag.key->allows(scope)) { return {}; }
    ApiError error{.status = 403,
                   .message = "this API key is not for " + head.method + " " +
                              head.sent_path.substr(0, kShownBytesMax) + ": it lacks the scope '" + std::string(scope) +
                              "'"};
    error.code = "permission_denied";
    return pass_on(std::move(error));
}

std::optional<base::TimePoint> Api::tick(base::TimePoint now) {
    if (setup_.keys == nullptr) { return intake_.tick(now); }
    const base::TimePoint look = setup_.keys->tick(now);
    const auto next = intake_.tick(now);
    return next ? std::min(*next, look) : look;
}

void Api::answer_batches(HttpRequest request, std::string_view route, std::shared_ptr<Exchange> exchange,
                         RequestTag tag) {
    const auto tenant =
        tag.key ? ApiResult<std::string>(tag.key->tenant) : tenant_of(request.head, setup_.options.tenant_header);
    if (!tenant) {
        respond(*exchange, tag, kNoModel, "batches", error_response(tenant.error()));
        return;
    }
    batches_->answer(std::move(request), route, tag, *tenant, [this, exchange, tag](HttpResponse response) {
        respond(*exchange, tag, kNoModel, "batches", std::move(response));
    });
}

HttpResponse Api::explain(const HttpRequest& request, std::string_view route) const {
    if (setup_.timelines == nullptr) { return error_response(no_such_route(request.head.sent_path)); }
    const auto answer = answer_explain(request, route, setup_.options.explain, *setup_.timelines);
    return answer ? json_response(*answer) : error_response(answer.error());
}

void Api::reset_prefix_cache(const std::shared_ptr<Exchange>& exchange, const RequestTag& tag) {
    if (!setup_.options.allow_reset_prefix_cache) {
        const ApiError error{
            .status = 403,
            .message = "prefix caches are reset only where the setting gateway.reset_prefix_cache is true",
            .code = "permission_denied"};
        respond(*exchange, tag, kNoModel, kResetName, error_response(error));
        return;
    }
    if (std::exchange(is_resetting_, true)) {
        respond(*exchange, tag, kNoModel, kResetName,
                error_response(api_error({base::ErrorCode::resource_exhausted, "a reset is running already"}, 1000)));
        return;
    }
    setup_.workers.drop_prefixes(kResetTimeout, [this, exchange, tag](const WorkerPort::Dropped& dropped) {
        is_resetting_ = false;
        if (dropped.answered < dropped.workers) {
            const base::Error late{base::ErrorCode::deadline_exceeded,
                                   std::to_string(dropped.workers - dropped.answered) + " of " +
                                       std::to_string(dropped.workers) + " workers have not dropped their prefixes"};
            respond(*exchange, tag, kNoModel, kResetName, error_response(api_error(late, 0)));
            return;
        }
        JsonWriter json;
        json.begin_object().key("status").string("ok");
        json.key("workers").integer(static_cast<std::int64_t>(dropped.workers));
        json.key("blocks").integer(static_cast<std::int64_t>(dropped.blocks));
        respond(*exchange, tag, kNoModel, kResetName, json_response(json.end_object().take()));
    });
}

HttpResponse Api::models(const ApiKey* key) const {
    std::vector<ModelEntry> entries;
    for (const auto& [name, model] : setup_.models.names()) {
        if (key != nullptr && !key->allows_model(setup_.models[model].name)) { continue; }
        entries.push_back({.name = name, .context_tokens = setup_.table.cluster(model).context_tokens});
    }
    return json_response(models_json(entries, started_unix_s_));
}

std::optional<HttpResponse> Api::model(std::string_view name, const ApiKey* key) const {
    const auto model = setup_.models.find(name);
    if (!model || (key != nullptr && !key->allows_model(setup_.models[*model].name))) { return std::nullopt; }
    return json_response(
        model_json({.name = name, .context_tokens = setup_.table.cluster(*model).context_tokens}, started_unix_s_));
}

HttpResponse Api::health(const ApiKey*) const {
    if (intake_.draining()) { return error_response(not_ready("the gateway is draining")); }
    std::string problems;
    bool all_ready = true;
    for (std::size_t model = 0; model < setup_.models.size(); ++model) {
        const std::string_view problem = problem_of(setup_.table.cluster(model), setup_.models[model].kind);
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
            json.any_key(model.name).string("ready");
        }
        json.end_object();
    }
    return json_response(json.end_object().take());
}

HttpResponse Api::server_info(const ApiKey*) const {
    JsonWriter json;
    json.begin_object().key("version").string(setup_.version);
    json.key("started").integer(started_unix_s_);
    json.key("draining").boolean(intake_.draining());
    json.key("models").begin_array();
    for (std::size_t model = 0; model < setup_.models.size(); ++model) {
        json.begin_object();
        write_model_info(json, model);
        json.key("ready").boolean(setup_.table.cluster(model).ready);
        json.key("names").begin_array();
        for (const auto& [name, of] : setup_.models.names()) {
            if (of == model) { json.string(name); }
        }
        json.end_array().end_object();
    }
    json.end_array().key("limits").begin_object();
    json.key("inflight_requests_max").integer(static_cast<std::int64_t>(setup_.options.inflight_requests_max));
    json.key("sequences_max").integer(static_cast<std::int64_t>(setup_.options.request.generations_max));
    json.key("body_bytes_max").integer(static_cast<std::int64_t>(setup_.options.http.limits.body_bytes_max));
    json.key("text_bytes_max").integer(static_cast<std::int64_t>(setup_.options.form.text_bytes_max));
    json.key("n_max").integer(setup_.options.form.n_max);
    return json_response(json.end_object().end_object().take());
}

HttpResponse Api::model_info(const ApiKey*) const {
    JsonWriter json;
    json.begin_object();
    write_model_info(json, 0);
    return json_response(json.end_object().take());
}

void Api::write_model_info(JsonWriter& json, std::size_t model) const {
    const ServedModel& served = setup_.models[model];
    const std::uint32_t context_tokens = setup_.table.cluster(model).context_tokens;
    // The names that SGLang's clients look for hold no paths here: where files lie is the operator's business.
    json.key("model_path").string(served.name).key("tokenizer_path").string(served.name);
    json.key("is_generation").boolean(true);
    json.key("max_model_len");
    context_tokens > 0 ? json.integer(context_tokens) : json.null();
    json.key("vocab_size").integer(served.text->vocabulary());
    json.key("takes_tools").boolean(served.text->takes_tools());
    const SamplingDefaults& defaults = served.text->sampling_defaults();
    json.key("preferred_sampling_params").begin_object();
    const auto write = [&](std::string_view name, const std::optional<double>& value) {
        if (value) { json.key(name).number(static_cast<float>(*value)); }
    };
    write("temperature", defaults.temperature);
    write("top_p", defaults.top_p);
    write("min_p", defaults.min_p);
    write("repetition_penalty", defaults.repetition_penalty);
    if (defaults.top_k) { json.key("top_k").integer(*defaults.top_k); }
    json.end_object();
}

HttpResponse Api::tokenizer_info(const ApiKey*) const {
    const ServedModel& model = setup_.models[0];
    const std::uint32_t context_tokens = setup_.table.cluster(0).context_tokens;
    JsonWriter json;
    json.begin_object().key("tokenizer_class").string("sluice");
    json.key("model").string(model.name);
    for (const auto& [name, text] : model.text->named_tokens()) {
        json.any_key(name).string(text);
    }
    json.key("eos_token_ids").begin_array();
    for (const base::TokenId token : model.text->eos_ids()) {
        json.integer(token);
    }
    json.end_array().key("vocab_size").integer(model.text->vocabulary());
    json.key("model_max_length");
    context_tokens > 0 ? json.integer(context_tokens) : json.null();
    return json_response(json.end_object().take());
}

HttpResponse Api::live(const ApiKey*) const {
    return json_response(R"({"status":"ok"})");
}

HttpResponse Api::version(const ApiKey*) const {
    return json_response(JsonWriter().begin_object().key("version").string(setup_.version).end_object().take());
}

void Api::refresh_metrics() const {
    if (setup_.cache != nullptr) { setup_.cache->refresh_metrics(); }
    setup_.metrics.refresh(setup_.clock.now());
    const HttpServer::Load load = setup_.load();
    setup_.metrics.connections(static_cast<double>(load.connections), static_cast<double>(load.send_buffer_bytes),
                               static_cast<double>(load.slow_clients));
}

HttpResponse Api::metrics(const ApiKey*) const {
    refresh_metrics();
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = setup_.metrics.registry().text();
    return response;
}

void Api::respond(Exchange& exchange, const RequestTag& tag, std::string_view model, std::string_view endpoint,
                  HttpResponse response) {
    setup_.log.ended(tag, {.endpoint = endpoint, .model = model, .status = response.status});
    add_fields(response.fields, answer_fields(tag, setup_.clock.now()));
    exchange.respond(std::move(response));
}

}  // namespace gateway
