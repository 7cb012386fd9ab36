#include "bench/kv_trial.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "bench/text_source.h"
#include "engine/model/model_config.h"
#include "engine/model/rope.h"
#include "engine/query_watch.h"
#include "kv_transfer/codec/bf16.h"
#include "text/tokenizer.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using base::TokenId;

constexpr std::uint32_t kBatchTokens = 512;
constexpr std::uint32_t kBatchRows = 64;

std::uint32_t processors_here() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) { return 1; }
    return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
}

/// Calls visit(offset among all, offset in the range, bytes) for each run of tokens of one layer, part and head.
template <class Visit>
void for_each_run(const kv_cache::KvLayout& layout, const kv_cache::KvRange& whole, const kv_cache::KvRange& range,
                  const Visit& visit) {
    const std::size_t row = std::size_t{layout.head_dim()} * kv_cache::element_bytes(layout.format().dtype);
    std::size_t at = 0;
    for (std::uint32_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
        for (std::uint32_t head = 0; head < 2 * layout.kv_heads(); ++head) {
            const std::size_t plane = std::size_t{layer - whole.layer_begin} * 2 * layout.kv_heads() + head;
            const std::size_t bytes = range.tokens() * row;
            visit((plane * whole.tokens() + range.token_begin - whole.token_begin) * row, at, bytes);
            at += bytes;
        }
    }
}

/// An engine whose prompts' queries are kept in `queries`; what stands behind a prompt is not.
Result<std::unique_ptr<engine::Engine>> load_watched(const engine::EngineOptions& options, PromptQueries& queries) {
    return engine::load_watched_engine(
        options, [&queries](std::uint32_t layer, std::uint32_t position, std::span<const float> rows) {
            const std::size_t width = std::size_t{queries.heads_q} * queries.head_dim;
            if (position >= queries.tokens) { return; }
            std::copy_n(rows.begin(), std::min(rows.size(), (queries.tokens - position) * width),
                        queries.values.begin() +
                            static_cast<std::ptrdiff_t>((std::size_t{layer} * queries.tokens + position) * width));
        });
}

}  // namespace

Result<KvTrial> KvTrial::make(const KvTrialOptions& options) {
    const auto shape = engine::read_model_config(options.model_dir);
    if (!shape) { return base::pass_on(shape); }
    std::uint32_t tokens_each = options.context + std::max(options.continuation, options.generated);
    const bool finds = !options.longeval_path.empty() || options.passkeys > 0;
    if (tokens_each > shape->context_tokens && options.longeval_path.empty()) {
        return base::fail(ErrorCode::invalid_argument,
                          "--context and what follows it are " + std::to_string(tokens_each) +
                              " tokens, the model has room for " + std::to_string(shape->context_tokens));
    }
    const auto tokenizer = text::Tokenizer::load(options.model_dir, {.text_bytes_max = options.text_bytes_max});
    if (!tokenizer) { return base::pass_on(tokenizer); }
    if (options.text_path.empty() && options.longeval_path.empty()) {
        return base::fail(ErrorCode::invalid_argument, "of which text? --text FILE, or --longeval FILE");
    }
    KvTrial trial;
    trial.options_ = options;
    if (const auto cut = finds ? trial.cut_items(**tokenizer, shape->context_tokens) : trial.cut_windows(**tokenizer);
        !cut) {
        return base::pass_on(cut);
    }
    std::uint32_t positions = options.context;  // of prompts
    for (const RecallItem& item : trial.items_) {
        const auto prompt = static_cast<std::uint32_t>(item.prompt.size());
        tokens_each = std::max(tokens_each, prompt + static_cast<std::uint32_t>(item.answer.size()));
        positions = std::max(positions, prompt);
    }

    engine::EngineOptions chosen;
    chosen.model_dir = options.model_dir;
    chosen.device = options.device;
    chosen.kv_dtype = options.kv_dtype;
    chosen.threads = options.threads == 0 ? processors_here() : options.threads;
    chosen.packed_dir = options.packed_dir;
    chosen.batch_tokens_max = kBatchTokens;
    chosen.batch_sequences_max = kBatchRows;
    chosen.kv_pool_bytes = std::uint64_t{tokens_each + 2 * chosen.block_tokens} * shape->kv_elements_per_token() * 4;
    trial.tokens_max_ = positions;
    if (options.keeps_queries) {
        trial.queries_ = std::make_unique<PromptQueries>();
        trial.queries_->heads_q = shape->heads_q;
        trial.queries_->head_dim = shape->head_dim;
    }
    auto engine = options.keeps_queries ? load_watched(chosen, *trial.queries_) : engine::load_engine(chosen);
    if (!engine) { return base::pass_on(engine); }
    trial.engine_ = std::move(*engine);
    auto access = kv_cache::KvAccess::make(trial.engine_->kv_store());
    if (!access) { return base::pass_on(access); }
    trial.access_ = std::make_unique<kv_cache::KvAccess>(std::move(*access));
    const std::uint32_t blocks = trial.layout().blocks_for(tokens_each);
    CHECK(blocks <= trial.engine_->blocks_total());
    for (std::uint32_t i = 0; i < blocks; ++i) {
        trial.blocks_.push_back(base::BlockId{i});
    }
    auto angles = engine::make_rope_table(*shape, positions);
    auto rotary = std::make_shared<kv_transfer::RotaryTable>();
    rotary->head_dim = angles.head_dim;
    rotary->positions = positions;
    rotary->cosines = std::move(angles.cosines);
    rotary->sines = std::move(angles.sines);
    trial.rotary_ = std::move(rotary);
    return trial;
}

