#include "engine/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "device/device.h"

namespace engine {

base::Result<Decoder> Decoder::make(const base::ModelShape& shape, const Weights& weights, const RopeTable& rope,
                                    Backend& backend, kv_cache::KvStore& kv, Limits limits) {
    CHECK(limits.batch_tokens > 0 && limits.logit_rows > 0);
    Decoder decoder(shape, weights, rope, backend, kv, limits);
    const std::size_t q_width = std::size_t{shape.heads_q} * shape.head_dim;
    const std::size_t kv_width = std::size_t{shape.heads_kv} * shape.head_dim;
    const std::pair<float**, std::size_t> buffers[] = {
        {&decoder.residual_, std::size_t{limits.batch_tokens} * shape.hidden},
        {&decoder.normed_, std::size_t{limits.batch_tokens} * shape.hidden},
        {&decoder.delta_, std::size_t{limits.batch_tokens} * shape.hidden},
        {&decoder.qkv_, limits.batch_tokens * (q_width + 2 * kv_width)},
        {&decoder.q_, limits.batch_tokens * q_width},
        {&decoder.attention_, limits.batch_tokens * q_width},
        {&decoder.gate_up_, std::size_t{limits.batch_tokens} * 2 * shape.intermediate},
        {&decoder.activated_, std::size_t{limits.batch_tokens} * shape.intermediate},
        {&decoder.logits_, std::size_t{limits.logit_rows} * shape.vocabulary},
    };
    constexpr std::size_t kAlignment = 256;  // bytes; above every vector register and cache line
    const auto padded = [](std::size_t floats) {
        return (floats * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    };
    std::size_t bytes = 0;
    for (const auto& [pointer, floats] : buffers) {
        bytes += padded(floats);
    }
    auto scratch = device::host_device().allocate(bytes);
    if (!scratch) { return base::pass_on(scratch, "scratch memory of the engine"); }
    decoder.scratch_ = std::move(*scratch);
    std::byte* next = decoder.scratch_.data();
    for (const auto& [pointer, floats] : buffers) {
        *pointer = reinterpret_cast<float*>(next);
        next += padded(floats);
    }
    return decoder;
}

void Decoder::run(const DecoderBatch& batch) {
    const auto rows = static_cast<std::uint32_t>(batch.tokens.size());
    CHECK(rows > 0 && rows <= limits_.batch_tokens, rows << " rows, at most " << limits_.batch_tokens);
    CHECK(batch.layer_group > 0);
    backend_->embed(weights_->embedding, batch.tokens, residual_);
    std::uint32_t announced = 0;
    for (std::uint32_t layer = 0; layer < shape_->layers; ++layer) {
        append_layer(batch, layer);
        const bool last = layer + 1 == shape_->layers;
        if (last || layer + 1 - announced == batch.layer_group) {
            if (batch.layers_done) { batch.layers_done(announced, layer + 1); }
            announced = layer + 1;
        }
        if (!last) {
            finish_layer(layer, batch.sequences, rows);
        } else if (!batch.rows_wanted.empty()) {
            keep_wanted(batch);
            finish_layer(layer, sequences_wanted_, static_cast<std::uint32_t>(batch.rows_wanted.size()));
        }
    }
    if (!batch.rows_wanted.empty()) { run_head(batch); }
}

void Decoder::append_layer(const DecoderBatch& batch, std::uint32_t layer) {
    const LayerWeights& w = weights_->layers[layer];
    const auto rows = static_cast<std::uint32_t>(batch.tokens.size());
    const auto eps = static_cast<float>(shape_->rms_norm_eps);
    if (layer == 0) {
        backend_->rms_norm(residual_, w.attention_norm, eps, rows, shape_->hidden, normed_);
    } else {
        backend_->add_rms_norm(residual_, delta_, w.attention_norm, eps, rows, shape_->hidden, normed_);
    }
    backend_->linear(w.qkv, normed_, rows, w.qkv_bias, qkv_);
    backend_->rope_and_append(*shape_, {.qkv = qkv_,
                                        .rows = rows,
                                        .sequences = batch.sequences,
                                        .rope = rope_,
                                        .q_norm = w.q_norm,
                                        .k_norm = w.k_norm,
                                        .norm_eps = eps,
                                        .layer = layer,
                                        .q = q_,
                                        .kv = kv_});
}

void Decoder::finish_layer(std::uint32_t layer, std::span<const SequenceRows> sequences, std::uint32_t rows) {
    const LayerWeights& w = weights_->layers[layer];
    backend_->attention(*shape_, {.q = q_,
                                  .sequences = sequences,
                                  .layer = layer,
                                  .scale = 1.0f / std::sqrt(static_cast<float>(shape_->head_dim)),
                                  .kv = kv_,
                                  .out = attention_});
    backend_->linear(w.output, attention_, rows, w.output_bias, delta_);
    backend_->add_rms_norm(residual_, delta_, w.mlp_norm, static_cast<float>(shape_->rms_norm_eps), rows,
                           shape_->hidden, normed_);
    backend_->linear(w.gate_up, normed_, rows, nullptr, gate_up_);
    backend_->swiglu(gate_up_, rows, shape_->intermediate, activated_);
    backend_->linear(w.down, activated_, rows, nullptr, delta_);
}

void Decoder::keep_wanted(const DecoderBatch& batch) {
    const std::size_t q_width = std::size_t{shape_->heads_q} * shape_->head_dim;
    sequences_wanted_.clear();
    std::uint32_t kept = 0;
    std::size_t next = 0;
    for (const SequenceRows& sequence : batch.sequences) {
        // Runs of wanted rows; usually one row or all of them.
        while (next < batch.rows_wanted.size() && batch.rows_wanted[next] < sequence.row_begin + sequence.rows) {
            const std::uint32_t row = batch.rows_wanted[next];
            CHECK(row >= sequence.row_begin && row >= kept);
            SequenceRows* run = sequences_wanted_.empty() ? nullptr : &sequences_wanted_.back();
            const std::uint32_t position = sequence.position + (row - sequence.row_begin);
            if (run != nullptr && run->blocks.data() == sequence.blocks.data() &&
                run->position + run->rows == position) {
                ++run->rows;
            } else {
                sequences_wanted_.push_back(
                    {.row_begin = kept, .rows = 1, .position = position, .blocks = sequence.blocks});
            }
            if (row != kept) {
                std::memcpy(residual_ + std::size_t{kept} * shape_->hidden,
                            residual_ + std::size_t{row} * shape_->hidden, shape_->hidden * sizeof(float));
                std::memcpy(q_ + kept * q_width, q_ + row * q_width, q_width * sizeof(float));
            }
            ++kept;
            ++next;
        }
    }
    CHECK(next == batch.rows_wanted.size());
}

void Decoder::run_head(const DecoderBatch& batch) {
    const auto rows = static_cast<std::uint32_t>(batch.rows_wanted.size());
    backend_->add_rms_norm(residual_, delta_, weights_->final_norm, static_cast<float>(shape_->rms_norm_eps), rows,
                           shape_->hidden, normed_);
    for (std::uint32_t first = 0; first < rows; first += limits_.logit_rows) {
        const std::uint32_t count = std::min(limits_.logit_rows, rows - first);
        backend_->linear(weights_->head, normed_ + std::size_t{first} * shape_->hidden, count, nullptr, logits_);
        batch.take_logits(first, count, {logits_, std::size_t{count} * shape_->vocabulary});
    }
}

}  // namespace engine
