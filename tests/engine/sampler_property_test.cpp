#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "engine/exact_math.h"
#include "engine/philox.h"
#include "engine/sampler.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace {

using engine::SamplingParams;

struct Case {
    SamplingParams params;
    std::vector<float> logits;
    std::vector<base::TokenId> prompt;
    std::vector<base::TokenId> generated;
    std::vector<base::TokenId> masked;
    std::vector<std::uint32_t> allowed;  // empty: every token
};

engine::SamplerContext context_of(const Case& c) {
    return {.params = &c.params,
            .position = c.prompt.size() + c.generated.size(),
            .prompt = c.prompt,
            .generated = c.generated,
            .allowed = c.allowed,
            .masked_tokens = c.masked};
}

struct Naive {
    std::vector<std::pair<base::TokenId, double>> kept;  // in the order of the draw, with weights
    base::TokenId token = 0;
    double distance = 0;        // of the drawn number from the nearest border between two tokens, of 1
    bool near_cut = false;      // a cut is decided by less than rounding
    bool nothing_left = false;  // all tokens are masked
};

/// The rules of sampling.h, one after the other, in double and without any cleverness.
Naive naive_sample(const Case& c) {
    const SamplingParams& p = c.params;
    std::vector<double> x(c.logits.begin(), c.logits.end());
    const auto at = [](base::TokenId token) { return static_cast<std::size_t>(token); };
    // Bias and penalties are float arithmetic by definition: they decide ties.
    std::vector<float> f = c.logits;
    for (const auto& [token, bias] : p.logit_bias) {
        f[at(token)] += bias;
    }
    std::set<base::TokenId> seen(c.prompt.begin(), c.prompt.end());
    seen.insert(c.generated.begin(), c.generated.end());
    if (p.repetition_penalty != 1) {
        for (const base::TokenId token : seen) {
            float& logit = f[at(token)];
            logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
        }
    }
    std::map<base::TokenId, int> counts;
    for (const base::TokenId token : c.generated) {
        ++counts[token];
    }
    for (const auto& [token, count] : counts) {
        f[at(token)] -= static_cast<float>(count) * p.frequency_penalty;
        f[at(token)] -= p.presence_penalty;
    }
    for (const base::TokenId token : c.masked) {
        f[at(token)] = -INFINITY;
    }
    for (std::size_t token = 0; token < f.size() && !c.allowed.empty(); ++token) {
        if ((c.allowed[token / 32] >> (token % 32) & 1u) == 0) { f[token] = -INFINITY; }
    }
    std::copy(f.begin(), f.end(), x.begin());

    std::vector<base::TokenId> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return x[at(a)] > x[at(b)]; });
    Naive result;
    result.nothing_left = x[at(order[0])] == -INFINITY;
    if (p.temperature == 0) {
        result.token = order[0];
        result.distance = 1;
        return result;
    }
    const bool top_k = p.top_k > 0 && p.top_k < order.size();
    if (top_k) { order.resize(p.top_k); }
    const auto weight = [&](base::TokenId t) {
        return std::exp((x[at(t)] - x[at(order[0])]) / static_cast<double>(p.temperature));
    };
    double all = 0;
    for (const base::TokenId token : order) {
        all += weight(token);
    }
    double before = 0;
    for (const base::TokenId token : order) {
        const double bound = static_cast<double>(p.top_p) * all;
        if (p.top_p < 1 && std::abs(before - bound) < 1e-9 * all) { result.near_cut = true; }
        if (p.top_p < 1 && before >= bound) { break; }
        before += weight(token);
        if (std::abs(weight(token) - static_cast<double>(p.min_p)) < 1e-9) { result.near_cut = true; }
        if (weight(token) >= static_cast<double>(p.min_p) || token == order[0]) {
            result.kept.emplace_back(token, weight(token));
        }
    }
    if (!top_k && p.top_p == 1) { std::sort(result.kept.begin(), result.kept.end()); }  // drawn in order of tokens
    double sum = 0;
    for (const auto& [token, w] : result.kept) {
        sum += w;
    }
    const auto bits =
        engine::philox4x32({static_cast<std::uint32_t>(c.prompt.size() + c.generated.size()), p.choice, 0, 0},
                           {static_cast<std::uint32_t>(p.seed), static_cast<std::uint32_t>(p.seed >> 32)});
    const double u = engine::unit_double(bits[0], bits[1]);
    double reached = 0;
    result.distance = 1;
    bool found = false;
    for (const auto& [token, w] : result.kept) {
        reached += w / sum;
        result.distance = std::min(result.distance, std::abs(u - reached));
        if (!found && u < reached) {
            result.token = token;
            found = true;
        }
    }
    return result;
}

