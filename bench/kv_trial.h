#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "bench/kv_recall.h"
#include "engine/engine.h"
#include "kv_cache/kv_access.h"
#include "kv_transfer/codec/codecs.h"

namespace bench {

/// A model and a text in windows, for what is done to KV between prompt and answer.
struct KvTrialOptions {
    std::string model_dir;
    std::string text_path;
    std::uint32_t context = 512;       // tokens of a prompt, whose KV is what matters
    std::uint32_t continuation = 256;  // tokens behind it that are scored
    std::uint32_t generated = 64;      // tokens of greedy answers; 0: none
    std::uint32_t windows = 8;
    std::string longeval_path;         // something to find in each prompt, in place of windows of the text
    std::uint32_t longeval_lines = 0;  // of each record; 0: all
    std::uint32_t passkeys = 0;        // so many prompts out of the text with a pass key to find; 0: none
    std::size_t text_bytes_max = 4u << 20;
    std::string device = "host";
    std::string kv_dtype = "auto";  // as engine.kv_dtype
    std::uint32_t threads = 0;      // 0: the processors that this process may use
    std::string packed_dir;
    bool keeps_queries = false;  // of prompts (KvTrial::queries()): the host only
};

/// The queries of a prompt, rotated: [layers][tokens][heads_q * head_dim].
struct PromptQueries {
    std::uint32_t tokens = 0;
    std::uint32_t heads_q = 0;
    std::uint32_t head_dim = 0;
    std::vector<float> values;

    /// One head's of one token.
    std::span<const float> of(std::uint32_t layer, std::uint32_t token, std::uint32_t head) const {
        const std::size_t row = (std::size_t{layer} * tokens + token) * heads_q + head;
        return std::span(values).subspan(row * head_dim, head_dim);
    }
};

/// One engine over windows of the text: the KV of a window's prompt can be taken out as it travels, and put back
/// changed; then what follows is scored, or answered. Not thread-safe.
class KvTrial {
public:
    /// Error: of the model, the text, or a window that neither has room for.
    static base::Result<KvTrial> make(const KvTrialOptions& options);

    std::uint32_t windows() const { return windows_; }
    const kv_cache::KvLayout& layout() const { return engine_->layout(); }
    std::uint64_t numerics_id() const { return static_cast<std::uint64_t>(engine_->numerics_id()); }
    std::string describe() const { return engine_->describe(); }
    std::shared_ptr<const kv_transfer::RotaryTable> rotary() const { return rotary_; }
    std::size_t text_tokens() const { return tokens_.size(); }

    /// Computes the prompt of a window, of one with something to find all but its last token. The canonical bytes of
    /// its KV, all layers.
    base::Result<std::vector<std::byte>> compute_prompt(std::uint32_t window);
    /// The same of any tokens, at most as many as a window's; nothing stands behind them.
    base::Result<std::vector<std::byte>> compute_tokens(std::vector<base::TokenId> tokens);
    /// What the prompt computed last asked; with keeps_queries.
    const PromptQueries& queries() const { return *queries_; }
    std::uint32_t vocabulary() const { return engine_->shape().vocabulary; }
    std::uint32_t tokens_max() const { return tokens_max_; }
    /// All layers of the prompt's KV, or those of a range.
    kv_cache::KvRange whole() const { return {0, layout().layers(), 0, context_}; }
    base::Result<void> put(const kv_cache::KvRange& range, std::span<const std::byte> kv);
    /// Natural logarithms of the probabilities of the continuation's tokens but the first, which the prompt's own
    /// computation gives.
    base::Result<std::vector<double>> score();
    /// Greedy tokens behind the prompt; the first one is the text's own.
    base::Result<std::vector<base::TokenId>> answer();
    /// What was to be found in this window; empty for windows of a text.
    std::span<const base::TokenId> expected() const;

private:
    KvTrial() = default;
    /// Of window_'s first context_ tokens.
    base::Result<std::vector<std::byte>> compute();
    base::Result<void> cut_windows(const text::Tokenizer& tokenizer);
    base::Result<void> cut_items(const text::Tokenizer& tokenizer, std::uint32_t tokens_max);
    engine::BatchEntry& entry_of(engine::Batch& batch, std::uint32_t position, std::span<const base::TokenId> tokens);

    KvTrialOptions options_;
    std::vector<base::TokenId> tokens_;
    std::uint32_t windows_ = 0;
    std::uint32_t tokens_max_ = 0;            // of a prompt
    std::unique_ptr<PromptQueries> queries_;  // the engine writes them while a prompt is computed
    std::unique_ptr<engine::Engine> engine_;
    std::unique_ptr<kv_cache::KvAccess> access_;
    std::shared_ptr<const kv_transfer::RotaryTable> rotary_;
    std::vector<base::BlockId> blocks_;
    std::vector<base::TokenId> window_;  // prompt and continuation
    std::uint32_t context_ = 0;          // tokens of it whose KV is taken out
    std::vector<RecallItem> items_;      // a window each
    std::size_t item_ = 0;
};

/// The value at `index` of canonical bytes, which are bf16 or f32; and another in its place.
float value_at(std::span<const std::byte> kv, bool is_bf16, std::size_t index);
void put_value(std::span<std::byte> kv, bool is_bf16, std::size_t index, float value);

/// A chunk of a prompt: some layers of some tokens.
struct KvChunks {
    std::uint32_t tokens = 256;
    std::uint32_t layers = 8;
};
std::vector<kv_cache::KvRange> chunks_of(const kv_cache::KvRange& whole, const KvChunks& chunks);
/// A range's canonical bytes out of those of all layers and tokens of `whole`, and back into them.
std::vector<std::byte> cut_range(const kv_cache::KvLayout& layout, const kv_cache::KvRange& whole,
                                 std::span<const std::byte> all, const kv_cache::KvRange& range);
void put_range(const kv_cache::KvLayout& layout, const kv_cache::KvRange& whole, std::span<std::byte> all,
               const kv_cache::KvRange& range, std::span<const std::byte> bytes);

}  // namespace bench
