#include "engine/kernels/cuda/sampling_rows.h"

#include <map>

#include "base/check.h"

namespace engine::cuda {
namespace {

std::int32_t narrow(std::size_t value) {
    CHECK(value <= 0x7fffffffu);
    return static_cast<std::int32_t>(value);
}

bool is_token(base::TokenId token, std::uint32_t vocabulary) {
    return token >= 0 && static_cast<std::uint32_t>(token) < vocabulary;
}

/// What Sampler::apply_penalties() counts: each token once, in any order.
void add_penalised(const SamplerContext& context, std::uint32_t vocabulary, std::vector<PenalisedToken>& penalised) {
    std::map<base::TokenId, std::uint32_t> counts;
    if (context.params->repetition_penalty != 1) {
        for (const base::TokenId token : context.prompt) {
            if (is_token(token, vocabulary)) { counts.try_emplace(token, 0); }
        }
    }
    for (const base::TokenId token : context.generated) {
        if (is_token(token, vocabulary)) { ++counts[token]; }
    }
    for (const auto& [token, count] : counts) {
        penalised.push_back({.token = token, .generated = count});
    }
}

SamplingRow make_draw(const SamplerContext& context, std::uint32_t vocabulary, SamplingTables& tables) {
    const SamplingParams& params = *context.params;
    SamplingRow row;
    row.temperature = params.temperature;
    row.top_k = params.top_k;
    row.top_p = params.top_p;
    row.min_p = params.min_p;
    row.repetition_penalty = params.repetition_penalty;
    row.presence_penalty = params.presence_penalty;
    row.frequency_penalty = params.frequency_penalty;
    row.seed = params.seed;
    row.position = context.position;
    row.choice = params.choice;
    row.logprobs = params.logprobs ? 1 : 0;
    row.top_logprobs = params.logprobs ? params.top_logprobs : 0;

    row.bias_begin = narrow(tables.biases.size());
    for (const auto& [token, bias] : params.logit_bias) {
        if (is_token(token, vocabulary)) { tables.biases.push_back({.token = token, .bias = bias}); }
    }
    row.bias_end = narrow(tables.biases.size());
    row.penalised_begin = narrow(tables.penalised.size());
    if (params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0) {
        add_penalised(context, vocabulary, tables.penalised);
    }
    row.penalised_end = narrow(tables.penalised.size());
    row.masked_begin = narrow(tables.masked_tokens.size());
    for (const base::TokenId token : context.masked_tokens) {
        if (is_token(token, vocabulary)) { tables.masked_tokens.push_back(token); }
    }
    row.masked_end = narrow(tables.masked_tokens.size());
    return row;
}

}  // namespace

SamplingTables make_sampling_tables(std::span<const RowChoice> choices, std::uint32_t vocabulary) {
    SamplingTables tables;
    tables.rows.reserve(choices.size());
    for (std::size_t i = 0; i < choices.size(); ++i) {
        const RowChoice& choice = choices[i];
        SamplingRow row;
        if (choice.by_caller) {  // idle
            tables.rows.push_back(row);
            continue;
        }
        if (choice.draw != nullptr) {
            row = make_draw(*choice.draw, vocabulary, tables);
        } else {
            row.score_target = choice.score_target;
            row.logprobs = 1;
            row.top_logprobs = choice.score_top;
        }
        row.logits_row = narrow(i);
        const bool changes = row.bias_begin < row.bias_end || row.penalised_begin < row.penalised_end ||
                             row.masked_begin < row.masked_end;
        tables.wants_top = tables.wants_top || row.top_logprobs > 0;
        tables.is_greedy =
            tables.is_greedy && choice.draw != nullptr && row.temperature == 0 && !changes && row.logprobs == 0;
        tables.rows.push_back(row);
    }
    return tables;
}

}  // namespace engine::cuda
