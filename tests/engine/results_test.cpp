// What an entry can ask for besides a token of its own choice: masks that come late, vectors, tokens taken back.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "kv_cache/kv_cache.h"
#include "tests/engine/support.h"
#include "tests/kv_cache/support.h"
#include "tests/support/catch.h"

namespace {

using base::ErrorCode;
using engine::Pooling;
using test_engine::block_run;
using test_engine::run_step;
using test_engine::Stream;

struct Setting {
    explicit Setting(const std::string& kernels, const std::string& dtype = "F32") {
        test_engine::write_random_model(options.model_dir, test_engine::small_shape(), dtype);
        options.kernels = kernels;
    }
    test_engine::TemporaryFolder folder;
    engine::EngineOptions options = test_engine::options_for(folder.file("model"), folder.file("packed"));
};

constexpr std::uint32_t kVocabulary = 250;

/// Every token but some.
std::vector<std::uint32_t> all_but(const std::vector<base::TokenId>& tokens) {
    std::vector<std::uint32_t> words((kVocabulary + 31) / 32, 0xffffffffu);
    for (const base::TokenId token : tokens) {
        words[static_cast<std::size_t>(token) / 32] &= ~(1u << (token % 32));
    }
    return words;
}

std::vector<base::TokenId> prompt_of(unsigned seed, std::size_t tokens) {
    std::mt19937 random{seed};
    return test_engine::random_tokens(random, tokens, kVocabulary);
}

/// An entry over a whole prompt in blocks from `first_block` on.
engine::BatchEntry& add_prompt(engine::Batch& batch, const std::vector<base::TokenId>& prompt,
                               std::uint32_t first_block) {
    engine::BatchEntry& entry = batch.add();
    entry.sequence = base::SequenceId{first_block};
    entry.tokens = prompt;
    entry.set_blocks(block_run(first_block, static_cast<std::uint32_t>(prompt.size() + 15) / 16));
    entry.sampler.position = prompt.size();
    return entry;
}

}  // namespace

TEST_CASE("a mask that comes while the forward pass runs decides what may be chosen", "[engine]") {
    for (const std::string& family : test_engine::families_here()) {
        CAPTURE(family);
        Setting setting(family);
        const auto engine = test_engine::load(setting.options);
        engine::Batch batch;
        batch.keep_logits = true;
        add_prompt(batch, prompt_of(1, 20), 0).sample = true;
        const auto free = engine::run_to_end(*engine, batch);
        REQUIRE(free);
        const base::TokenId best = free->entries.at(0).sampled->token;
        std::vector<float> logits(free->entries[0].logits.end() - kVocabulary, free->entries[0].logits.end());
        logits[static_cast<std::size_t>(best)] = -INFINITY;
        const auto second = static_cast<base::TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());

        batch.clear();
        batch.keep_logits = false;
        batch.mask_wait = std::chrono::minutes(1);
        engine::BatchEntry& entry = add_prompt(batch, prompt_of(1, 20), 0);
        entry.sample = true;
        const auto mask = std::make_shared<engine::LateMask>(kVocabulary);
        entry.mask = mask;
        std::jthread grammar;
        const auto first_layers = [&](std::uint32_t begin, std::uint32_t) {
            if (begin == 0) {
                grammar = std::jthread([&] { mask->set(all_but({best})); });
            }
        };
        const auto masked = engine::run_to_end(*engine, batch, first_layers);
        REQUIRE(masked);
        REQUIRE_FALSE(masked->entries.at(0).error);
        REQUIRE(masked->entries[0].sampled->token == second);
    }
}

