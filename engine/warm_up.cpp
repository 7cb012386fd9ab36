#include "engine/warm_up.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace engine {
namespace {

class WarmUp {
public:
    explicit WarmUp(Engine& engine) : engine_(engine) {
        for (std::uint32_t i = 0; i < engine.blocks_total(); ++i) {
            blocks_.push_back(base::BlockId{i});
        }
    }

    /// Tokens of one sequence that there is room for.
    std::uint32_t room() const {
        const std::uint64_t tokens = std::uint64_t{engine_.blocks_total()} * engine_.layout().block_tokens();
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(tokens, engine_.shape().context_tokens));
    }

    /// `sequences` sequences of `tokens` tokens each, whose next tokens are chosen greedily.
    base::Result<void> step(std::uint32_t sequences, std::uint32_t tokens) {
        const std::uint32_t block_tokens = engine_.layout().block_tokens();
        const std::size_t blocks_each = (tokens + block_tokens - 1) / block_tokens;
        Batch batch;
        for (std::uint32_t i = 0; i < sequences; ++i) {
            BatchEntry& entry = batch.add();
            entry.sequence = base::SequenceId{i};
            entry.tokens.assign(tokens, 0);
            entry.set_blocks(std::span(blocks_).subspan(i * blocks_each, blocks_each));
            entry.sample = true;
            entry.sampler.position = tokens;
        }
        const auto result = run_to_end(engine_, std::move(batch));
        if (!result) { return base::pass_on(result); }
        return {};
    }

private:
    Engine& engine_;
    std::vector<base::BlockId> blocks_;
};

/// The next number of sequences: as fine as recorded steps are at most.
std::uint32_t next_size(std::uint32_t sequences) {
    return sequences < 8 ? sequences + 1 : (sequences / 8 + 1) * 8;
}

}  // namespace

base::Result<void> warm_up(Engine& engine, std::uint32_t batch_tokens_max, std::uint32_t batch_sequences_max) {
    WarmUp run(engine);
    const std::uint32_t chunk_max = std::min(batch_tokens_max, run.room());
    for (std::uint64_t tokens = 16; tokens < 2 * std::uint64_t{chunk_max}; tokens *= 2) {
        const auto chunk = static_cast<std::uint32_t>(std::min<std::uint64_t>(tokens, chunk_max));
        if (auto done = run.step(1, chunk); !done) { return done; }
    }
    const std::uint32_t sequences_max = std::min({batch_sequences_max, batch_tokens_max, engine.blocks_total()});
    for (std::uint32_t sequences = 0; sequences < sequences_max;) {
        sequences = std::min(next_size(sequences), sequences_max);
        for (int time = 0; time < 2; ++time) {
            if (auto done = run.step(sequences, 1); !done) { return done; }
        }
    }
    return {};
}

base::Result<void> try_model(Engine& engine, std::uint32_t batch_tokens_max) {
    constexpr std::uint32_t kTokens = 8;
    const base::ModelShape& shape = engine.shape();
    std::uint32_t tokens = std::min({kTokens, shape.vocabulary, shape.context_tokens, batch_tokens_max});
    if (engine.keeps_kv()) { tokens = std::min(tokens, engine.layout().block_tokens()); }
    Batch batch;
    BatchEntry& entry = batch.add();
    for (std::uint32_t i = 0; i < tokens; ++i) {
        entry.tokens.push_back(static_cast<base::TokenId>(std::uint64_t{i} * shape.vocabulary / tokens));
    }
    if (engine.keeps_kv()) {
        entry.set_blocks(std::vector<base::BlockId>{base::BlockId{0}});
        entry.sample = true;
        entry.sampler.position = tokens;
    } else {
        entry.pooling = Pooling::own;
    }
    const auto result = run_to_end(engine, std::move(batch));
    if (!result) { return base::pass_on(result); }
    const EntryResult& answer = result->entries.front();
    const bool is_finite =
        std::all_of(answer.pooled.begin(), answer.pooled.end(), [](float value) { return std::isfinite(value); });
    if (!answer.error && is_finite) { return {}; }
    return base::fail(base::ErrorCode::data_loss,
                      "the model computes no numbers: " +
                          (answer.error ? answer.error->message : std::string("its vector is not finite")) +
                          ". Its weights or the configuration are damaged or do not belong together");
}

}  // namespace engine
