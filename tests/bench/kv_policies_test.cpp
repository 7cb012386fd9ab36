#include "bench/kv_policies.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <random>
#include <string>

#include "bench/kv_quality.h"
#include "tests/engine/support.h"

#include "tests/support/catch.h"

namespace {

constexpr std::uint32_t kLayers = 5;
constexpr std::uint32_t kHeadsQ = 8;
constexpr std::uint32_t kHeads = 4;
constexpr std::uint32_t kDim = 8;
constexpr std::uint32_t kTokens = 150;

bench::KvTrial make_trial(const test_engine::TemporaryFolder& folder, bool keeps_queries = true) {
    std::ofstream file(folder.file("text.txt"));
    for (int i = 0; i < 30; ++i) {
        file << "Once upon a time, there was a little girl named Lily. She loved to play in the park number "
             << i * 7919 << ". One day, her mom said \"zebra\" & went home.\n";
    }
    file.close();
    bench::KvTrialOptions options;
    options.model_dir = std::string(SLUICE_SOURCE_DIR) + "/models/stories260k";
    options.text_path = folder.file("text.txt");
    options.context = kTokens;
    options.continuation = 60;
    options.generated = 24;
    options.windows = 2;
    options.kv_dtype = "f32";
    options.threads = 1;
    options.packed_dir = folder.file("packed");
    options.keeps_queries = keeps_queries;
    return bench::KvTrial::make(options).value();
}

std::size_t at(std::uint32_t layer, std::uint32_t part, std::uint32_t head, std::uint32_t token,
               std::uint32_t tokens = kTokens) {
    return (((std::size_t{layer} * 2 + part) * kHeads + head) * tokens + token) * kDim;
}

float value(std::span<const std::byte> kv, std::size_t index) {
    return bench::value_at(kv, false, index);
}

double product(std::span<const float> query, std::span<const std::byte> kv, std::size_t key) {
    double sum = 0;
    for (std::uint32_t d = 0; d < kDim; ++d) {
        sum += static_cast<double>(query[d]) * static_cast<double>(value(kv, key + d));
    }
    return sum / std::sqrt(static_cast<double>(kDim));
}

}  // namespace

TEST_CASE("a watched prompt's queries are those of its tokens, turned by their positions", "[bench]") {
    const test_engine::TemporaryFolder folder;
    auto trial = make_trial(folder);
    constexpr std::uint32_t kRepeated = 30;
    std::vector<base::TokenId> tokens;
    for (std::uint32_t i = 0; i < 4 * kRepeated; ++i) {
        tokens.push_back(static_cast<base::TokenId>(10 + i % kRepeated * 7));
    }
    REQUIRE(trial.compute_tokens(tokens));
    const bench::PromptQueries& queries = trial.queries();
    REQUIRE(queries.tokens == tokens.size());
    REQUIRE(queries.values.size() == tokens.size() * kLayers * kHeadsQ * kDim);
    const auto turned_back = [&](std::uint32_t token, std::uint32_t head, std::uint32_t pair) {
        const auto query = queries.of(0, token, head);
        const std::size_t angle = std::size_t{token} * (kDim / 2) + pair;
        return query[pair] * trial.rotary()->cosines[angle] + query[pair + kDim / 2] * trial.rotary()->sines[angle];
    };
    double most = 0;
    for (std::uint32_t i = 0; i < kRepeated; ++i) {  // the first layer sees the token alone
        for (std::uint32_t head = 0; head < kHeadsQ; ++head) {
            for (std::uint32_t pair = 0; pair < kDim / 2; ++pair) {
                const double first = static_cast<double>(turned_back(i, head, pair));
                CHECK(static_cast<double>(turned_back(i + 3 * kRepeated, head, pair)) == Approx(first).margin(1e-3));
                most = std::max(most, std::abs(first));
            }
        }
    }
    CHECK(most > 0.1);
    const std::vector<float> before = queries.values;
    REQUIRE(trial.compute_prompt(0));
    const std::vector<float> prompt = queries.values;
    CHECK(prompt != before);
    REQUIRE(trial.score());
    REQUIRE(trial.answer());
    CHECK(queries.values == prompt);  // what stands behind a prompt asks, too, and is not kept
}