TEST_CASE("a mask that does not come, or allows nothing, fails its own sequence only", "[engine]") {
    Setting setting("auto");
    const auto engine = test_engine::load(setting.options);
    engine::Batch batch;
    add_prompt(batch, prompt_of(2, 9), 0).sample = true;
    const auto alone = engine::run_to_end(*engine, batch);
    REQUIRE(alone);
    const auto expected = alone->entries.at(0).sampled->token;

    const auto mask = std::make_shared<engine::LateMask>(kVocabulary);
    engine::Batch both;
    both.mask_wait = {};
    engine::BatchEntry& masked = add_prompt(both, prompt_of(3, 30), 1);
    masked.sample = true;
    masked.mask = mask;
    add_prompt(both, prompt_of(2, 9), 0).sample = true;
    const auto outcome = [&] {
        const auto result = engine::run_to_end(*engine, both);
        REQUIRE(result);
        REQUIRE_FALSE(result->entries.at(0).sampled);
        REQUIRE(result->entries[1].sampled->token == expected);
        return result->entries[0].error.value();
    };
    SECTION("late") {
        REQUIRE(outcome().code == ErrorCode::deadline_exceeded);
        mask->set(all_but({}));  // late is not never
        REQUIRE(engine::run_to_end(*engine, both)->entries.at(0).sampled);
    }
    SECTION("never") {
        mask->fail({ErrorCode::invalid_argument, "the grammar is none"});
        const base::Error error = outcome();
        REQUIRE(error.code == ErrorCode::invalid_argument);
        REQUIRE(error.message == "the grammar is none");
    }
    SECTION("nothing is allowed") {
        mask->set(std::vector<std::uint32_t>(8, 0));
        REQUIRE(outcome().code == ErrorCode::failed_precondition);
    }
}

TEST_CASE("a mask is given once, and for every token", "[engine]") {
    engine::LateMask mask(33);
    REQUIRE_FALSE(mask.is_there());
    mask.set({1u, 1u});
    REQUIRE(mask.is_there());
    REQUIRE(mask.wait({})->size() == 2);
    REQUIRE(kv_cache_test::stops_the_process([&] { mask.set({1u, 1u}); }));
    REQUIRE(kv_cache_test::stops_the_process([] { engine::LateMask(33).set({1u}); }));
}

TEST_CASE("a sequence can ask for its last or mean hidden state instead of a token", "[engine]") {
    const auto prompt = prompt_of(4, 21);
    std::vector<float> reference[2];
    for (const std::string& family : test_engine::families_here()) {
        CAPTURE(family);
        Setting setting(family);
        setting.options.batch_sequences_max = 4;  // rows of logits at a time: rows of other kinds come in runs
        const auto engine = test_engine::load(setting.options);
        const auto pooled_alone = [&](Pooling pooling, const std::vector<base::TokenId>& tokens) {
            engine::Batch batch;
            add_prompt(batch, tokens, 0).pooling = pooling;
            const auto result = engine::run_to_end(*engine, batch);
            REQUIRE(result);
            REQUIRE_FALSE(result->entries.at(0).sampled);
            REQUIRE(result->entries[0].pooled.size() == test_engine::small_shape().hidden);
            return result->entries[0].pooled;
        };
        const auto last = pooled_alone(Pooling::last, prompt);
        const auto mean = pooled_alone(Pooling::mean, prompt);

        // The last states of all beginnings are what the mean is of.
        std::vector<double> sum(last.size());
        for (std::size_t tokens = 1; tokens <= prompt.size(); ++tokens) {
            const auto state = pooled_alone(Pooling::last, {prompt.begin(), prompt.begin() + static_cast<int>(tokens)});
            for (std::size_t i = 0; i < sum.size(); ++i) {
                sum[i] += static_cast<double>(state[i]);
            }
            if (tokens == prompt.size()) { REQUIRE(state == last); }
        }
        for (std::size_t i = 0; i < sum.size(); ++i) {
            REQUIRE(mean[i] == static_cast<float>(sum[i] / static_cast<double>(prompt.size())));
        }

        // In company: the same bits, and the others' tokens and scores are theirs.
        engine::Batch batch;
        add_prompt(batch, prompt_of(5, 7), 10).sample = true;
        add_prompt(batch, prompt, 0).pooling = Pooling::mean;
        engine::BatchEntry& scored = add_prompt(batch, prompt_of(6, 9), 12);
        scored.score = true;
        scored.score_targets.assign(9, 3);
        add_prompt(batch, prompt, 4).pooling = Pooling::last;
        const auto together = engine::run_to_end(*engine, batch);
        REQUIRE(together);
        REQUIRE(together->entries.at(1).pooled == mean);
        REQUIRE(together->entries.at(3).pooled == last);
        engine::Batch others;
        add_prompt(others, prompt_of(5, 7), 10).sample = true;
        engine::BatchEntry& scored_alone = add_prompt(others, prompt_of(6, 9), 12);
        scored_alone.score = true;
        scored_alone.score_targets.assign(9, 3);
        const auto apart = engine::run_to_end(*engine, others);
        REQUIRE(apart);
        REQUIRE(together->entries[0].sampled->token == apart->entries.at(0).sampled->token);
        REQUIRE(together->entries[2].scores.size() == 9);
        for (std::size_t i = 0; i < 9; ++i) {
            REQUIRE(together->entries[2].scores[i].logprob == apart->entries.at(1).scores.at(i).logprob);
        }

        // The plain loops say the same.
        if (family == "reference") {
            reference[0] = last;
            reference[1] = mean;
        }
        for (std::size_t i = 0; i < last.size(); ++i) {
            CAPTURE(i);
            REQUIRE(last[i] == Approx(reference[0][i]).margin(1e-3));
            REQUIRE(mean[i] == Approx(reference[1][i]).margin(1e-3));
        }
    }
}

