#include "bench/kv_policies.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "base/check.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using base::TokenId;

constexpr std::uint32_t kRepetitions = 4;    // of random tokens
constexpr std::uint32_t kRepeatedMin = 8;    // of them
constexpr std::uint32_t kRepeatedMax = 256;  // more takes time
constexpr std::uint32_t kRowsSeen = 64;      // of the last repetition
constexpr std::uint32_t kEchoShare = 15;     // one of so many retrieval heads is one by echo (1 % of 15 %)
constexpr std::uint32_t kSinkTokens = 4;
constexpr std::uint32_t kRecentShare = 5;   // of a prompt: one of so many tokens
constexpr std::uint32_t kThinkRecent = 32;  // tokens whose queries tell, and whose keys stay whole

/// A prompt's KV in its canonical order.
struct Prompt {
    explicit Prompt(const KvTrial& trial)
        : layers(trial.layout().layers()),
          heads(trial.layout().kv_heads()),
          dim(trial.layout().head_dim()),
          tokens(trial.whole().tokens()),
          is_bf16(trial.layout().format().dtype == kv_cache::KvDtype::bf16) {}
    std::size_t at(std::uint32_t layer, std::uint32_t part, std::uint32_t head, std::uint32_t token) const {
        return (((std::size_t{layer} * 2 + part) * heads + head) * tokens + token) * dim;
    }
    std::uint64_t value_bytes() const { return is_bf16 ? 2 : 4; }

    std::uint32_t layers, heads, dim, tokens;
    bool is_bf16;
};

/// The keys of one head: [tokens][dim].
std::vector<float> keys_of(const Prompt& prompt, std::span<const std::byte> kv, std::uint32_t layer,
                           std::uint32_t head) {
    std::vector<float> keys(std::size_t{prompt.tokens} * prompt.dim);
    const std::size_t at = prompt.at(layer, 0, head, 0);
    for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = value_at(kv, prompt.is_bf16, at + i);
    }
    return keys;
}

/// Shares of the attention of one query over `tokens` keys.
void attend(std::span<const float> query, std::span<const float> keys, std::uint32_t tokens,
            std::vector<float>& shares) {
    shares.assign(tokens, 0);
    const float scale = 1.0f / std::sqrt(static_cast<float>(query.size()));
    float largest = -INFINITY;
    for (std::uint32_t token = 0; token < tokens; ++token) {
        const float* key = keys.data() + token * query.size();
        shares[token] = scale * std::inner_product(query.begin(), query.end(), key, 0.0f);
        largest = std::max(largest, shares[token]);
    }
    float sum = 0;
    for (float& share : shares) {
        share = std::exp(share - largest);
        sum += share;
    }
    for (float& share : shares) {
        share /= sum;
    }
}

}  // namespace

HeadScore score_head(const PromptQueries& queries, std::uint32_t layer, std::uint32_t head, std::span<const float> keys,
                     std::uint32_t repeated) {
    const std::uint32_t begin = (kRepetitions - 1) * repeated;
    const std::uint32_t step = std::max(1u, repeated / kRowsSeen);
    HeadScore score;
    std::uint32_t rows = 0;
    std::vector<float> shares;
    for (std::uint32_t token = begin; token < begin + repeated; token += step) {
        attend(queries.of(layer, token, head), keys, token + 1, shares);
        for (std::uint32_t before = token % repeated; before < begin; before += repeated) {
            score.echo += static_cast<double>(shares[before]);
            score.induction += static_cast<double>(shares[before + 1]);
        }
        ++rows;
    }
    return {score.echo / rows, score.induction / rows};
}

Result<std::vector<HeadScore>> score_heads(KvTrial& trial, std::uint32_t seed) {
    const std::uint32_t repeated = std::min(trial.tokens_max() / kRepetitions, kRepeatedMax);
    if (repeated < kRepeatedMin || trial.vocabulary() < 2 * repeated) {
        return base::fail(ErrorCode::invalid_argument,
                          "razor looks for retrieval heads in " + std::to_string(kRepetitions) +
                              " times the same random tokens, and has room for " + std::to_string(repeated) +
                              " of them: take a --context of " + std::to_string(kRepetitions * kRepeatedMin) +
                              " tokens at least");
    }
    std::mt19937 random{seed};
    std::vector<TokenId> tokens(trial.vocabulary());
    std::iota(tokens.begin(), tokens.end(), TokenId{0});
    for (std::size_t i = 0; i < repeated; ++i) {  // each once, the same with every library
        std::swap(tokens[i], tokens[i + random() % (tokens.size() - i)]);
    }
    tokens.resize(std::size_t{kRepetitions} * repeated);
    for (std::size_t i = repeated; i < tokens.size(); ++i) {
        tokens[i] = tokens[i - repeated];
    }
    const auto kv = trial.compute_tokens(std::move(tokens));
    if (!kv) { return base::pass_on(kv); }
    const Prompt prompt(trial);
    const PromptQueries& queries = trial.queries();
    const std::uint32_t heads_each = queries.heads_q / prompt.heads;
    std::vector<HeadScore> scores;
    for (std::uint32_t layer = 0; layer < prompt.layers; ++layer) {
        for (std::uint32_t head = 0; head < prompt.heads; ++head) {
            const std::vector<float> keys = keys_of(prompt, *kv, layer, head);
            for (std::uint32_t i = 0; i < heads_each; ++i) {
                scores.push_back(score_head(queries, layer, head * heads_each + i, keys, repeated));
            }
        }
    }
    return scores;
}

