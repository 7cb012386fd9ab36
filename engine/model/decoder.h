#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/model_shape.h"
#include "device/buffer.h"
#include "engine/kernels/backend.h"
#include "engine/model/weights.h"
#include "engine/query_watch.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// One batch as the graph sees it.
struct DecoderBatch {
    std::span<const base::TokenId> tokens;       // [rows], sequence after sequence
    std::span<const SequenceRows> sequences;     // cover the rows in order
    std::span<const std::uint32_t> rows_wanted;  // rows whose results are wanted, ascending
    /// [rows_wanted]: not 0 where the hidden state after the last norm is wanted instead of logits; empty: nowhere.
    std::span<const std::uint8_t> wants_hidden;
    std::uint32_t layer_group = 0;                                  // > 0
    std::function<void(std::uint32_t, std::uint32_t)> layers_done;  // (layer_begin, layer_end); may be empty
    /// [rows_wanted]: how each wanted row becomes a token, where the backend can do that itself; empty: logits only.
    std::span<const RowChoice> choices;
    /// What became of rows_wanted[row], with choices and a backend that samples: called in ascending order, and not for
    /// rows whose logits are given below.
    std::function<void(std::size_t row, base::Result<SampledToken> chosen)> take_chosen;
    /// Logits of rows_wanted[first ...]: [count, vocabulary], valid during the call. Called in ascending order.
    std::function<void(std::size_t first, std::size_t count, std::span<const float> logits)> take_logits;
    /// Hidden states of rows_wanted[first ...] where they are wanted: [count, hidden], in the same way.
    std::function<void(std::size_t first, std::size_t count, std::span<const float> rows)> take_hidden;
};

/// The forward pass of the Llama family (Llama, Mistral, Qwen2, Qwen3), written once over the operators of a backend.
/// Scratch memory has a fixed place and the size of the largest batch. Not thread-safe: owned by the engine's
/// coordinator thread.
///
/// The last layer works on the wanted rows only, once the KV of all rows is stored: rows do not depend on each other.
class Decoder {
public:
    struct Limits {
        std::uint32_t batch_tokens = 0;     // > 0
        std::uint32_t batch_sequences = 0;  // > 0
        std::uint32_t logit_rows = 0;       // > 0; rows of logits that are made at a time
    };
    /// All references must outlive the decoder. `rope` covers the positions of every batch.
    /// Error: resource_exhausted; as Backend::prepare().
    static base::Result<Decoder> make(const base::ModelShape& shape, const Weights& weights, const RopeTable& rope,
                                      Backend& backend, kv_cache::KvStore& kv, Limits limits);

    /// Returns when the batch is done. Error: as the backend's calls around a step; none on the host.
    base::Result<void> run(const DecoderBatch& batch);

    /// Who sees every layer's queries; the host only. Empty: nobody.
    void watch_queries(QueryWatch watch) { query_watch_ = std::move(watch); }

    /// What the scratch memory will take.
    static std::size_t scratch_bytes(const base::ModelShape& shape, const Backend& backend, Limits limits);

private:
    Decoder(const base::ModelShape& shape, const Weights& weights, const RopeTable& rope, Backend& backend,
            kv_cache::KvStore& kv, Limits limits)
        : shape_(&shape), weights_(&weights), rope_(&rope), backend_(&backend), kv_(&kv), limits_(limits) {}

    struct Buffer {
        std::byte* data = nullptr;
        Activation kind{};
    };

    /// Neighbours among the wanted rows that want the same, at most as many as there is room for rows of logits.
    struct RowRun {
        std::uint32_t first = 0;
        std::uint32_t count = 0;
    };

    /// sequences_wanted_: the wanted rows as runs of consecutive positions of one sequence.
    void find_wanted(const DecoderBatch& batch);
    /// head_runs_ and hidden_runs_.
    void find_runs(const DecoderBatch& batch, const StepPlan& plan);
    static bool wants_hidden(const DecoderBatch& batch, std::size_t row) {
        return !batch.wants_hidden.empty() && batch.wants_hidden[row] != 0;
    }
    void run_layers(const DecoderBatch& batch, const StepPlan& plan);
    void announce(const DecoderBatch& batch, std::uint32_t layer_begin, std::uint32_t layer_end);
    void tell_queries(const DecoderBatch& batch, std::uint32_t layer) const;
    void append_layer(const DecoderBatch& batch, std::uint32_t layer, std::uint32_t rows);
    /// Attention to MLP of one layer, over `rows` rows of residual_ and q_; leaves its contribution in delta_.
    void finish_layer(std::uint32_t layer, std::span<const SequenceRows> sequences, RowSet set, std::uint32_t rows);
    /// Logits of `count` rows of normed_ from `first` on.
    void run_head(std::uint32_t first, std::uint32_t count);
    base::Result<void> take_rows(const DecoderBatch& batch, RowRun run);
    base::Result<void> take_hidden_rows(const DecoderBatch& batch, RowRun run);

    const base::ModelShape* shape_;
    const Weights* weights_;
    const RopeTable* rope_;
    Backend* backend_;
    kv_cache::KvStore* kv_;
    Limits limits_;
    QueryWatch query_watch_;

    device::Buffer scratch_;
    Buffer residual_;   // [batch_tokens, hidden]
    Buffer normed_;     // [batch_tokens, hidden]
    Buffer delta_;      // [batch_tokens, hidden]: what the last sublayer adds to the residual
    Buffer qkv_;        // [batch_tokens, (heads_q + 2 * heads_kv) * head_dim]
    Buffer q_;          // [batch_tokens, heads_q * head_dim]
    Buffer attention_;  // [batch_tokens, heads_q * head_dim]
    Buffer gate_up_;    // [batch_tokens, 2 * intermediate]
    Buffer activated_;  // [batch_tokens, intermediate]
    Buffer logits_;     // [logit_rows, vocabulary]
    std::vector<base::Result<SampledToken>> chosen_;  // of take_rows()
    std::vector<bool> is_chosen_;                     // the same
    std::vector<SequenceRows> sequences_wanted_;
    std::vector<RowRun> head_runs_;
    std::vector<RowRun> hidden_runs_;
};

}  // namespace engine
