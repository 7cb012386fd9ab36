#include "gateway/stages.h"

#include <utility>

#include "gateway/openai/fields.h"

namespace gateway {

ApiError not_ready(std::string message) {
    ApiError error{.status = 503, .message = std::move(message)};
    error.code = "unavailable";
    error.retry_after_s = 1;
    return error;
}

Stages::Output Stages::run(const Input& input) const {
    const auto body = parse_body(input.body);
    if (!body) { return {std::nullopt, seems_to_ask_for_stream(input.body), pass_on(body.error())}; }
    const bool stream = asks_for_stream(*body);
    auto form = read_form(input.endpoint, *body, setup_.limits, setup_.models);
    if (!form) { return {std::nullopt, stream, pass_on(form.error())}; }
    const std::size_t model = form->model;
    if (auto rewritten = rewrite(*form); !rewritten) { return {model, stream, pass_on(rewritten.error())}; }
    return {model, stream, prepare(std::move(*form), input)};
}

ApiResult<void> Stages::rewrite(RequestForm& form) const {
    for (const FormRewriter* rewriter : setup_.rewriters) {
        if (auto rewritten = rewriter->rewrite(form); !rewritten) { return rewritten; }
    }
    return {};
}

ApiResult<PreparedRequest> Stages::prepare(RequestForm form, const Input& input) const {
    const ServedModel& model = setup_.models[form.model];
    const ClusterView& cluster = input.clusters[form.model];
    // Without its length limit no request can be checked.
    if (cluster.context_tokens == 0) { return pass_on(not_ready("no workers for both phases of " + model.name)); }
    return gateway::prepare(std::move(form), {.limits = setup_.limits,
                                              .text = *model.text,
                                              .cluster = cluster,
                                              .hash_key = setup_.hash_key,
                                              .now_unix_s = input.now_unix_s});
}

}  // namespace gateway
