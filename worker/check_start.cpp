#include "worker/check_start.h"

#include <array>
#include <span>
#include <string>
#include <utility>

#include "base/ids.h"
#include "engine/sampling.h"

namespace worker {

namespace {

base::Error invalid(std::string message) {
    return {base::ErrorCode::invalid_argument, std::move(message)};
}

std::optional<base::Error> check_tokens(std::span<const base::TokenId> tokens, const base::ModelShape& shape) {
    for (const base::TokenId token : tokens) {
        if (token < 0 || static_cast<std::uint32_t>(token) >= shape.vocabulary) {
            return invalid("token id " + std::to_string(token) + " is outside the vocabulary of " +
                           std::to_string(shape.vocabulary));
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<base::Error> check_text(const StartRequest& request, const base::ModelShape& shape) {
    if (request.prompt.empty()) { return invalid("the text has no tokens"); }
    if (!request.generated.empty()) { return invalid("nothing can have been generated of a text to encode"); }
    if (request.prompt.size() > shape.context_tokens) {
        return invalid("the text has " + std::to_string(request.prompt.size()) + " tokens; the encoder takes " +
                       std::to_string(shape.context_tokens));
    }
    return check_tokens(request.prompt, shape);
}

std::optional<base::Error> check_start(const StartRequest& request, const base::ModelShape& shape,
                                       const kv_cache::KvCache& cache) {
    const auto tokens = static_cast<std::uint32_t>(request.prompt.size() + request.generated.size());
    if (request.prompt.empty()) { return invalid("the prompt has no tokens"); }
    for (const auto* list : {&request.prompt, &request.generated, &request.stop.stop_tokens}) {
        if (auto error = check_tokens(*list, shape)) { return error; }
    }
    if (request.reasoning) {
        const std::array<base::TokenId, 2> marks = {request.reasoning->begin, request.reasoning->end};
        if (auto error = check_tokens(marks, shape)) { return error; }
    }
    if (request.stop.new_tokens_max == 0 || request.generated.size() >= request.stop.new_tokens_max) {
        return invalid("nothing is left to generate: " + std::to_string(request.generated.size()) + " of " +
                       std::to_string(request.stop.new_tokens_max) + " tokens are there");
    }
    if (tokens >= shape.context_tokens) {
        return invalid("the prompt has " + std::to_string(tokens) + " tokens; the model's context is " +
                       std::to_string(shape.context_tokens));
    }
    const std::uint32_t blocks_needed = cache.blocks_for(tokens + 1);
    if (blocks_needed > cache.options().blocks_total) {
        return invalid("the request needs " + std::to_string(blocks_needed) + " KV blocks, the worker has " +
                       std::to_string(cache.options().blocks_total));
    }
    if (const auto sampling = engine::check_sampling(request.sampling, shape.vocabulary); !sampling) {
        return sampling.error();
    }
    return std::nullopt;
}

}  // namespace worker
