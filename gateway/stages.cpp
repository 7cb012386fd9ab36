#include "gateway/stages.h"

#include <utility>

#include "gateway/anthropic/messages_form.h"
#include "gateway/cache/routed_ask.h"
#include "gateway/openai/embedding_form.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/responses_form.h"

namespace gateway {
namespace {

/// Who finds what was cached of a prompt: whoever has this name, and nobody else. Requests of nobody in particular
/// share theirs. `salt`: the request's own part of it. A tenant's name holds no line feed, so no two of them become
/// one.
std::string scope_of(std::string_view tenant, const std::string& salt) {
    if (tenant.empty() || tenant == "default") { return salt; }
    std::string scope = "tenant:" + std::string(tenant);
    if (!salt.empty()) { scope += "\n" + salt; }
    return scope;
}

/// A model of one kind was asked for what another kind gives.
ApiError wrong_kind(const RequestForm& form, const Models& models) {
    const bool wants_vectors = form_of(form.endpoint).kind == ModelKind::vectors;
    ApiError error{.status = 400, .message = "the model '" + form.model_name.substr(0, 200) + "' "};
    error.message += wants_vectors ? "makes text and no embeddings" : "gives embeddings and no text";
    error.param = "model";
    if (const auto other = models.first_of(form_of(form.endpoint).kind)) {
        error.message += "; served here is '" + models[*other].name + "', for one that does";
    } else {
        error.message += wants_vectors ? "; no model that does is served here" : "; ask /v1/embeddings";
    }
    return error;
}

}  // namespace

ApiError not_ready(std::string message) {
    ApiError error{.status = 503, .message = std::move(message)};
    error.code = "unavailable";
    error.retry_after_s = 1;
    return error;
}

std::string_view no_workers_of(ModelKind kind) {
    return kind == ModelKind::vectors ? "no workers that encode" : "no workers for both phases";
}

Stages::Stages(Setup setup) : setup_(std::move(setup)) {
    for (std::size_t model = 0; model < setup_.models.size(); ++model) {
        prefixes_.push_back(
            std::make_unique<TokenPrefixes>(TokenPrefixes::Options{.tokens_max = setup_.prefix_tokens_max}));
    }
}

Stages::Output Stages::run(const Input& input) const {
    const auto body = parse_body(input.body);
    if (!body) { return {std::nullopt, seems_to_ask_for_stream(input.body), pass_on(body.error())}; }
    const bool stream = asks_for_stream(*body);
    auto form = read(input.endpoint, *body);
    if (!form) { return {std::nullopt, stream, pass_on(form.error())}; }
    const std::size_t model = form->model;
    if (setup_.models[model].kind != form_of(input.endpoint).kind) {
        return {model, stream, pass_on(wrong_kind(*form, setup_.models))};
    }
    if (auto rewritten = rewrite(*form, input.who); !rewritten) { return {model, stream, pass_on(rewritten.error())}; }
    if (form->routed == nullptr) { return {model, stream, prepare(std::move(*form), input)}; }
    std::size_t answering = form->model;
    auto prepared = prepare_routed(std::move(*form), input, answering);
    return {answering, stream, std::move(prepared)};
}

ApiResult<RequestForm> Stages::read(Endpoint endpoint, const boost::json::object& body) const {
    switch (endpoint) {
        case Endpoint::embeddings:
            return read_embedding_form(body, setup_.limits, setup_.models);
        case Endpoint::responses:
            return read_responses_form(body, setup_.limits, setup_.models);
        case Endpoint::messages:
            return read_messages_form(body, setup_.limits, setup_.models);
        default:
            return read_form(endpoint, body, setup_.limits, setup_.models);
    }
}

ApiResult<void> Stages::rewrite(RequestForm& form, const RewriteContext& context) const {
    if (form.endpoint == Endpoint::embeddings) { return {}; }
    for (const FormRewriter* rewriter : setup_.rewriters) {
        if (auto rewritten = rewriter->rewrite(form, context); !rewritten) { return rewritten; }
    }
    return {};
}

ApiResult<PreparedRequest> Stages::prepare_routed(RequestForm form, const Input& input, std::size_t& model) const {
    const std::shared_ptr<RoutedAsk> routed = form.routed;
    const auto plain = std::exchange(routed->plain, nullptr);
    auto prepared = prepare(std::move(form), input);
    if (!prepared && plain != nullptr) {
        // Whatever it is that the one cannot take: what both cannot is the client's error, and told by the other.
        RequestForm other = std::move(*plain);
        other.routed = routed;
        const std::size_t other_model = other.model;
        if (auto second = prepare(std::move(other), input)) {
            model = other_model;
            routed->fall_back(setup_.models[model].name);
            prepared = std::move(second);
        }
    }
    if (const auto compared = std::exchange(routed->compared, nullptr); prepared && compared != nullptr) {
        if (auto other = prepare(std::move(*compared), input)) {
            routed->other = std::make_shared<const PreparedRequest>(std::move(*other));
        }
    }
    return prepared;
}

ApiResult<PreparedRequest> Stages::prepare(RequestForm form, const Input& input) const {
    const ServedModel& model = setup_.models[form.model];
    const ClusterView& cluster = input.clusters[form.model];
    // Without its length limit no request can be checked.
    if (cluster.context_tokens == 0) {
        return pass_on(not_ready(std::string(no_workers_of(model.kind)) + " of " + model.name));
    }
    const PrepareContext context{.limits = setup_.limits,
                                 .text = *model.text,
                                 .cluster = cluster,
                                 .hash_key = setup_.hash_key,
                                 .now_unix_s = input.now_unix_s,
                                 .prefixes = prefixes_[form.model].get()};
    if (!setup_.tenants_share_prefixes) { form.cache_scope = scope_of(input.who.tenant, form.cache_scope); }
    if (input.endpoint == Endpoint::embeddings) { return prepare_embedding(std::move(form), context); }
    return gateway::prepare(std::move(form), context);
}

}  // namespace gateway