TEST_CASE("heads that look back are ranked, and a KV head keeps all where one of its query heads does", "[bench]") {
    const test_engine::TemporaryFolder folder;
    auto trial = make_trial(folder);
    const auto scores = bench::score_heads(trial);
    REQUIRE(scores);
    REQUIRE(scores->size() == kLayers * kHeadsQ);
    for (const bench::HeadScore& score : *scores) {
        CHECK(score.echo >= 0);
        CHECK(score.induction >= 0);
        CHECK(score.echo + score.induction <= 1.001);
    }

    // Keys that are told apart by their position, a head that asks for what stood behind its token before, and one that
    // asks for the token itself.
    constexpr std::uint32_t kRepeated = 8;
    constexpr std::uint32_t kAll = 4 * kRepeated;
    bench::PromptQueries queries{.tokens = kAll, .heads_q = 2, .head_dim = kAll, .values = {}};
    queries.values.resize(std::size_t{kAll} * 2 * kAll);
    std::vector<float> keys(std::size_t{kAll} * kAll);
    for (std::uint32_t token = 0; token < kAll; ++token) {
        keys[token * kAll + token] = 8;
        for (std::uint32_t before = token % kRepeated; before < token; before += kRepeated) {
            queries.values[(token * 2 + 0) * kAll + before + 1] = 8;
            queries.values[(token * 2 + 1) * kAll + before] = 8;
        }
    }
    const bench::HeadScore induction = bench::score_head(queries, 0, 0, keys, kRepeated);
    CHECK(induction.induction > 0.99);
    CHECK(induction.echo < 0.01);
    const bench::HeadScore echo = bench::score_head(queries, 0, 1, keys, kRepeated);
    CHECK(echo.echo > 0.99);
    CHECK(echo.induction < 0.01);

    std::vector<bench::HeadScore> made(2 * kHeadsQ);  // two layers
    made[5] = {0.9, 0};
    made[1] = {0, 0.8};
    made[9] = {0, 0.7};
    made[8] = {0, 0.6};
    using Heads = std::vector<std::uint8_t>;
    CHECK(bench::retrieval_heads(made, kHeadsQ, kHeads, 0) == Heads(8, 0));
    CHECK(bench::retrieval_heads(made, kHeadsQ, kHeads, 6) == Heads{0, 0, 1, 0, 0, 0, 0, 0});
    CHECK(bench::retrieval_heads(made, kHeadsQ, kHeads, 12) == Heads{1, 0, 1, 0, 0, 0, 0, 0});
    CHECK(bench::retrieval_heads(made, kHeadsQ, kHeads, 25) == Heads{1, 0, 1, 0, 1, 0, 0, 0});
    CHECK(bench::retrieval_heads(made, kHeadsQ, kHeads, 100) == Heads(8, 1));
}

TEST_CASE("razor's KV is to attention what sinks, window and one token of such a weight are", "[bench]") {
    const test_engine::TemporaryFolder folder;
    auto trial = make_trial(folder);
    const auto kv = trial.compute_prompt(1).value();
    std::vector<std::uint8_t> heads(kLayers * kHeads, 1);
    const bench::KvLeft whole = bench::razor(trial, kv, heads);
    CHECK(whole.kv == kv);
    CHECK(whole.bytes == kv.size());
    heads[1 * kHeads + 2] = 0;
    const bench::KvLeft left = bench::razor(trial, kv, heads);
    constexpr std::uint32_t kRecent = 120;  // the last fifth begins
    constexpr std::uint32_t kDropped = kRecent - 4;
    CHECK(left.bytes == kv.size() - 2 * (kDropped - 1) * kDim * sizeof(float));
    std::size_t changed = 0;
    for (std::size_t i = 0; i < kv.size() / sizeof(float); ++i) {
        changed += value(kv, i) != value(left.kv, i) ? 1 : 0;
    }
    CHECK(changed <= 2 * kDropped * kDim);
    CHECK(changed > kDropped * kDim);

    const auto query = trial.queries().of(1, kTokens - 1, 2 * kHeadsQ / kHeads);
    double weights = 0;
    std::vector<double> by_shape(kDim, 0);
    for (std::uint32_t token = 0; token < kTokens; ++token) {
        const double weight = std::exp(product(query, left.kv, at(1, 0, 2, token)));
        weights += weight;
        for (std::uint32_t d = 0; d < kDim; ++d) {
            by_shape[d] += weight * static_cast<double>(value(left.kv, at(1, 1, 2, token) + d));
        }
    }
    std::vector<double> mean_key(kDim, 0);
    std::vector<double> mean_value(kDim, 0);
    for (std::uint32_t token = 4; token < kRecent; ++token) {
        for (std::uint32_t d = 0; d < kDim; ++d) {
            mean_key[d] += static_cast<double>(value(kv, at(1, 0, 2, token) + d)) / kDropped;
            mean_value[d] += static_cast<double>(value(kv, at(1, 1, 2, token) + d)) / kDropped;
        }
    }
    double logit = 0;
    for (std::uint32_t d = 0; d < kDim; ++d) {
        logit += static_cast<double>(query[d]) * mean_key[d] / std::sqrt(static_cast<double>(kDim));
    }
    double expected_weights = kDropped * std::exp(logit);
    std::vector<double> expected(kDim, 0);
    for (std::uint32_t d = 0; d < kDim; ++d) {
        expected[d] = expected_weights * mean_value[d];
    }
    for (std::uint32_t token = 0; token < kTokens; ++token) {
        if (token >= 4 && token < kRecent) { continue; }
        const double weight = std::exp(product(query, kv, at(1, 0, 2, token)));
        expected_weights += weight;
        for (std::uint32_t d = 0; d < kDim; ++d) {
            expected[d] += weight * static_cast<double>(value(kv, at(1, 1, 2, token) + d));
        }
    }
    for (std::uint32_t d = 0; d < kDim; ++d) {
        CHECK(by_shape[d] / weights == Approx(expected[d] / expected_weights).margin(1e-4));
    }
}