std::vector<std::uint8_t> retrieval_heads(std::span<const HeadScore> scores, std::uint32_t heads_q,
                                          std::uint32_t kv_heads, std::uint32_t percent) {
    CHECK(heads_q > 0 && kv_heads > 0 && heads_q % kv_heads == 0 && scores.size() % heads_q == 0 && percent <= 100);
    const std::size_t wanted = (scores.size() * percent + 99) / 100;
    const std::size_t by_echo = std::min(wanted, (wanted + kEchoShare - 1) / kEchoShare);
    std::vector<std::uint8_t> is_chosen(scores.size(), 0);
    const auto choose = [&](std::size_t count, double HeadScore::* score) {
        std::vector<std::size_t> order(scores.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return scores[a].*score > scores[b].*score; });
        for (std::size_t i = 0; i < order.size() && count > 0; ++i) {
            if (is_chosen[order[i]] != 0) { continue; }
            is_chosen[order[i]] = 1;
            --count;
        }
    };
    choose(by_echo, &HeadScore::echo);
    choose(wanted - by_echo, &HeadScore::induction);
    std::vector<std::uint8_t> is_retrieval(scores.size() / heads_q * kv_heads, 0);
    for (std::size_t i = 0; i < scores.size(); ++i) {
        if (is_chosen[i] != 0) { is_retrieval[i / (heads_q / kv_heads)] = 1; }
    }
    return is_retrieval;
}

KvLeft razor(const KvTrial& trial, std::span<const std::byte> kv, std::span<const std::uint8_t> is_retrieval) {
    const Prompt prompt(trial);
    CHECK(is_retrieval.size() == std::size_t{prompt.layers} * prompt.heads);
    const std::uint32_t recent = prompt.tokens - prompt.tokens / kRecentShare;  // the first of those that stay
    const std::uint32_t dropped = recent > kSinkTokens + 1 ? recent - kSinkTokens : 0;
    KvLeft left{{kv.begin(), kv.end()}, 0};
    for (std::uint32_t layer = 0; layer < prompt.layers; ++layer) {
        for (std::uint32_t head = 0; head < prompt.heads; ++head) {
            const bool keeps_all = is_retrieval[std::size_t{layer} * prompt.heads + head] != 0 || dropped == 0;
            const std::uint64_t tokens = keeps_all ? prompt.tokens : prompt.tokens - dropped + 1;
            left.bytes += 2 * tokens * prompt.dim * prompt.value_bytes();
            if (keeps_all) { continue; }
            for (std::uint32_t part = 0; part < 2; ++part) {
                for (std::uint32_t d = 0; d < prompt.dim; ++d) {
                    double sum = 0;
                    for (std::uint32_t token = kSinkTokens; token < recent; ++token) {
                        sum +=
                            static_cast<double>(value_at(kv, prompt.is_bf16, prompt.at(layer, part, head, token) + d));
                    }
                    for (std::uint32_t token = kSinkTokens; token < recent; ++token) {
                        put_value(left.kv, prompt.is_bf16, prompt.at(layer, part, head, token) + d,
                                  static_cast<float>(sum / dropped));
                    }
                }
            }
        }
    }
    return left;
}

KvLeft think(const KvTrial& trial, std::span<const std::byte> kv, std::uint32_t percent) {
    const Prompt prompt(trial);
    const PromptQueries& queries = trial.queries();
    CHECK(percent <= 100 && queries.tokens == prompt.tokens);
    const std::uint32_t heads_each = queries.heads_q / prompt.heads;
    const std::uint32_t recent = prompt.tokens - std::min(prompt.tokens, kThinkRecent);
    const std::uint32_t dropped = prompt.dim * percent / 100;
    KvLeft left{{kv.begin(), kv.end()}, 0};
    for (std::uint32_t layer = 0; layer < prompt.layers; ++layer) {
        for (std::uint32_t head = 0; head < prompt.heads; ++head) {
            left.bytes += (std::uint64_t{2} * prompt.tokens * prompt.dim - std::uint64_t{recent} * dropped) *
                              prompt.value_bytes() +
                          (prompt.dim + 7) / 8;
            std::vector<double> asked(prompt.dim, 0);
            std::vector<double> seen(prompt.dim, 0);
            for (std::uint32_t token = recent; token < prompt.tokens; ++token) {
                for (std::uint32_t i = 0; i < heads_each; ++i) {
                    const auto query = queries.of(layer, token, head * heads_each + i);
                    for (std::uint32_t d = 0; d < prompt.dim; ++d) {
                        asked[d] += static_cast<double>(query[d] * query[d]);
                    }
                }
            }
            const std::vector<float> keys = keys_of(prompt, kv, layer, head);
            for (std::size_t i = 0; i < keys.size(); ++i) {
                seen[i % prompt.dim] += static_cast<double>(keys[i] * keys[i]);
            }
            std::vector<std::uint32_t> order(prompt.dim);
            std::iota(order.begin(), order.end(), 0u);
            std::stable_sort(order.begin(), order.end(),
                             [&](std::uint32_t a, std::uint32_t b) { return asked[a] * seen[a] < asked[b] * seen[b]; });
            for (std::uint32_t i = 0; i < dropped; ++i) {
                for (std::uint32_t token = 0; token < recent; ++token) {
                    put_value(left.kv, prompt.is_bf16, prompt.at(layer, 0, head, token) + order[i], 0);
                }
            }
        }
    }
    return left;
}

}  // namespace bench
