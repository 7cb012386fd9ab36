#include "bench/perplexity.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "tests/engine/support.h"
#include "text/tokenizer.h"

#include "tests/support/catch.h"

namespace {

const std::string kModel = std::string(SLUICE_SOURCE_DIR) + "/models/stories260k";
constexpr base::TokenId kBos = 1;

/// Text that the model half knows: a story, and what it has never seen.
std::string some_text() {
    std::string text;
    for (int i = 0; i < 12; ++i) {
        text += "Once upon a time, there was a little girl named Lily. She loved to play outside in the park number " +
                std::to_string(i * 7919) + ". One day, her mom said \"zebra\" & went home.\n";
    }
    return text;
}

/// -ln of what a softmax over `logits` gives to `target`, in long double.
double nll_of(const std::vector<float>& logits, base::TokenId target) {
    long double largest = -std::numeric_limits<long double>::infinity();
    for (const float logit : logits) {
        largest = std::max(largest, static_cast<long double>(logit));
    }
    long double sum = 0;
    for (const float logit : logits) {
        sum += std::exp(static_cast<long double>(logit) - largest);
    }
    return static_cast<double>(std::log(sum) + largest -
                               static_cast<long double>(logits[static_cast<std::size_t>(target)]));
}

/// The same figures from single-token steps whose logits are kept, window after window.
bench::Likelihood brute_force(engine::Engine& engine, const std::vector<base::TokenId>& text, std::size_t context,
                              std::size_t windows) {
    bench::Likelihood likelihood;
    for (std::size_t window = 0; window < windows; ++window) {
        test_engine::Stream stream;
        for (std::uint32_t block = 0; block < engine.blocks_total(); ++block) {
            stream.blocks.push_back(base::BlockId{block});
        }
        for (std::size_t i = 0; i < context; ++i) {
            stream.prompt.push_back(i == 0 ? kBos : text[window * context + i]);
        }
        for (std::size_t i = 0; i < context; ++i) {
            REQUIRE(test_engine::run_step(engine, {{&stream, 1}}));
        }
        REQUIRE(stream.logits.size() >= context);
        for (std::size_t i = context / 2 + 1; i < context; ++i) {
            likelihood.add(nll_of(stream.logits[i - 1], stream.prompt[i]));
        }
    }
    return likelihood;
}

}  // namespace

TEST_CASE("perplexity is that of single steps whose logits are summed by hand", "[bench]") {
    const test_engine::TemporaryFolder folder;
    std::ofstream(folder.file("text.txt")) << some_text();
    const auto tokenizer = text::Tokenizer::load(kModel);
    REQUIRE(tokenizer);
    auto tokens = (*tokenizer)->encode(some_text());
    REQUIRE(tokens);
    tokens->insert(tokens->begin(), kBos);

    for (const std::uint32_t context : {64u, 75u}) {
        const std::size_t windows = tokens->size() / context;
        REQUIRE(windows >= 4);
        auto options = test_engine::options_for(kModel, folder.file("packed"));
        const bench::Likelihood expected = brute_force(*test_engine::load(options), *tokens, context, windows);
        bench::PerplexityOptions bench_options;
        bench_options.model_dir = kModel;
        bench_options.text_path = folder.file("text.txt");
        bench_options.context = context;
        bench_options.threads = 1;
        bench_options.packed_dir = folder.file("packed");
        for (const std::uint32_t batch_tokens : {512u, 7u}) {
            CAPTURE(context, batch_tokens);
            bench_options.batch_tokens_max = batch_tokens;
            const auto report = bench::measure_perplexity(bench_options);
            REQUIRE(report);
            REQUIRE(report->has_bos);
            REQUIRE(report->plan.windows == windows);
            const bench::Likelihood& got = report->likelihood;
            REQUIRE(got.tokens == windows * (context - context / 2 - 1));
            REQUIRE(got.tokens == expected.tokens);
            REQUIRE(std::abs(got.perplexity() / expected.perplexity() - 1) < 1e-6);
            REQUIRE(std::abs(got.perplexity_error() / expected.perplexity_error() - 1) < 1e-6);
            std::size_t bytes = 0;
            for (std::size_t window = 0; window < windows; ++window) {
                for (std::size_t i = context / 2 + 1; i < context; ++i) {
                    const base::TokenId one[] = {(*tokens)[window * context + i]};
                    bytes += (*tokenizer)->token_bytes(one[0]).size();
                }
            }
            REQUIRE(report->bytes_scored == bytes);
            REQUIRE(std::abs(report->bits_per_byte() - expected.nll / std::log(2.0) / static_cast<double>(bytes)) <
                    1e-5);
        }
    }
}

TEST_CASE("likelihoods add up, and their error is that of the mean", "[bench]") {
    bench::Likelihood all;
    bench::Likelihood parts[2];
    for (int i = 0; i < 6; ++i) {
        all.add(i);
        parts[i % 2].add(i);
    }
    parts[0].add(parts[1]);
    REQUIRE(parts[0].tokens == 6);
    REQUIRE(parts[0].perplexity() == all.perplexity());
    REQUIRE(std::abs(all.perplexity() - std::exp(2.5)) < 1e-12);
    // The variance of 0..5 is 35 / 12.
    REQUIRE(std::abs(all.perplexity_error() - std::exp(2.5) * std::sqrt(35.0 / 12.0 / 5.0)) < 1e-12);
    bench::Likelihood one;
    REQUIRE(std::isnan(one.perplexity()));
    one.add(2);
    REQUIRE(one.perplexity_error() == 0);
}

TEST_CASE("a text is cut into whole windows, at most as many as asked for", "[bench]") {
    REQUIRE(bench::plan_windows(1023, 512, 0)->windows == 1);
    REQUIRE(bench::plan_windows(1024, 512, 0)->windows == 2);
    REQUIRE(bench::plan_windows(99999, 512, 3)->windows == 3);
    REQUIRE(bench::plan_windows(512, 512, 0)->first_scored() == 257);
    REQUIRE(bench::plan_windows(512, 512, 0)->scored_each() == 255);
    const auto refused = bench::plan_windows(511, 512, 0);
    REQUIRE(!refused);
    REQUIRE(refused.error().message.find("511") != std::string::npos);
}

TEST_CASE("a window that the model has no room for is refused with both numbers", "[bench]") {
    const test_engine::TemporaryFolder folder;
    std::ofstream(folder.file("text.txt")) << some_text();
    bench::PerplexityOptions options;
    options.model_dir = kModel;
    options.text_path = folder.file("text.txt");
    options.context = 513;
    const auto refused = bench::measure_perplexity(options);
    REQUIRE(!refused);
    REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
    REQUIRE(refused.error().message.find("513") != std::string::npos);
    REQUIRE(refused.error().message.find("512") != std::string::npos);
}
