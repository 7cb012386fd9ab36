// Numbers do not depend on company (design 4.1): a sequence gives the same bits alone, in any batch, in any chunks,
// with any number of threads, with a prefix that another sequence has computed, and after its KV has moved.
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "engine/engine.h"
#include "kv_cache/kv_pack.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

namespace {

using test_engine::run_step;
using test_engine::Share;
using test_engine::Stream;

struct Variant {
    std::string family;
    std::string dtype;
};

std::vector<Variant> variants() {
    std::vector<Variant> all;
    for (const std::string& family : test_engine::families_here()) {
        for (const char* dtype : {"F32", "BF16"}) {
            all.push_back({family, dtype});
        }
    }
    return all;
}

/// The plain loops of the reference are slow, above all under a sanitizer.
unsigned seeds_of(const Variant& variant) {
    return variant.family == "reference" ? 1 : 4;
}

/// Hands out blocks in a scattered order, never the same twice in one test.
class Blocks {
public:
    Blocks(std::uint32_t total, std::mt19937& random) {
        for (std::uint32_t i = 0; i < total; ++i) {
            free_.push_back(base::BlockId{i});
        }
        std::shuffle(free_.begin(), free_.end(), random);
    }
    std::vector<base::BlockId> take(std::uint32_t tokens) {
        std::vector<base::BlockId> blocks;
        for (std::uint32_t i = 0; i < (tokens + 15) / 16; ++i) {
            REQUIRE_FALSE(free_.empty());
            blocks.push_back(free_.back());
            free_.pop_back();
        }
        return blocks;
    }

private:
    std::vector<base::BlockId> free_;
};

constexpr std::uint32_t kNewTokens = 6;

std::vector<Stream> make_streams(std::mt19937& random, std::uint32_t count, std::uint32_t vocabulary) {
    std::vector<Stream> streams(count);
    for (Stream& stream : streams) {
        // One in three is longer than a partition of attention (256 keys).
        const std::size_t prompt_tokens = random() % 3 == 0 ? 240 + random() % 400 : 1 + random() % 90;
        stream.prompt = test_engine::random_tokens(random, prompt_tokens, vocabulary);
        if (random() % 2 == 0) {
            stream.params.temperature = 0.8f;
            stream.params.top_p = random() % 2 == 0 ? 0.9f : 1.0f;
            stream.params.seed = random();
            stream.params.repetition_penalty = 1.1f;
        }
        stream.params.logprobs = true;
        stream.params.top_logprobs = 3;
    }
    return streams;
}

/// The prompt in one piece, then one token at a time, nothing else in the batch.
void run_alone(engine::Engine& engine, Stream& stream) {
    while (stream.generated.size() < kNewTokens) {
        const auto left = static_cast<std::uint32_t>(stream.tokens().size()) - stream.computed;
        REQUIRE(run_step(engine, {{&stream, left}}));
    }
}

/// All streams together, in random batches and chunks.
void run_mixed(engine::Engine& engine, std::vector<Stream*> streams, std::mt19937& random) {
    while (!streams.empty()) {
        std::shuffle(streams.begin(), streams.end(), random);
        std::vector<Share> shares;
        std::uint32_t room = 128;
        for (Stream* stream : streams) {
            if (shares.size() == 16 || (!shares.empty() && random() % 4 == 0)) { break; }
            const auto left = static_cast<std::uint32_t>(stream->tokens().size()) - stream->computed;
            const std::uint32_t most = std::min({left, room, static_cast<std::uint32_t>(1 + random() % 120)});
            if (most == 0) { break; }
            shares.push_back({stream, random() % 3 == 0 ? static_cast<std::uint32_t>(1 + random() % most) : most});
            room -= shares.back().tokens;
        }
        REQUIRE(run_step(engine, shares));
        std::erase_if(streams, [](const Stream* stream) { return stream->generated.size() >= kNewTokens; });
    }
}

void require_same(const Stream& got, const Stream& expected) {
    REQUIRE(got.generated == expected.generated);
    REQUIRE(got.logits.size() + got.prompt.size() + got.generated.size() >=
            expected.logits.size());  // a prefix that was not computed has no logits
    const std::size_t skipped = expected.logits.size() - got.logits.size();
    for (std::size_t i = 0; i < got.logits.size(); ++i) {
        CAPTURE(i, skipped);
        const auto& a = got.logits[i];
        const auto& b = expected.logits[skipped + i];
        REQUIRE(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
    }
    for (std::size_t i = 0; i < got.chosen.size(); ++i) {
        REQUIRE(got.chosen[i].logprob == expected.chosen[i].logprob);
        REQUIRE(got.chosen[i].top.size() == expected.chosen[i].top.size());
        for (std::size_t k = 0; k < got.chosen[i].top.size(); ++k) {
            REQUIRE(got.chosen[i].top[k].token == expected.chosen[i].top[k].token);
            REQUIRE(got.chosen[i].top[k].logprob == expected.chosen[i].top[k].logprob);
        }
    }
}

/// Engines of one variant over one random model, made once for all seeds.
struct Engines {
    test_engine::TemporaryFolder folder;
    std::unique_ptr<engine::Engine> one_thread;
    std::unique_ptr<engine::Engine> two_threads;

    explicit Engines(const Variant& variant) {
        base::ModelShape shape = test_engine::small_shape();
        shape.qk_norm = true;
        shape.architecture = "Qwen3ForCausalLM";
        test_engine::write_random_model(folder.file("model"), shape, variant.dtype);
        auto options = test_engine::options_for(folder.file("model"), folder.file("packed"));
        options.kernels = variant.family;
        one_thread = test_engine::load(options);
        options.threads = 2;
        options.layer_group = 1;
        two_threads = test_engine::load(options);
    }
};

Engines& engines_of(const Variant& variant) {
    static std::map<std::string, std::unique_ptr<Engines>> all;
    auto& engines = all[variant.family + variant.dtype];
    if (!engines) { engines = std::make_unique<Engines>(variant); }
    return *engines;
}

}  // namespace

TEST_CASE("a sequence gives the same bits alone and in random batches and chunks, with one and two threads",
          "[engine][property]") {
    for (const Variant& variant : variants()) {
        for (unsigned seed = 0; seed < seeds_of(variant); ++seed) {
            CAPTURE(variant.family, variant.dtype, seed);
            Engines& engines = engines_of(variant);
            std::mt19937 random{seed};
            std::vector<Stream> expected = make_streams(random, 6, 250);
            std::vector<Stream> streams = expected;
            std::vector<Stream> threaded = expected;
            {
                Blocks blocks(engines.one_thread->blocks_total(), random);
                for (Stream& stream : expected) {
                    stream.blocks = blocks.take(700);
                    run_alone(*engines.one_thread, stream);
                }
            }
            for (auto* set : {&streams, &threaded}) {
                engine::Engine& engine = set == &streams ? *engines.one_thread : *engines.two_threads;
                Blocks blocks(engine.blocks_total(), random);
                std::vector<Stream*> pointers;
                for (Stream& stream : *set) {
                    stream.blocks = blocks.take(700);
                    pointers.push_back(&stream);
                }
                run_mixed(engine, pointers, random);
                for (std::size_t i = 0; i < set->size(); ++i) {
                    require_same((*set)[i], expected[i]);
                }
            }
        }
    }
}

TEST_CASE("a prefix that another sequence has computed gives the same bits as one's own", "[engine][property]") {
    for (const Variant& variant : variants()) {
        for (unsigned seed = 0; seed < seeds_of(variant); ++seed) {
            CAPTURE(variant.family, variant.dtype, seed);
            engine::Engine& engine = *engines_of(variant).one_thread;
            std::mt19937 random{seed};
            const auto prefix = test_engine::random_tokens(random, 16 * (1 + random() % 4), 250);
            std::vector<Stream> pair = make_streams(random, 2, 250);
            for (Stream& stream : pair) {
                stream.prompt.insert(stream.prompt.begin(), prefix.begin(), prefix.end());
            }
            Stream expected = pair[1];

            Blocks blocks(engine.blocks_total(), random);
            pair[0].blocks = blocks.take(750);
            run_mixed(engine, {&pair[0]}, random);
            expected.blocks = blocks.take(750);
            run_alone(engine, expected);

            Stream& hit = pair[1];  // the first blocks of the other's table, then its own
            hit.blocks = blocks.take(750);
            std::copy_n(pair[0].blocks.begin(), prefix.size() / 16, hit.blocks.begin());
            hit.computed = static_cast<std::uint32_t>(prefix.size());
            run_mixed(engine, {&hit}, random);
            require_same(hit, expected);
        }
    }
}

TEST_CASE("KV that was packed for the wire and unpacked into another engine continues with the same bits",
          "[engine][property]") {
    for (const Variant& variant : variants()) {
        for (unsigned seed = 0; seed < seeds_of(variant); ++seed) {
            CAPTURE(variant.family, variant.dtype, seed);
            Engines& engines = engines_of(variant);
            engine::Engine& from = *engines.one_thread;
            engine::Engine& to = *engines.two_threads;
            REQUIRE(from.numerics_id() == to.numerics_id());
            std::mt19937 random{seed};
            Stream expected = make_streams(random, 1, 250)[0];
            Stream moved = expected;
            Blocks blocks(from.blocks_total(), random);
            expected.blocks = blocks.take(700);
            run_alone(from, expected);

            moved.blocks = blocks.take(700);
            REQUIRE(run_step(from, {{&moved, static_cast<std::uint32_t>(moved.prompt.size())}}));
            const kv_cache::KvRange range{0, 3, 0, moved.computed};
            std::vector<std::byte> wire(from.layout().wire_bytes(range));
            kv_cache::pack(from.kv_store(), moved.blocks, range, wire);
            Blocks blocks_there(to.blocks_total(), random);
            moved.blocks = blocks_there.take(700);
            kv_cache::unpack(to.kv_store(), moved.blocks, range, wire);
            run_mixed(to, {&moved}, random);
            require_same(moved, expected);
        }
    }
}

TEST_CASE("a row's logits do not depend on which other rows are asked for", "[engine][property]") {
    // The last layer computes wanted rows only; asking for all rows must not change the one that is sampled.
    for (const Variant& variant : variants()) {
        CAPTURE(variant.family, variant.dtype);
        engine::Engine& engine = *engines_of(variant).two_threads;
        std::mt19937 random{11};
        std::vector<Stream> kept = make_streams(random, 4, 250);
        std::vector<Stream> bare = kept;
        Blocks blocks(engine.blocks_total(), random);
        for (std::size_t i = 0; i < kept.size(); ++i) {
            kept[i].prompt.resize(std::min<std::size_t>(kept[i].prompt.size(), 30));
            bare[i].prompt = kept[i].prompt;
            kept[i].blocks = blocks.take(100);
            bare[i].blocks = blocks.take(100);
        }
        for (std::uint32_t step = 0; step < kNewTokens; ++step) {
            for (auto* set : {&kept, &bare}) {
                std::vector<Share> shares;
                for (Stream& stream : *set) {
                    shares.push_back({&stream, static_cast<std::uint32_t>(stream.tokens().size()) - stream.computed});
                }
                REQUIRE(run_step(engine, shares, set == &kept));
            }
        }
        for (std::size_t i = 0; i < kept.size(); ++i) {
            REQUIRE(bare[i].generated == kept[i].generated);
            for (std::size_t k = 0; k < kNewTokens; ++k) {
                REQUIRE(bare[i].chosen[k].logprob == kept[i].chosen[k].logprob);
            }
        }
    }
}