TEST_CASE("think drops the channels of keys that the last queries see least, and nothing of the last tokens",
          "[bench]") {
    const test_engine::TemporaryFolder folder;
    auto trial = make_trial(folder);
    const auto kv = trial.compute_prompt(0).value();
    CHECK(bench::think(trial, kv, 0).kv == kv);
    const bench::KvLeft left = bench::think(trial, kv, 40);  // 3 of 8
    constexpr std::uint32_t kWhole = kTokens - 32;
    CHECK(left.bytes == kv.size() - std::size_t{kLayers} * kHeads * (kWhole * 3 * sizeof(float) - 1));
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
        for (std::uint32_t head = 0; head < kHeads; ++head) {
            std::vector<double> scores(kDim, 0);
            for (std::uint32_t d = 0; d < kDim; ++d) {
                double asked = 0;
                double seen = 0;
                for (std::uint32_t token = 0; token < kTokens; ++token) {
                    seen += std::pow(static_cast<double>(value(kv, at(layer, 0, head, token) + d)), 2);
                    for (std::uint32_t q = 2 * head; q < 2 * head + 2 && token >= kWhole; ++q) {
                        asked += std::pow(static_cast<double>(trial.queries().of(layer, token, q)[d]), 2);
                    }
                }
                scores[d] = asked * seen;
            }
            std::vector<double> sorted = scores;
            std::sort(sorted.begin(), sorted.end());
            for (std::uint32_t token = 0; token < kTokens; ++token) {
                for (std::uint32_t d = 0; d < kDim; ++d) {
                    const bool is_gone = token < kWhole && scores[d] < (sorted[2] + sorted[3]) / 2;
                    const std::size_t key = at(layer, 0, head, token) + d;
                    REQUIRE(value(left.kv, key) == (is_gone ? 0.0f : value(kv, key)));
                    const std::size_t same = at(layer, 1, head, token) + d;
                    REQUIRE(value(left.kv, same) == value(kv, same));
                }
            }
        }
    }
}

TEST_CASE("policies stand beside codecs, and say what they cannot do", "[bench]") {
    const test_engine::TemporaryFolder folder;
    make_trial(folder, false);
    bench::KvQualityOptions options;
    options.trial.model_dir = std::string(SLUICE_SOURCE_DIR) + "/models/stories260k";
    options.trial.text_path = folder.file("text.txt");
    options.trial.context = kTokens;
    options.trial.continuation = 40;
    options.trial.generated = 8;
    options.trial.windows = 2;
    options.trial.threads = 1;
    options.trial.packed_dir = folder.file("packed");
    options.codecs = {"raw", "razor", "think"};
    const auto report = bench::measure_kv_quality(options);
    REQUIRE(report);
    REQUIRE(report->rows.size() == 7);
    CHECK(report->rows[1].codec == "razor");
    CHECK(report->rows[1].level == 50);
    CHECK(report->rows[4].codec == "think");
    const double raw_bits = report->rows[0].bits_per_value;
    for (std::size_t i = 1; i < report->rows.size(); ++i) {
        CAPTURE(i);
        CHECK(report->rows[i].bits_per_value < raw_bits);
        CHECK(report->rows[i].relative_error > 0);
        if (i != 1 && i != 4) { CHECK(report->rows[i].bits_per_value <= report->rows[i - 1].bits_per_value); }
    }
    options.codecs = {"razor"};
    options.levels = {100};
    CHECK(bench::measure_kv_quality(options)->rows[0].bits_per_value == raw_bits);
    options.levels = {101};
    CHECK(bench::measure_kv_quality(options).error().message.find("a percentage") != std::string::npos);
    options.levels = {};
    options.trial.context = 24;
    CHECK(bench::measure_kv_quality(options).error().message.find("--context of 32") != std::string::npos);
}
