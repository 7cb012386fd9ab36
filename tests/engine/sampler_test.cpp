#include "engine/sampler.h"

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/sampling_ranges.h"
#include "engine/exact_math.h"
#include "engine/philox.h"
#include "tests/support/catch.h"

namespace {

using engine::SamplerContext;
using engine::SamplingParams;

base::TokenId choose(const std::vector<float>& logits, const SamplingParams& params,
                     const std::vector<base::TokenId>& prompt = {}, const std::vector<base::TokenId>& generated = {},
                     const std::vector<base::TokenId>& masked = {}) {
    return engine::Sampler()
        .sample(logits, {.params = &params,
                         .position = prompt.size() + generated.size(),
                         .prompt = prompt,
                         .generated = generated,
                         .masked_tokens = masked})
        ->token;
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("philox gives the known answers of its authors", "[engine][sampler]") {
    using Words = std::array<std::uint32_t, 4>;
    REQUIRE(engine::philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    const std::uint32_t f = 0xffffffff;
    REQUIRE(engine::philox4x32({f, f, f, f}, {f, f}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    REQUIRE(engine::philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
            Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a random double is at least 0 and below 1", "[engine][sampler]") {
    REQUIRE(engine::unit_double(0, 0) == 0.0);
    REQUIRE(engine::unit_double(0xffffffff, 0xffffffff) < 1.0);
    REQUIRE(engine::unit_double(0x80000000, 0) == 0.5);
}

TEST_CASE("our own exponential, logarithm, sine and cosine agree with the C library", "[engine][math]") {
    for (int i = -7000; i <= 7000; ++i) {
        const double x = i * 0.1003;
        if (x < 700) { REQUIRE(std::abs(engine::exact::exp(x) - std::exp(x)) <= 4e-16 * std::exp(x)); }
        const double y = std::exp(x / 10);
        REQUIRE(std::abs(engine::exact::log(y) - std::log(y)) <= 4e-16 * std::max(1.0, std::abs(std::log(y))));
        const auto [sine, cosine] = engine::exact::sine_cosine(x * 187.3);
        REQUIRE(std::abs(sine - std::sin(x * 187.3)) <= 4e-16);
        REQUIRE(std::abs(cosine - std::cos(x * 187.3)) <= 4e-16);
    }
    REQUIRE(engine::exact::exp(0.0) == 1.0);
    REQUIRE(engine::exact::exp(-800.0) == 0.0);
    REQUIRE(engine::exact::exp(-std::numeric_limits<double>::infinity()) == 0.0);
    REQUIRE(std::abs(engine::exact::pow(500000.0, 0.375) - std::pow(500000.0, 0.375)) <= 1e-12);
}

TEST_CASE("greedy takes the largest logit and ties go to the lower token", "[engine][sampler]") {
    const SamplingParams greedy;
    REQUIRE(choose({1, 3, 2}, greedy) == 1);
    REQUIRE(choose({1, 3, 3}, greedy) == 1);
    REQUIRE(choose({-2, -1, -1, -5}, greedy) == 1);
    REQUIRE(choose({0.0f, -0.0f}, greedy) == 0);
}

TEST_CASE("a masked token is never chosen", "[engine][sampler]") {
    SamplingParams params;
    REQUIRE(choose({1, 9, 2}, params, {}, {}, {1}) == 2);
    params.temperature = 1;
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        params.seed = seed;
        REQUIRE(choose({1, 9, 2}, params, {}, {}, {1}) != 1);
    }
    REQUIRE(choose({1, 9, 2}, params, {}, {}, {0, 1, 2}) == 0);  // nothing is left: the lowest, and no crash
}

TEST_CASE("a bias is added before the choice", "[engine][sampler]") {
    SamplingParams params;
    params.logit_bias = {{0, 5.0f}, {2, -100.0f}};
    REQUIRE(choose({1, 4, 9}, params) == 0);
}

TEST_CASE("penalties look at what they are said to look at", "[engine][sampler]") {
    SECTION("repetition: prompt and generated tokens, once each, towards less likely on both sides of zero") {
        SamplingParams params;
        params.repetition_penalty = 2;
        REQUIRE(choose({3, 2, 1}, params) == 0);
        REQUIRE(choose({3, 2, 1}, params, {0}) == 1);             // 1.5 < 2
        REQUIRE(choose({3, 1.4f, 1}, params, {0}, {0, 0}) == 0);  // once, not thrice
        REQUIRE(choose({-1, -1.5f}, params, {}, {0}) == 1);       // -2 < -1.5
    }
    SECTION("presence: generated tokens only, once") {
        SamplingParams params;
        params.presence_penalty = 1.5f;
        REQUIRE(choose({3, 2, 1}, params, {0}) == 0);
        REQUIRE(choose({3, 2, 1}, params, {}, {0}) == 1);
        REQUIRE(choose({3, 1, 1}, params, {}, {0, 0, 0}) == 0);
    }
    SECTION("frequency: generated tokens, each time") {
        SamplingParams params;
        params.frequency_penalty = 0.75f;
        REQUIRE(choose({3, 2, 1}, params, {0, 0, 0}) == 0);
        REQUIRE(choose({3, 2, 1}, params, {}, {0}) == 0);
        REQUIRE(choose({3, 2, 1}, params, {}, {0, 0}) == 1);
    }
}

TEST_CASE("top_k keeps exactly k tokens, ties to the lower", "[engine][sampler]") {
    SamplingParams params;
    params.temperature = 10;
    params.top_k = 2;
    std::vector<int> seen(5);
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        params.seed = seed;
        ++seen[static_cast<std::size_t>(choose({1, 2, 2, 2, 0}, params))];
    }
    REQUIRE(seen[0] == 0);
    REQUIRE(seen[1] > 0);
    REQUIRE(seen[2] > 0);
    REQUIRE(seen[3] == 0);
}

TEST_CASE("top_p keeps the token that crosses the bound and drops the rest", "[engine][sampler]") {
    SamplingParams params;
    params.temperature = 1;
    const std::vector<float> logits{std::log(0.1f), std::log(0.5f), std::log(0.3f), std::log(0.1f)};
    const auto allowed = [&](float top_p) {
        params.top_p = top_p;
        std::vector<bool> seen(4);
        for (std::uint64_t seed = 0; seed < 400; ++seed) {
            params.seed = seed;
            seen[static_cast<std::size_t>(choose(logits, params))] = true;
        }
        return seen;
    };
    REQUIRE(allowed(0.4f) == std::vector<bool>{false, true, false, false});
    REQUIRE(allowed(0.6f) == std::vector<bool>{false, true, true, false});
    REQUIRE(allowed(0.85f) == std::vector<bool>{true, true, true, false});
    REQUIRE(allowed(1.0f) == std::vector<bool>{true, true, true, true});
}

TEST_CASE("min_p drops what is less likely than its share of the best", "[engine][sampler]") {
    SamplingParams params;
    params.temperature = 1;
    params.min_p = 0.5f;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
        params.seed = seed;
        REQUIRE(choose({std::log(0.1f), std::log(0.5f), std::log(0.3f), std::log(0.1f)}, params) % 3 != 0);
    }
}

TEST_CASE("the same seed, choice and position give the same token, another one of them another", "[engine][sampler]") {
    const std::vector<float> logits(1000, 0.0f);
    SamplingParams params;
    params.temperature = 1;
    params.seed = 7;
    const base::TokenId token = choose(logits, params, {1, 2, 3});
    REQUIRE(choose(logits, params, {1, 2, 3}) == token);
    REQUIRE(choose(logits, params, {1, 2}, {3}) == token);  // the position is what counts
    REQUIRE(choose(logits, params, {1, 2, 3, 4}) != token);
    params.choice = 1;
    REQUIRE(choose(logits, params, {1, 2, 3}) != token);
    params.choice = 0;
    params.seed = 8;
    REQUIRE(choose(logits, params, {1, 2, 3}) != token);
}

TEST_CASE("log-probabilities come from the logits before bias, temperature and cuts", "[engine][sampler]") {
    SamplingParams params;
    params.temperature = 0.3f;
    params.top_k = 1;
    params.logit_bias = {{2, 100.0f}};
    params.logprobs = true;
    params.top_logprobs = 2;
    const std::vector<float> logits{std::log(0.2f), std::log(0.7f), std::log(0.1f)};
    const auto token = engine::Sampler().sample(logits, {.params = &params});
    REQUIRE(token);
    REQUIRE(token->token == 2);
    REQUIRE(token->logprob == Approx(std::log(0.1)));
    REQUIRE(token->top.size() == 2);
    REQUIRE(token->top[0].token == 1);
    REQUIRE(token->top[0].logprob == Approx(std::log(0.7)));
    REQUIRE(token->top[1].token == 0);
}

TEST_CASE("a score is the log-probability of a given token", "[engine][sampler]") {
    engine::Sampler sampler;
    const std::vector<float> logits{std::log(0.25f), std::log(0.75f)};
    const auto score = sampler.score(logits, 0, 1);
    REQUIRE(score);
    REQUIRE(score->token == 0);
    REQUIRE(score->logprob == Approx(std::log(0.25)));
    REQUIRE(score->top.at(0).token == 1);
    REQUIRE(sampler.score(logits, 2, 0).error().code == base::ErrorCode::invalid_argument);
}

TEST_CASE("NaN and infinite logits are an error, not a crash", "[engine][sampler]") {
    engine::Sampler sampler;
    SamplingParams params;
    const SamplerContext context{.params = &params};
    for (const float temperature : {0.0f, 1.0f}) {
        params.temperature = temperature;
        const auto nan = sampler.sample(std::vector<float>{1, kNan, 2}, context);
        REQUIRE(nan.error().code == base::ErrorCode::internal);
        REQUIRE(nan.error().message.find("token 1") != std::string::npos);
        REQUIRE(!sampler.sample(std::vector<float>{1, kInfinity}, context));
        REQUIRE(sampler.sample(std::vector<float>{1, -kInfinity}, context)->token == 0);
    }
    const std::vector<base::TokenId> masked{1};
    REQUIRE(!sampler.sample(std::vector<float>{1, kNan, 2}, {.params = &params, .masked_tokens = masked}));
    REQUIRE(!sampler.score(std::vector<float>{kNan}, 0, 0));
}

TEST_CASE("what a client may not ask for is named with its range", "[engine][sampler]") {
    const auto message = [](const std::function<void(SamplingParams&)>& spoil) {
        SamplingParams params;
        spoil(params);
        const auto checked = engine::check_sampling(params, 100);
        return checked ? std::string("fine") : checked.error().message;
    };
    const auto contains = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    REQUIRE(message([](SamplingParams&) {}) == "fine");
    // The ends of the one list, as clients may name them.
    REQUIRE(message([](SamplingParams& p) { p.temperature = static_cast<float>(base::kTemperatureRange.high); }) ==
            "fine");
    REQUIRE(message([](SamplingParams& p) {
                p.repetition_penalty = static_cast<float>(base::kRepetitionPenaltyRange.low);
            }) == "fine");
    REQUIRE(message([](SamplingParams& p) {
                p.repetition_penalty = static_cast<float>(base::kRepetitionPenaltyRange.high);
            }) == "fine");
    REQUIRE(message([](SamplingParams& p) { p.top_logprobs = base::kTopLogprobsMax; }) == "fine");
    REQUIRE(contains(message([](SamplingParams& p) { p.top_logprobs = base::kTopLogprobsMax + 1; }), "top_logprobs"));
    REQUIRE(contains(message([](SamplingParams& p) { p.temperature = 2.5f; }), "temperature must be in [0, 2]"));
    REQUIRE(contains(message([](SamplingParams& p) { p.temperature = -1; }), "temperature"));
    REQUIRE(contains(message([](SamplingParams& p) { p.temperature = kNan; }), "temperature"));
    REQUIRE(contains(message([](SamplingParams& p) { p.temperature = kInfinity; }), "temperature"));
    REQUIRE(contains(message([](SamplingParams& p) { p.top_p = 0; }), "top_p must be in (0, 1]"));
    REQUIRE(contains(message([](SamplingParams& p) { p.top_p = 1.1f; }), "top_p"));
    REQUIRE(contains(message([](SamplingParams& p) { p.min_p = -0.1f; }), "min_p"));
    REQUIRE(contains(message([](SamplingParams& p) { p.repetition_penalty = 0; }), "repetition_penalty"));
    REQUIRE(contains(message([](SamplingParams& p) { p.presence_penalty = 2.5f; }), "presence_penalty"));
    REQUIRE(contains(message([](SamplingParams& p) { p.frequency_penalty = kNan; }), "frequency_penalty"));
    REQUIRE(contains(message([](SamplingParams& p) { p.top_logprobs = 101; }), "top_logprobs"));
    REQUIRE(contains(message([](SamplingParams& p) { p.logit_bias = {{100, 1.0f}}; }), "token 100"));
    REQUIRE(contains(message([](SamplingParams& p) { p.logit_bias = {{1, 101.0f}}; }), "[-100, 100]"));
}