Result<void> KvTrial::cut_windows(const text::Tokenizer& tokenizer) {
    const auto source = read_text_source(options_.text_path, options_.text_bytes_max);
    if (!source) { return base::pass_on(source); }
    auto tokens = tokenizer.encode(source->text);
    if (!tokens) { return base::pass_on(tokens, options_.text_path); }
    const std::size_t windows = tokens->size() / (options_.context + options_.continuation);
    if (windows == 0) {
        return base::fail(ErrorCode::invalid_argument, options_.text_path + " has " + std::to_string(tokens->size()) +
                                                           " tokens, a window " +
                                                           std::to_string(options_.context + options_.continuation) +
                                                           ": take a longer text or a smaller --context");
    }
    tokens_ = std::move(*tokens);
    windows_ = static_cast<std::uint32_t>(std::min<std::size_t>(windows, options_.windows));
    return {};
}

Result<void> KvTrial::cut_items(const text::Tokenizer& tokenizer, std::uint32_t tokens_max) {
    auto items = [&]() -> Result<std::vector<RecallItem>> {
        if (!options_.longeval_path.empty()) {
            return read_longeval(options_.longeval_path, tokenizer, options_.longeval_lines, tokens_max,
                                 options_.windows);
        }
        const auto source = read_text_source(options_.text_path, options_.text_bytes_max);
        if (!source) { return base::pass_on(source); }
        return make_passkeys(source->text, tokenizer, options_.context, options_.passkeys);
    }();
    if (!items) { return base::pass_on(items); }
    items_ = std::move(*items);
    windows_ = static_cast<std::uint32_t>(items_.size());
    return {};
}

std::span<const TokenId> KvTrial::expected() const {
    return items_.empty() ? std::span<const TokenId>{} : std::span<const TokenId>(items_[item_].answer);
}

engine::BatchEntry& KvTrial::entry_of(engine::Batch& batch, std::uint32_t position, std::span<const TokenId> tokens) {
    engine::BatchEntry& entry = batch.add();
    entry.tokens.assign(tokens.begin(), tokens.end());
    entry.position = position;
    entry.set_blocks(blocks_);
    return entry;
}

Result<std::vector<std::byte>> KvTrial::compute_prompt(std::uint32_t window) {
    CHECK(window < windows_);
    if (items_.empty()) {
        const std::size_t each = options_.context + options_.continuation;
        const auto all = std::span(tokens_).subspan(window * each, each);
        window_.assign(all.begin(), all.end());
        context_ = options_.context;
    } else {
        item_ = window;
        window_ = items_[window].prompt;
        context_ = static_cast<std::uint32_t>(window_.size()) - 1;
        window_.insert(window_.end(), items_[window].answer.begin(), items_[window].answer.end());
    }
    return compute();
}

Result<std::vector<std::byte>> KvTrial::compute_tokens(std::vector<TokenId> tokens) {
    CHECK(!tokens.empty() && tokens.size() <= tokens_max_);
    window_ = std::move(tokens);
    context_ = static_cast<std::uint32_t>(window_.size());
    return compute();
}

Result<std::vector<std::byte>> KvTrial::compute() {
    if (queries_) {
        queries_->tokens = context_;
        queries_->values.assign(std::size_t{layout().layers()} * context_ * queries_->heads_q * queries_->head_dim, 0);
    }
    for (std::uint32_t begin = 0; begin < context_;) {
        const std::uint32_t end = std::min(begin + kBatchTokens, context_);
        engine::Batch batch;
        entry_of(batch, begin, std::span(window_).subspan(begin, end - begin));
        if (const auto result = engine::run_to_end(*engine_, std::move(batch)); !result) {
            return base::pass_on(result);
        }
        begin = end;
    }
    std::vector<std::byte> kv(layout().wire_bytes(whole()));
    if (const auto packed = access_->pack(blocks_, whole(), kv); !packed) { return base::pass_on(packed); }
    return kv;
}