Case random_case(std::mt19937_64& random) {
    Case c;
    const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    const std::uint32_t vocabulary = below(4) == 0 ? 2000 + below(3000) : 1 + below(400);
    std::normal_distribution<float> normal(0, 0.5f + static_cast<float>(below(5)));
    const bool ties = below(3) == 0;
    for (std::uint32_t i = 0; i < vocabulary; ++i) {
        const float logit = normal(random);
        c.logits.push_back(ties ? std::round(logit) : logit);
    }
    const auto some = [&](std::uint32_t most) {
        std::vector<base::TokenId> tokens(below(most));
        for (base::TokenId& token : tokens) {
            token = static_cast<base::TokenId>(below(vocabulary));
        }
        return tokens;
    };
    c.prompt = some(30);
    c.generated = some(30);
    if (below(3) == 0) { c.masked = some(std::min(vocabulary, 5u)); }
    if (below(3) == 0) {
        c.allowed.resize((vocabulary + 31) / 32);
        const bool in_runs = below(2) == 0;  // of some hundred tokens that are all allowed, or none
        std::uint32_t run = 0;
        for (std::size_t at = 0; at < c.allowed.size(); ++at) {
            if (at % 8 == 0) { run = below(3); }
            const auto some_bits = static_cast<std::uint32_t>(random() & random());
            c.allowed[at] = !in_runs || run == 2 ? some_bits : run == 0 ? 0 : ~std::uint32_t{0};
        }
    }
    SamplingParams& p = c.params;
    p.temperature = below(5) == 0 ? 0.0f : 0.1f + static_cast<float>(below(30)) / 10.0f;
    p.top_k = below(2) == 0 ? 0 : below(vocabulary + 10);
    p.top_p = below(2) == 0 ? 1.0f : static_cast<float>(1 + below(99)) / 100.0f;
    p.min_p = below(2) == 0 ? 0.0f : static_cast<float>(below(100)) / 100.0f;
    p.repetition_penalty = below(2) == 0 ? 1.0f : 0.5f + static_cast<float>(below(20)) / 10.0f;
    p.presence_penalty = below(2) == 0 ? 0.0f : static_cast<float>(below(40)) / 10.0f - 2.0f;
    p.frequency_penalty = below(2) == 0 ? 0.0f : static_cast<float>(below(40)) / 10.0f - 2.0f;
    p.seed = random();
    p.choice = below(3);
    for (const base::TokenId token : some(4)) {
        const bool listed =
            std::any_of(p.logit_bias.begin(), p.logit_bias.end(), [&](const auto& b) { return b.first == token; });
        if (!listed) { p.logit_bias.emplace_back(token, normal(random)); }
    }
    return c;
}

}  // namespace

TEST_CASE("the sampler chooses what a naive one in double chooses", "[engine][sampler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(40)));
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    engine::Sampler sampler;  // one for all cases: its memory must not show
    for (int i = 0; i < 100; ++i) {
        const Case c = random_case(random);
        const Naive expected = naive_sample(c);
        const auto got = sampler.sample(c.logits, context_of(c));
        if (expected.nothing_left && !c.allowed.empty()) {
            REQUIRE(got.error().code == base::ErrorCode::failed_precondition);
            continue;
        }
        REQUIRE(got);
        if (expected.near_cut || expected.distance < 1e-9) { continue; }
        CAPTURE(i, c.logits.size(), c.params.temperature, c.params.top_k, c.params.top_p, c.params.min_p);
        REQUIRE(got->token == expected.token);
    }
}

namespace {

/// top_p and min_p by ranking every token, with the sampler's own sums and exponentials: the same bits.
base::TokenId plain_draw(const std::vector<float>& logits, const SamplingParams& params, double uniform) {
    const auto at = [](base::TokenId token) { return static_cast<std::size_t>(token); };
    std::vector<base::TokenId> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[at(a)] > logits[at(b)]; });
    const auto logit_max = static_cast<double>(logits[at(order[0])]);
    const double scale = 1.0 / static_cast<double>(params.temperature);
    std::vector<double> weights;
    for (const float logit : logits) {
        weights.push_back(engine::exact::exp((static_cast<double>(logit) - logit_max) * scale));
    }
    double sum_all = 0;
    for (std::size_t begin = 0; begin < weights.size(); begin += 256) {
        double chunk = 0;
        for (std::size_t i = begin; i < std::min(begin + 256, weights.size()); ++i) {
            chunk += weights[i];
        }
        sum_all += chunk;
    }
    const double mass = static_cast<double>(params.top_p) * sum_all;
    double sum = 0;
    std::size_t kept = 0;
    while (kept < order.size() && (kept == 0 || sum < mass)) {
        const double weight = weights[at(order[kept])];
        if (kept > 0 && weight < static_cast<double>(params.min_p)) { break; }
        sum += weight;
        ++kept;
    }
    double before = 0;
    for (std::size_t rank = 0; rank + 1 < kept; ++rank) {
        before += weights[at(order[rank])];
        if (uniform * sum < before) { return order[rank]; }
    }
    return order[kept - 1];
}

}  // namespace

