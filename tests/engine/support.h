#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/model_shape.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/kernels/backend.h"
#include "engine/model/checkpoint_writer.h"

namespace test_engine {

/// A new empty folder, removed at the end.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "sluice-engine-XXXXXX").string();
        path_ = ::mkdtemp(pattern.data());
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    const std::filesystem::path& path() const { return path_; }
    std::string file(const std::string& name) const { return (path_ / name).string(); }

private:
    std::filesystem::path path_;
};

/// A model of some thousand weights with grouped heads, an intermediate size that is no multiple of 16, and room for
/// 1024 tokens.
inline base::ModelShape small_shape() {
    base::ModelShape shape;
    shape.architecture = "LlamaForCausalLM";
    shape.layers = 3;
    shape.hidden = 64;
    shape.intermediate = 100;
    shape.heads_q = 4;
    shape.heads_kv = 2;
    shape.head_dim = 16;
    shape.vocabulary = 250;
    shape.context_tokens = 1024;
    return shape;
}

inline void write_random_model(const std::string& dir, const base::ModelShape& shape, const std::string& dtype,
                               std::uint64_t seed = 1) {
    const auto written =
        engine::write_checkpoint(dir, shape, engine::random_tensors(shape, dtype, seed), std::uint64_t{1} << 40);
    if (!written) { throw std::runtime_error(written.error().message); }
}

/// The kernel families that this machine can run; "reference" is always one.
inline std::vector<std::string> families_here() {
    std::vector<std::string> families;
    for (const char* family : {"reference", "avx2", "avx512", "amx"}) {
        if (engine::make_backend({.family = family, .threads = 1, .cpus = {}})) { families.emplace_back(family); }
    }
    return families;
}

inline engine::EngineOptions options_for(const std::string& model_dir, const std::string& packed_dir) {
    engine::EngineOptions options;
    options.model_dir = model_dir;
    options.packed_dir = packed_dir;
    options.kv_pool_bytes = 4u << 20;
    options.batch_tokens_max = 768;
    options.batch_sequences_max = 16;
    return options;
}

inline std::unique_ptr<engine::Engine> load(const engine::EngineOptions& options) {
    auto engine = engine::load_engine(options);
    if (!engine) { throw std::runtime_error(engine.error().message); }
    return std::move(*engine);
}

/// One stream of tokens that a test runs by hand: its tokens, its blocks, how far it is computed.
struct Stream {
    std::vector<base::TokenId> prompt;
    std::vector<base::TokenId> generated;
    std::vector<base::BlockId> blocks;
    engine::SamplingParams params;
    std::uint32_t computed = 0;                // tokens whose KV is in the blocks
    std::vector<std::vector<float>> logits;    // per position, when kept
    std::vector<engine::SampledToken> chosen;  // as the engine gave them

    std::vector<base::TokenId> tokens() const {
        std::vector<base::TokenId> all = prompt;
        all.insert(all.end(), generated.begin(), generated.end());
        return all;
    }
};

/// A part of a step: the next `tokens` tokens of a stream.
struct Share {
    Stream* stream = nullptr;
    std::uint32_t tokens = 0;
};

/// Runs one step; a share that reaches the end of its stream's tokens also samples the next one. Error: collect()'s,
/// else the first of an entry.
inline base::Result<void> run_step(engine::Engine& engine, const std::vector<Share>& shares, bool keep_logits = true,
                                   engine::LayersDone layers_done = {}) {
    engine::Batch batch;
    batch.keep_logits = keep_logits;
    for (std::size_t i = 0; i < shares.size(); ++i) {
        Stream& stream = *shares[i].stream;
        const std::vector<base::TokenId> all = stream.tokens();
        const auto tokens = std::span(all).subspan(stream.computed, shares[i].tokens);
        engine::BatchEntry& entry = batch.add();
        entry.sequence = base::SequenceId{i};
        entry.tokens.assign(tokens.begin(), tokens.end());
        entry.position = stream.computed;
        entry.set_blocks(stream.blocks);
        entry.sample = stream.computed + shares[i].tokens == all.size();
        entry.sampler.assign(
            {.params = &stream.params, .position = all.size(), .prompt = stream.prompt, .generated = stream.generated});
    }
    auto result = engine::run_to_end(engine, std::move(batch), std::move(layers_done));
    if (!result) { return base::pass_on(result); }
    const std::size_t vocabulary = engine.shape().vocabulary;
    std::optional<base::Error> first_error;
    for (std::size_t i = 0; i < shares.size(); ++i) {
        Stream& stream = *shares[i].stream;
        engine::EntryResult& entry = result->entries[i];
        if (entry.error && !first_error) { first_error = entry.error; }
        stream.computed += shares[i].tokens;
        for (std::size_t row = 0; row * vocabulary < entry.logits.size(); ++row) {
            const auto begin = entry.logits.begin() + static_cast<std::ptrdiff_t>(row * vocabulary);
            stream.logits.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(vocabulary));
        }
        if (entry.sampled) {
            stream.generated.push_back(entry.sampled->token);
            stream.chosen.push_back(std::move(*entry.sampled));
        }
    }
    if (first_error) { return base::fail(first_error->code, first_error->message); }
    return {};
}

/// Blocks [first, first + count).
inline std::vector<base::BlockId> block_run(std::uint32_t first, std::uint32_t count) {
    std::vector<base::BlockId> blocks(count);
    for (std::uint32_t i = 0; i < count; ++i) {
        blocks[i] = base::BlockId{first + i};
    }
    return blocks;
}

inline std::vector<base::TokenId> random_tokens(std::mt19937& random, std::size_t count, std::uint32_t vocabulary) {
    std::uniform_int_distribution<base::TokenId> any(0, static_cast<base::TokenId>(vocabulary) - 1);
    std::vector<base::TokenId> tokens(count);
    for (base::TokenId& token : tokens) {
        token = any(random);
    }
    return tokens;
}

}  // namespace test_engine