Result<void> KvTrial::put(const kv_cache::KvRange& range, std::span<const std::byte> kv) {
    return access_->unpack(blocks_, range, kv);
}

Result<std::vector<double>> KvTrial::score() {
    std::vector<double> logprobs;
    const auto end_row = static_cast<std::uint32_t>(window_.size()) - 1;  // a row gives the token behind it
    for (std::uint32_t begin = context_; begin < end_row;) {
        const std::uint32_t end = std::min(begin + kBatchTokens, end_row);
        engine::Batch batch;
        engine::BatchEntry& entry = entry_of(batch, begin, std::span(window_).subspan(begin, end - begin));
        entry.score = true;
        const auto targets = std::span(window_).subspan(begin + 1, end - begin);
        entry.score_targets.assign(targets.begin(), targets.end());
        const auto result = engine::run_to_end(*engine_, std::move(batch));
        if (!result) { return base::pass_on(result); }
        const engine::EntryResult& done = result->entries.front();
        if (done.error) { return base::fail(done.error->code, done.error->message); }
        for (const engine::SampledToken& token : done.scores) {
            logprobs.push_back(static_cast<double>(token.logprob));
        }
        begin = end;
    }
    return logprobs;
}

Result<std::vector<TokenId>> KvTrial::answer() {
    std::vector<TokenId> answered;
    TokenId token = window_[context_];
    const std::size_t wanted = items_.empty() ? options_.generated : expected().size();
    for (std::uint32_t i = 0; i < wanted; ++i) {
        engine::Batch batch;
        const std::uint32_t position = context_ + i;
        engine::BatchEntry& entry = entry_of(batch, position, {&token, 1});
        entry.sample = true;
        entry.sampler.position = position + 1;
        const auto result = engine::run_to_end(*engine_, std::move(batch));
        if (!result) { return base::pass_on(result); }
        const engine::EntryResult& done = result->entries.front();
        if (done.error) { return base::fail(done.error->code, done.error->message); }
        CHECK(done.sampled);
        token = done.sampled->token;
        answered.push_back(token);
    }
    return answered;
}

std::vector<kv_cache::KvRange> chunks_of(const kv_cache::KvRange& whole, const KvChunks& chunks) {
    std::vector<kv_cache::KvRange> ranges;
    for (std::uint32_t token = whole.token_begin; token < whole.token_end; token += chunks.tokens) {
        for (std::uint32_t layer = whole.layer_begin; layer < whole.layer_end; layer += chunks.layers) {
            ranges.push_back({layer, std::min(layer + chunks.layers, whole.layer_end), token,
                              std::min(token + chunks.tokens, whole.token_end)});
        }
    }
    return ranges;
}

std::vector<std::byte> cut_range(const kv_cache::KvLayout& layout, const kv_cache::KvRange& whole,
                                 std::span<const std::byte> all, const kv_cache::KvRange& range) {
    std::vector<std::byte> bytes(layout.wire_bytes(range));
    for_each_run(layout, whole, range, [&](std::size_t from, std::size_t to, std::size_t count) {
        std::memcpy(bytes.data() + to, all.data() + from, count);
    });
    return bytes;
}

void put_range(const kv_cache::KvLayout& layout, const kv_cache::KvRange& whole, std::span<std::byte> all,
               const kv_cache::KvRange& range, std::span<const std::byte> bytes) {
    for_each_run(layout, whole, range, [&](std::size_t to, std::size_t from, std::size_t count) {
        std::memcpy(all.data() + to, bytes.data() + from, count);
    });
}

float value_at(std::span<const std::byte> kv, bool is_bf16, std::size_t index) {
    if (is_bf16) {
        std::uint16_t half;
        std::memcpy(&half, kv.data() + index * sizeof half, sizeof half);
        return kv_transfer::value_of(half);
    }
    float value;
    std::memcpy(&value, kv.data() + index * sizeof value, sizeof value);
    return value;
}

void put_value(std::span<std::byte> kv, bool is_bf16, std::size_t index, float value) {
    if (is_bf16) {
        const std::uint16_t half = kv_transfer::bf16_near(value);
        std::memcpy(kv.data() + index * sizeof half, &half, sizeof half);
    } else {
        std::memcpy(kv.data() + index * sizeof value, &value, sizeof value);
    }
}

}  // namespace bench
