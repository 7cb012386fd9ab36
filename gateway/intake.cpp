#include "gateway/intake.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/embedding_answer.h"
#include "gateway/tenant.h"

namespace gateway {
namespace {

std::string lower(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return result;
}

constexpr std::size_t kShownBytesMax = 100;  // of what a client sent, in messages
constexpr char kNoClient[] = "(no client)";  // of the text threads' work, where the cache asks by itself

/// application/json, or a type that is JSON underneath (application/vnd.api+json), with any parameters.
bool is_json(std::string_view type) {
    std::string plain = lower(type.substr(0, type.find(';')));
    plain.erase(plain.find_last_not_of(" \t") + 1);
    constexpr std::string_view kFamily = "application/";
    constexpr std::string_view kSuffix = "+json";
    return plain == "application/json" ||
           (plain.starts_with(kFamily) && plain.ends_with(kSuffix) && plain.size() > kFamily.size() + kSuffix.size());
}

std::string_view outcome_of(unsigned status, bool draining) {
    switch (status) {
        case 429:
            return "rejected_capacity";
        case 503:
            return draining ? "rejected_draining" : "rejected_unavailable";
        case 504:
            return "rejected_timeout";
        default:
            return "rejected_invalid";
    }
}

}  // namespace

Intake::Intake(Setup setup)
    : setup_(std::move(setup)),
      stages_({.models = setup_.models,
               .limits = setup_.options.form,
               .hash_key = setup_.hash_key,
               .rewriters = setup_.rewriters,
               .prefix_tokens_max = setup_.options.prefix_tokens_max,
               .tenants_share_prefixes = setup_.options.tenants_share_prefixes}),
      tenant_tokens_(setup_.metrics.registry(), setup_.options.tenants_named_max) {
    if (setup_.keys != nullptr) { tenant_tokens_.set_tenants(setup_.keys->tenants()); }
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    random_.seed(seed);
    if (setup_.cache != nullptr) {
        setup_.cache->prepares([this](const std::string& tenant, auto make, auto done) {
            prepare_form(tenant, std::move(make), std::move(done));
        });
    }
}

Intake::~Intake() {
    CHECK(answers_.empty(), answers_.size() << " requests were never answered");
}

ApiResult<void> Intake::admit_body(const HttpRequest& request) const {
    if (draining_) { return pass_on(not_ready("the gateway is draining")); }
    if (const std::string* encoding = request.head.field("content-encoding");
        encoding != nullptr && lower(*encoding) != "identity") {
        return pass_on({.status = 415, .message = "Content-Encoding is not supported"});
    }
    // Also where none is named: a browser sends a page's request to another site without asking that site first unless
    // its type is one that no form has.
    const std::string* type = request.head.only_field("content-type");
    if (type == nullptr || !is_json(*type)) {
        ApiError error{.status = 415,
                       .message =
                           "the body must be JSON and the request must say so with the one header field "
                           "'Content-Type: application/json' (curl: -H 'Content-Type: application/json')"};
        if (type != nullptr) { error.message += "; it says '" + type->substr(0, kShownBytesMax) + "'"; }
        error.code = "unsupported_content_type";
        return pass_on(std::move(error));
    }
    if (in_flight_ >= setup_.options.inflight_requests_max) {
        return pass_on(api_error({base::ErrorCode::resource_exhausted, "too many requests are in work"}, 1000));
    }
    return {};
}

ApiResult<void> Intake::count(RequestTag& tag) const {
    if (!tag.key) { return {}; }
    auto quota = setup_.keys->open_request(*tag.key);
    if (!quota) { return pass_on(quota.error()); }
    tag.quota = std::move(*quota);
    return {};
}

ApiResult<std::string> Intake::admit(const HttpRequest& request, RequestTag& tag) const {
    if (auto admitted = admit_body(request); !admitted) { return pass_on(admitted.error()); }
    const auto& clusters = setup_.table.clusters();
    if (!clusters.front().known) { return pass_on(not_ready("the scheduler has not answered yet")); }
    if (std::all_of(clusters.begin(), clusters.end(), [](const auto& one) { return one.context_tokens == 0; })) {
        return pass_on(not_ready(std::string(no_workers_of(setup_.models[0].kind))));
    }
    if (auto counted = count(tag); !counted) { return pass_on(counted.error()); }
    return tag.key ? tag.key->tenant : tenant_of(request.head, setup_.options.tenant_header);
}

ApiResult<void> Intake::admit_text(const HttpRequest& request, RequestTag& tag) const {
    if (auto admitted = admit_body(request); !admitted) { return admitted; }
    return count(tag);
}

ApiResult<void> Intake::admit_prepared(const PreparedRequest& prepared, const RequestSlo& slo,
                                       const Waiting& waiting) const {
    const RequestTag& tag = waiting.tag;
    if (!tag.key) { return {}; }
    if (!tag.key->allows_model(setup_.models[prepared.form.model].name)) {
        return pass_on(no_such_model(prepared.form.model_name));
    }
    const std::string& slo_class = setup_.options.slo[slo.class_index].name;
    if (!tag.key->allows_slo_class(slo_class)) {
        ApiError error{.status = 403, .message = "this API key may not ask for the SLO class '" + slo_class + "'"};
        error.code = "permission_denied";
        return pass_on(std::move(error));
    }
    std::uint64_t tokens = 0;
    for (const auto& prompt : prepared.prompts) {
        tokens += prompt.tokens->size() + std::uint64_t{prepared.form.n} * prepared.new_tokens_max;
    }
    if (const auto refusal = tag.quota->reserve(tokens, setup_.clock.now())) {
        return pass_on(setup_.keys->quota_error(*refusal));
    }
    return {};
}

void Intake::refuse(const ApiError& error, Exchange& exchange, const RequestTag& tag, RequestEnd end) {
    setup_.metrics.admission(end.model, error.is_quota ? "rejected_quota" : outcome_of(error.status, draining_));
    end.status = error.status;
    setup_.log.ended(tag, end);
    HttpResponse response = error_response(error, tag.style);
    add_fields(response.fields, answer_fields(tag, setup_.clock.now()));
    exchange.respond(std::move(response));
}

void Intake::take(Endpoint endpoint, HttpRequest request, const std::shared_ptr<Exchange>& exchange, RequestTag tag) {
    auto tenant = admit(request, tag);
    if (!tenant) {
        refuse(tenant.error(), *exchange, tag,
               {.endpoint = form_of(endpoint).name,
                .model = GatewayMetrics::kNoModel,
                .stream = seems_to_ask_for_stream(request.body)});
        return;
    }
    if (setup_.cache != nullptr && form_of(endpoint).kind == ModelKind::text) {
        auto ask = ResponseCache::ask(request.head);
        if (!ask) {
            refuse(ask.error(), *exchange, tag,
                   {.endpoint = form_of(endpoint).name,
                    .model = GatewayMetrics::kNoModel,
                    .stream = seems_to_ask_for_stream(request.body)});
            return;
        }
        tag.cache = std::move(*ask);
    }
    auto slo = SloClasses::wish_of(request.head);
    if (!slo) {
        refuse(slo.error(), *exchange, tag,
               {.endpoint = form_of(endpoint).name,
                .model = GatewayMetrics::kNoModel,
                .stream = seems_to_ask_for_stream(request.body)});
        return;
    }
    ++in_flight_;
    setup_.metrics.in_flight(GatewayMetrics::kNoModel, 1);
    const std::string payer = request.payer();
    const std::size_t bytes = request.body.size();
    setup_.post_text(
        payer, bytes,
        [this,
         waiting = Waiting{.endpoint = endpoint,
                           .exchange = exchange,
                           .tag = std::move(tag),
                           .tenant = std::move(*tenant),
                           .slo = std::move(*slo),
                           .bytes = std::move(request.bytes)},
         body = std::move(request.body), clusters = setup_.table.clusters(),
         now_unix_s = setup_.clock.unix_us() / 1'000'000] {
            auto output = std::make_shared<Stages::Output>(run_stages(
                waiting,
                {.endpoint = waiting.endpoint,
                 .body = body,
                 .clusters = clusters,
                 .now_unix_s = now_unix_s,
                 .who = {.tenant = waiting.tenant, .key = waiting.tag.key.get(), .cache = waiting.tag.cache.get()}}));
            setup_.post([this, output, waiting] { prepared(std::move(*output), waiting); });
        });
}

void Intake::prepare_form(const std::string& tenant, std::function<RequestForm()> make,
                          std::function<void(ApiResult<PreparedRequest>)> done) {
    if (draining_) { return; }  // the cache's stop() ends what waits for it
    setup_.post_text(kNoClient, 0,
                     [this, tenant, make = std::move(make), done = std::move(done), clusters = setup_.table.clusters(),
                      now_unix_s = setup_.clock.unix_us() / 1'000'000] {
                         RequestForm form = make();
                         const Endpoint endpoint = form.endpoint;
                         auto prepared = std::make_shared<ApiResult<PreparedRequest>>(
                             stages_.prepare(std::move(form), {.endpoint = endpoint,
                                                               .body = {},
                                                               .clusters = clusters,
                                                               .now_unix_s = now_unix_s,
                                                               .who = {.tenant = tenant}}));
                         setup_.post([done, prepared] { done(std::move(*prepared)); });
                     });
}

void Intake::take_text(const TextRouteForm& route, HttpRequest request, const std::shared_ptr<Exchange>& exchange,
                       RequestTag tag) {
    if (const auto admitted = admit_text(request, tag); !admitted) {
        refuse(admitted.error(), *exchange, tag, {.endpoint = route.name, .model = GatewayMetrics::kNoModel});
        return;
    }
    ++in_flight_;
    setup_.metrics.in_flight(GatewayMetrics::kNoModel, 1);
    const std::string payer = request.payer();
    const std::size_t bytes = request.body.size();
    setup_.post_text(
        payer, bytes,
        [this, route, exchange, tag = std::move(tag), body = std::move(request.body), hold = std::move(request.bytes),
         clusters = setup_.table.clusters(), now_unix_s = setup_.clock.unix_us() / 1'000'000] {
            auto answer = std::make_shared<TextAnswer>(
                draining_ ? TextAnswer{std::nullopt, pass_on(not_ready("the gateway is draining"))}
                          : answer_text(route.route, body,
                                        {.limits = setup_.options.form,
                                         .models = setup_.models,
                                         .clusters = clusters,
                                         .now_unix_s = now_unix_s}));
            setup_.post([this, answer, route, exchange, tag, hold] { text_answered(*answer, route, *exchange, tag); });
        });
}

void Intake::text_answered(const TextAnswer& answer, const TextRouteForm& route, Exchange& exchange,
                           const RequestTag& tag) {
    setup_.metrics.in_flight(GatewayMetrics::kNoModel, -1);
    leave();
    RequestEnd end{
        .endpoint = route.name,
        .model = answer.model ? std::string_view(setup_.models[*answer.model].name) : GatewayMetrics::kNoModel,
        .status = exchange.is_gone() ? 499u : 200u};
    if (!answer.json && !exchange.is_gone()) {
        if (answer.json.error().code == "model_not_found") { end.model = GatewayMetrics::kOtherModel; }
        refuse(answer.json.error(), exchange, tag, end);
        return;
    }
    setup_.log.ended(tag, end);
    if (answer.json) {
        exchange.respond({.status = 200, .fields = answer_fields(tag, setup_.clock.now()), .body = *answer.json});
    }
}

Stages::Output Intake::run_stages(const Waiting& waiting, const Stages::Input& input) const {
    const auto refuse_unread = [&](ApiError error) -> Stages::Output {
        return {std::nullopt, seems_to_ask_for_stream(input.body), pass_on(std::move(error))};
    };
    if (draining_) { return refuse_unread(not_ready("the gateway is draining")); }
    if (setup_.clock.now() >= waiting.tag.received_at + setup_.options.request_timeout) {
        const base::Error late{base::ErrorCode::deadline_exceeded, "the request waited too long to be prepared"};
        return refuse_unread(api_error(late, 0));
    }
    Stages::Output output = stages_.run(input);
    if (setup_.cache != nullptr && waiting.tag.cache && output.prepared) {
        const std::size_t model = output.prepared->form.model;
        setup_.cache->name(*waiting.tag.cache, *output.prepared, waiting.tenant, input.clusters, model);
    }
    return output;
}

void Intake::prepared(Stages::Output output, Waiting waiting) {
    ApiResult<PreparedRequest>& result = output.prepared;
    std::string_view model = output.model ? setup_.models[*output.model].name : GatewayMetrics::kNoModel;
    setup_.metrics.in_flight(GatewayMetrics::kNoModel, -1);
    if (waiting.exchange->is_gone()) {
        leave();
        if (output.model) { setup_.metrics.of(*output.model).cancelled("queued", "client_gone"); }
        setup_.log.ended(
            waiting.tag,
            {.endpoint = form_of(waiting.endpoint).name, .model = model, .status = 499, .stream = output.stream});
        return;
    }
    if (result) { waiting.tag.routed = result->form.routed; }
    if (result && !result->form.request_id.empty() && waiting.tag.id.starts_with("req-")) {
        waiting.tag.id = result->form.request_id;
    }
    if (result && draining_) {
        result = pass_on(not_ready("the gateway is draining"));
    } else if (result && !setup_.source.has_room(sequences_of(*result))) {
        result = pass_on(api_error({base::ErrorCode::resource_exhausted, "too many sequences are in work"}, 1000));
    }
    RequestSlo slo;
    if (result) {
        if (auto resolved = setup_.options.slo.resolve(result->form.slo, waiting.slo)) {
            slo = std::move(*resolved);
            CacheAsk* const cache = waiting.tag.cache.get();
            // Its tokens may be others than those of a request that allows no loss.
            if (slo.allow_lossy_kv && cache != nullptr && cache->refused.empty()) { cache->refused = "lossy-kv"; }
        } else {
            result = pass_on(resolved.error());
        }
    }
    if (result) {
        if (const auto allowed = admit_prepared(*result, slo, waiting); !allowed) { result = pass_on(allowed.error()); }
    }
    if (!result) {
        leave();
        if (result.error().code == "model_not_found") { model = GatewayMetrics::kOtherModel; }
        refuse(result.error(), *waiting.exchange, waiting.tag,
               {.endpoint = form_of(waiting.endpoint).name, .model = model, .stream = output.stream});
        return;
    }
    if (setup_.options.usage_in_streams && result->form.stream) { result->form.include_usage = true; }
    setup_.metrics.in_flight(model, 1);
    const std::shared_ptr<ClientAnswer> answer = make_answer(std::move(*result), std::move(slo), waiting);
    answers_.emplace(answer.get(), answer);
    waiting.exchange->on_gone([weak = std::weak_ptr<ClientAnswer>(answer)](std::string_view cause) {
        if (const auto one = weak.lock()) { one->client_gone(cause); }
    });
    answer->start();
}

std::size_t Intake::sequences_of(const PreparedRequest& prepared) const {
    if (prepared.form.endpoint != Endpoint::embeddings) { return Answer::sequences(prepared); }
    return EmbeddingAnswer::texts_first(prepared, setup_.options.embedding_texts_at_once);
}

std::shared_ptr<ClientAnswer> Intake::make_answer(PreparedRequest prepared, RequestSlo slo, const Waiting& waiting) {
    if (prepared.form.endpoint != Endpoint::embeddings) {
        return make_text_answer(std::move(prepared), std::move(slo), waiting);
    }
    return std::make_shared<EmbeddingAnswer>(
        EmbeddingAnswer::Setup{.source = setup_.source,
                               .metrics = setup_.metrics,
                               .clock = setup_.clock,
                               .wake = setup_.wake,
                               .prepared = std::move(prepared),
                               .exchange = waiting.exchange,
                               .tag = waiting.tag,
                               .log = setup_.log,
                               .tenant = waiting.tenant,
                               .tenant_tokens = &tenant_tokens_,
                               .request_timeout = setup_.options.request_timeout,
                               .texts_at_once = setup_.options.embedding_texts_at_once,
                               .done = [this](ClientAnswer& one) { done(one); }});
}

std::shared_ptr<ClientAnswer> Intake::make_text_answer(PreparedRequest prepared, RequestSlo slo,
                                                       const Waiting& waiting) {
    const RequestForm& form = prepared.form;
    const std::size_t model = form.model;
    AnswerHeader header{.endpoint = waiting.endpoint,
                        .id = random_id(form_of(waiting.endpoint).id_prefix),
                        .created = setup_.clock.unix_us() / 1'000'000,
                        .model = form.model_name,
                        .fingerprint = fingerprint(model),
                        .older_calls = form.tools.is_older_form,
                        .one_call_asked = form.tools.choice == ToolsForm::Choice::named,
                        .usage_null = form.stream && form.include_usage,
                        .reasoning = setup_.options.reasoning_fields};
    const std::uint64_t seed = form.seed.value_or(random_());
    const base::Duration ping = !form.ping_interval_s        ? setup_.options.ping_interval
                                : *form.ping_interval_s <= 0 ? base::Duration::zero()
                                                             : std::chrono::seconds(*form.ping_interval_s);
    return std::make_shared<Answer>(Answer::Setup{.source = setup_.source,
                                                  .text = *setup_.models[model].text,
                                                  .metrics = setup_.metrics,
                                                  .clock = setup_.clock,
                                                  .wake = setup_.wake,
                                                  .prepared = std::move(prepared),
                                                  .exchange = waiting.exchange,
                                                  .header = std::move(header),
                                                  .tag = waiting.tag,
                                                  .log = setup_.log,
                                                  .timelines = setup_.timelines,
                                                  .tenant = waiting.tenant,
                                                  .tenant_tokens = &tenant_tokens_,
                                                  .slo = std::move(slo),
                                                  .request_timeout = setup_.options.request_timeout,
                                                  .ping_interval = ping,
                                                  .seed = seed,
                                                  .done = [this](ClientAnswer& one) { done(one); }});
}

void Intake::done(ClientAnswer& answer) {
    const auto at = answers_.find(&answer);
    CHECK(at != answers_.end());
    leave();
    setup_.metrics.in_flight(setup_.models[answer.model()].name, -1);
    // Its own calls are still on the stack.
    setup_.post([kept = std::move(at->second)] {});
    answers_.erase(at);
}

void Intake::leave() {
    --in_flight_;
    if (drain_progress_) { drain_progress_(); }
}

std::optional<base::TimePoint> Intake::tick(base::TimePoint now) {
    if (setup_.keys != nullptr) { tenant_tokens_.set_tenants(setup_.keys->tenants()); }
    std::optional<base::TimePoint> next;
    for (auto one = answers_.begin(); one != answers_.end();) {
        const std::shared_ptr<ClientAnswer> answer = (one++)->second;  // it may end here, and leave
        const auto at = answer->tick(now);
        if (at && (!next || *at < *next)) { next = at; }
    }
    return next;
}

void Intake::give_up_all() {
    std::vector<std::shared_ptr<ClientAnswer>> all;
    for (const auto& [key, answer] : answers_) {
        all.push_back(answer);
    }
    for (const auto& answer : all) {
        answer->give_up(not_ready("the gateway is shutting down"), "drain");
    }
}

std::string Intake::fingerprint(std::size_t model) const {
    char text[64];
    std::snprintf(text, sizeof text, "b%s-%016llx", setup_.version.substr(0, 20).c_str(),
                  static_cast<unsigned long long>(setup_.table.cluster(model).numerics_id));
    return text;
}

std::string Intake::random_id(std::string_view prefix) {
    static constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    std::string id(prefix);
    std::uniform_int_distribution<std::size_t> pick(0, kAlphabet.size() - 1);
    for (int count = 0; count < 24; ++count) {
        id += kAlphabet[pick(random_)];
    }
    return id;
}

}  // namespace gateway
