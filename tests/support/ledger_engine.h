#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"
#include "engine/engine.h"

namespace test_support {

/// The token that LedgerEngine gives after `tokens`. The oracle: a sequence's continuation depends on all of its
/// tokens, on nothing else.
inline base::TokenId ledger_next(std::span<const base::TokenId> tokens, std::uint32_t vocabulary) {
    std::uint64_t hash = 0xcbf29ce484222325ull;
    for (const base::TokenId token : tokens) {
        hash = (hash ^ static_cast<std::uint64_t>(token)) * 0x100000001b3ull;
        hash ^= hash >> 29;
    }
    return static_cast<base::TokenId>(hash % vocabulary);
}

inline std::vector<base::TokenId> ledger_continuation(std::vector<base::TokenId> tokens, std::uint32_t new_tokens,
                                                      std::uint32_t vocabulary) {
    std::vector<base::TokenId> generated;
    for (std::uint32_t i = 0; i < new_tokens; ++i) {
        generated.push_back(ledger_next(tokens, vocabulary));
        tokens.push_back(generated.back());
    }
    return generated;
}

/// An engine that keeps books instead of computing: for each token it writes (token, position) into every layer of the
/// KV blocks it is given, and chooses the next token from what it reads back. A wrong block table, a block handed to
/// two sequences, a lost or damaged transfer: each shows as a violation and as other tokens.
class LedgerEngine final : public engine::Engine {
public:
    struct Options {
        std::uint32_t layers = 4;
        std::uint32_t vocabulary = 1000;
        std::uint32_t context_tokens = 4096;
        std::uint32_t blocks_total = 64;
        std::uint32_t block_tokens = 16;
    };

    explicit LedgerEngine(const Options& options)
        : shape_(make_shape(options)),
          layout_(kv_cache::KvLayout::make(shape_, {kv_cache::KvDtype::f32, kv_cache::TileOrder::lanes},
                                           options.block_tokens)
                      .value()),
          store_(kv_cache::KvStore::make(device::host_device(), layout_, options.blocks_total).value()) {}

    const base::ModelShape& shape() const override { return shape_; }
    const kv_cache::KvLayout& layout() const override { return layout_; }
    kv_cache::KvStore& kv_store() override { return store_; }
    std::uint32_t blocks_total() const override { return store_.blocks_total(); }
    engine::NumericsId numerics_id() const override { return engine::NumericsId{42}; }
    std::string describe() const override { return "ledger"; }

    engine::Ticket launch(engine::Batch batch, engine::LayersDone layers_done, engine::StepDone done) override {
        ++steps_;
        result_ = {};
        has_ended_ = false;
        worker_ = std::jthread(
            [this, batch = std::move(batch), layers_done = std::move(layers_done), done = std::move(done)]() mutable {
                result_.began = std::chrono::steady_clock::now();
                compute(batch, layers_done);
                result_.batch = std::move(batch);
                result_.ended = std::chrono::steady_clock::now();
                {
                    std::unique_lock lock(mutex_);
                    changed_.wait(lock, [this] { return !is_hung_; });
                    has_ended_ = true;
                }
                changed_.notify_all();
                if (done) { done(); }
            });
        return engine::Ticket{steps_.load()};
    }

    bool ready(engine::Ticket) const override {
        const std::lock_guard lock(mutex_);
        return has_ended_;
    }

    base::Result<engine::StepResult> collect(engine::Ticket, base::TimePoint deadline,
                                             const std::stop_token& stop) override {
        {
            std::unique_lock lock(mutex_);
            if (!changed_.wait_until(lock, stop, deadline, [this] { return has_ended_; })) {
                return base::fail(
                    stop.stop_requested() ? base::ErrorCode::cancelled : base::ErrorCode::deadline_exceeded,
                    "the step has not ended yet");
            }
        }
        worker_.join();
        if (is_broken) { return base::fail(base::ErrorCode::internal, "the device is broken"); }
        if (is_out_of_memory) { return base::fail(base::ErrorCode::resource_exhausted, "no memory for this step"); }
        return std::move(result_);
    }

    /// Its books are the blocks.
    base::Result<void> truncate(base::SequenceId, std::uint32_t) override { return {}; }

    /// Steps do not end, as those of a device that hangs, until this is taken back (which must be before the engine is
    /// destroyed).
    void hang(bool is_hung) {
        {
            const std::lock_guard lock(mutex_);
            is_hung_ = is_hung;
        }
        changed_.notify_all();
    }

    /// From now on every step fails as on a device that is lost.
    std::atomic<bool> is_broken{false};
    /// Steps fail for want of memory.
    std::atomic<bool> is_out_of_memory{false};