TEST_CASE("after guesses are taken back, decoding gives the bits as if they had never been", "[engine]") {
    for (const std::string& family : test_engine::families_here()) {
        for (const char* dtype : {"F32", "BF16"}) {
            CAPTURE(family, dtype);
            Setting setting(family, dtype);
            const auto engine = test_engine::load(setting.options);
            Stream expected;  // never guesses
            expected.prompt = prompt_of(7, 30);
            expected.blocks = block_run(engine->blocks_total() - 4, 4);
            for (const std::uint32_t tokens : {30u, 1u, 1u, 1u, 1u}) {
                REQUIRE(run_step(*engine, {{&expected, tokens}}));
            }

            kv_cache::KvCache cache({.blocks_total = engine->blocks_total() - 4, .block_tokens = 16});
            auto opened = cache.open({}, 30);
            REQUIRE(opened);
            kv_cache::SequenceKv kv = std::move(*opened);
            Stream stream;
            stream.prompt = expected.prompt;
            const auto step = [&](const std::vector<base::TokenId>& tokens) {  // logits of every token
                REQUIRE(kv.reserve(stream.computed + static_cast<std::uint32_t>(tokens.size())));
                engine::Batch batch;
                batch.keep_logits = true;
                engine::BatchEntry& entry = batch.add();
                entry.tokens = tokens;
                entry.position = stream.computed;
                entry.set_blocks(kv.blocks());
                const auto result = engine::run_to_end(*engine, batch);
                REQUIRE(result);
                stream.computed += static_cast<std::uint32_t>(tokens.size());
                return result->entries.at(0).logits;
            };
            const auto row = [&](const std::vector<float>& logits, std::size_t i) {
                const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(i * kVocabulary);
                return std::vector<float>(begin, begin + kVocabulary);
            };
            REQUIRE(row(step(stream.prompt), 29) == expected.logits[29]);
            kv.publish(kv_cache_test::make_chain(1, 1));  // the first block: full, from now on nobody writes it
            const std::byte* published = engine->kv_store().block(kv.blocks()[0]);
            const std::vector<std::byte> before(published, published + engine->layout().block_bytes());

            for (std::size_t i = 0; i + 1 < expected.generated.size(); ++i) {
                CAPTURE(i);
                // One token that is right, three that are not, over the end of a block.
                const base::TokenId right = expected.generated[i];
                const base::TokenId wrong = (right + 1) % static_cast<base::TokenId>(kVocabulary);
                REQUIRE(row(step({right, wrong, wrong, wrong}), 0) == expected.logits[30 + i]);
                stream.computed -= 3;
                REQUIRE(engine->truncate(base::SequenceId{}, stream.computed));
                kv.truncate(stream.computed);
                REQUIRE(kv.blocks().size() == (stream.computed + 15) / 16);
            }
            REQUIRE(std::equal(before.begin(), before.end(), published));
        }
    }
}