TEST_CASE("top_p that ranks only what it may keep draws what ranking everything draws", "[engine][sampler][property]") {
    const auto seed = GENERATE(range(0u, test_support::modelled_seeds_of(60)));
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    engine::Sampler sampler;
    // From a few sharp peaks to hardly any difference; with ties, both zeros, and tokens that cannot be.
    const float deviation = std::pow(10.0f, static_cast<float>(below(40)) / 10.0f - 2.5f);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> logits(1 + below(seed % 3 == 0 ? 40000 : 3000));
    const bool ties = below(2) == 0;
    for (float& logit : logits) {
        logit = normal(random);
        if (ties) { logit = std::round(logit * 4) / 4; }
        if (below(50) == 0) { logit = below(2) == 0 ? 0.0f : -0.0f; }
        if (below(200) == 0) { logit = -INFINITY; }
    }
    logits[below(static_cast<std::uint32_t>(logits.size()))] = deviation;
    for (std::uint32_t i = 0; i < 40; ++i) {
        SamplingParams params;
        params.temperature = 0.1f + static_cast<float>(below(20)) / 10.0f;
        params.top_p = below(4) == 0 ? std::nextafter(1.0f, 0.0f) : static_cast<float>(1 + below(99)) / 100.0f;
        params.min_p = below(2) == 0 ? 0.0f : std::pow(10.0f, -static_cast<float>(below(60)) / 10.0f);
        params.seed = random();
        const auto bits = engine::philox4x32(
            {i, 0, 0, 0}, {static_cast<std::uint32_t>(params.seed), static_cast<std::uint32_t>(params.seed >> 32)});
        const auto got = sampler.sample(logits, {.params = &params, .position = i});
        REQUIRE(got);
        CAPTURE(i, logits.size(), deviation, params.temperature, params.top_p, params.min_p);
        REQUIRE(got->token == plain_draw(logits, params, engine::unit_double(bits[0], bits[1])));
    }
}

TEST_CASE("log-probabilities agree with a naive softmax in double", "[engine][sampler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(20)));
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    engine::Sampler sampler;
    Case c = random_case(random);
    c.allowed.clear();
    c.params.logprobs = true;
    c.params.top_logprobs = static_cast<std::uint32_t>(std::min<std::size_t>(20, c.logits.size()));
    const auto got = sampler.sample(c.logits, context_of(c));
    REQUIRE(got);
    double sum = 0;
    for (const float logit : c.logits) {
        sum += std::exp(static_cast<double>(logit));
    }
    const auto logprob = [&](base::TokenId token) {
        return static_cast<double>(c.logits[static_cast<std::size_t>(token)]) - std::log(sum);
    };
    REQUIRE(got->logprob == Approx(logprob(got->token)).margin(1e-6));
    REQUIRE(got->top.size() == c.params.top_logprobs);
    for (std::size_t i = 0; i < got->top.size(); ++i) {
        REQUIRE(got->top[i].logprob == Approx(logprob(got->top[i].token)).margin(1e-6));
        if (i > 0) { REQUIRE(got->top[i - 1].logprob >= got->top[i].logprob); }
    }
}

TEST_CASE("tokens are drawn as often as their probabilities say", "[engine][sampler][property]") {
    // Chi-square with 9 degrees of freedom: above 27.9 once in a thousand. The seeds are fixed, so the outcome is, too.
    const auto variant = GENERATE(range(0, 4));
    CAPTURE(variant);
    constexpr std::size_t kVocabulary = 10;
    std::vector<float> logits(kVocabulary);
    for (std::size_t i = 0; i < kVocabulary; ++i) {
        logits[i] = static_cast<float>(i % 5) * 0.4f;
    }
    SamplingParams params;
    params.temperature = variant == 1 ? 0.5f : 1.5f;
    if (variant == 2) { params.top_p = 0.999999f; }
    std::vector<double> weights(kVocabulary);
    double sum = 0;
    for (std::size_t i = 0; i < kVocabulary; ++i) {
        weights[i] = std::exp(static_cast<double>(logits[i]) / static_cast<double>(params.temperature));
        sum += weights[i];
    }
    constexpr int kDraws = 40000;
    std::vector<int> seen(kVocabulary);
    std::vector<base::TokenId> generated;
    engine::Sampler sampler;
    for (int i = 0; i < kDraws; ++i) {
        if (variant == 3) {  // along one sequence instead of over seeds
            generated.push_back(0);
        } else {
            params.seed = static_cast<std::uint64_t>(i);
        }
        ++seen[static_cast<std::size_t>(
            sampler.sample(logits, {.params = &params, .position = generated.size(), .generated = generated})->token)];
    }
    double chi_square = 0;
    for (std::size_t i = 0; i < kVocabulary; ++i) {
        const double expected = kDraws * weights[i] / sum;
        chi_square += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    REQUIRE(chi_square < 27.9);
}