    std::uint64_t violations() const { return violations_; }
    std::uint64_t steps() const { return steps_; }
    std::uint64_t tokens_computed() const { return tokens_computed_; }

private:
    static base::ModelShape make_shape(const Options& options) {
        base::ModelShape shape;
        shape.architecture = "Ledger";
        shape.layers = options.layers;
        shape.hidden = 8;
        shape.intermediate = 8;
        shape.heads_q = 1;
        shape.heads_kv = 1;
        shape.head_dim = 2;
        shape.vocabulary = options.vocabulary;
        shape.context_tokens = options.context_tokens;
        return shape;
    }

    float* element(std::span<const base::BlockId> blocks, std::uint32_t layer, kv_cache::KvPart part,
                   std::uint32_t position, std::uint32_t dim) {
        const std::uint32_t block_tokens = layout_.block_tokens();
        if (position / block_tokens >= blocks.size()) { return nullptr; }
        std::byte* block = store_.block(blocks[position / block_tokens]);
        return reinterpret_cast<float*>(block + layout_.element_offset(layer, part, 0, position % block_tokens, dim));
    }

    void compute(const engine::Batch& batch, const engine::LayersDone& layers_done) {
        for (std::uint32_t layer = 0; layer < shape_.layers; ++layer) {
            for (const engine::BatchEntry& entry : batch.entries()) {
                for (std::uint32_t i = 0; i < entry.tokens.size(); ++i) {
                    write(entry, layer, i);
                }
            }
            if (layers_done) { layers_done(layer, layer + 1); }
        }
        for (const engine::BatchEntry& entry : batch.entries()) {
            tokens_computed_ += entry.tokens.size();
            engine::EntryResult row;
            row.sequence = entry.sequence;
            if (entry.sample) {
                const auto end = entry.position + static_cast<std::uint32_t>(entry.tokens.size());
                engine::SampledToken sampled;
                sampled.token = allowed(entry, ledger_next(read_back(entry.block_tables[0], end), shape_.vocabulary));
                row.sampled = sampled;
            }
            result_.entries.push_back(std::move(row));
        }
    }

    /// `token`, or the next one that may be chosen.
    base::TokenId allowed(const engine::BatchEntry& entry, base::TokenId token) const {
        base::Result<std::span<const std::uint32_t>> words;
        if (entry.mask) { words = entry.mask->wait(std::chrono::steady_clock::now() + std::chrono::minutes(1)); }
        const auto may_come = [&](base::TokenId one) {
            const auto bit = static_cast<std::uint32_t>(one);
            const auto& masked = entry.sampler.masked_tokens;
            return std::find(masked.begin(), masked.end(), one) == masked.end() &&
                   (!words || words->empty() || (((*words)[bit / 32] >> (bit % 32)) & 1U) != 0);
        };
        for (std::uint32_t tries = 0; tries < shape_.vocabulary && !may_come(token); ++tries) {
            token = (token + 1) % static_cast<base::TokenId>(shape_.vocabulary);
        }
        return token;
    }

    void write(const engine::BatchEntry& entry, std::uint32_t layer, std::uint32_t i) {
        const std::uint32_t position = entry.position + i;
        for (const auto part : {kv_cache::KvPart::k, kv_cache::KvPart::v}) {
            float* token = element(entry.block_tables[0], layer, part, position, 0);
            float* place = element(entry.block_tables[0], layer, part, position, 1);
            if (token == nullptr || place == nullptr) {
                ++violations_;
                return;
            }
            *token = static_cast<float>(entry.tokens[i]);
            *place = static_cast<float>(position);
        }
    }

    std::vector<base::TokenId> read_back(std::span<const base::BlockId> blocks, std::uint32_t end) {
        std::vector<base::TokenId> tokens;
        for (std::uint32_t position = 0; position < end; ++position) {
            const float* first = element(blocks, 0, kv_cache::KvPart::k, position, 0);
            if (first == nullptr) {
                ++violations_;
                return tokens;
            }
            tokens.push_back(static_cast<base::TokenId>(*first));
            for (std::uint32_t layer = 0; layer < shape_.layers; ++layer) {
                for (const auto part : {kv_cache::KvPart::k, kv_cache::KvPart::v}) {
                    const bool is_right = *element(blocks, layer, part, position, 0) == *first &&
                                          *element(blocks, layer, part, position, 1) == static_cast<float>(position);
                    if (!is_right) { ++violations_; }
                }
            }
        }
        return tokens;
    }

    const base::ModelShape shape_;
    const kv_cache::KvLayout layout_;
    kv_cache::KvStore store_;
    engine::StepResult result_;  // written by worker_, read after its join
    mutable std::mutex mutex_;
    std::condition_variable_any changed_;
    bool has_ended_ = false;  // guarded by mutex_: the present step
    bool is_hung_ = false;    // guarded by mutex_
    std::atomic<std::uint64_t> violations_{0};
    std::atomic<std::uint64_t> steps_{0};
    std::atomic<std::uint64_t> tokens_computed_{0};
    std::jthread worker_;  // last: it uses all of the above
};

}  // namespace test_support
