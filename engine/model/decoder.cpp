#include "engine/model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "device/device.h"

namespace engine {
namespace {

/// A buffer of a step: what it holds, and its bytes (padded).
struct ScratchPiece {
    Activation kind{};
    std::size_t bytes = 0;
};

/// In the order in which they lie in the scratch memory.
std::array<ScratchPiece, 9> scratch_pieces(const base::ModelShape& shape, const Backend& backend,
                                           Decoder::Limits limits) {
    constexpr std::size_t kAlignment = 256;  // bytes; above every vector register and cache line
    const std::size_t rows = limits.batch_tokens;
    const std::size_t q_width = std::size_t{shape.heads_q} * shape.head_dim;
    const std::size_t kv_width = std::size_t{shape.heads_kv} * shape.head_dim;
    const auto piece = [&backend](Activation kind, std::size_t elements) {
        const std::size_t bytes = elements * backend.element_bytes(kind);
        return ScratchPiece{kind, (bytes + kAlignment - 1) / kAlignment * kAlignment};
    };
    return {piece(Activation::residual, rows * shape.hidden),
            piece(Activation::normed, rows * shape.hidden),
            piece(Activation::delta, rows * shape.hidden),
            piece(Activation::qkv, rows * (q_width + 2 * kv_width)),
            piece(Activation::q, rows * q_width),
            piece(Activation::attention, rows * q_width),
            piece(Activation::gate_up, rows * 2 * shape.intermediate),
            piece(Activation::activated, rows * shape.intermediate),
            piece(Activation::logits, std::size_t{limits.logit_rows} * shape.vocabulary)};
}

}  // namespace

std::size_t Decoder::scratch_bytes(const base::ModelShape& shape, const Backend& backend, Limits limits) {
    std::size_t bytes = 0;
    for (const ScratchPiece& piece : scratch_pieces(shape, backend, limits)) {
        bytes += piece.bytes;
    }
    return bytes;
}

base::Result<Decoder> Decoder::make(const base::ModelShape& shape, const Weights& weights, const RopeTable& rope,
                                    Backend& backend, kv_cache::KvStore& kv, Limits limits) {
    CHECK(limits.batch_tokens > 0 && limits.batch_sequences > 0 && limits.logit_rows > 0 && !weights.layers.empty());
    if (auto prepared = backend.prepare({.shape = &shape,
                                         .rope = &rope,
                                         .kv = &kv,
                                         .batch_tokens = limits.batch_tokens,
                                         .batch_sequences = limits.batch_sequences,
                                         .logit_rows = limits.logit_rows,
                                         .weight_format = weights.layers.front().qkv.format});
        !prepared) {
        return base::pass_on(prepared);
    }
    Decoder decoder(shape, weights, rope, backend, kv, limits);
    const auto pieces = scratch_pieces(shape, backend, limits);
    auto scratch = backend.device().allocate(scratch_bytes(shape, backend, limits));
    if (!scratch) { return base::pass_on(scratch, "scratch memory of the engine"); }
    decoder.scratch_ = std::move(*scratch);
    Buffer* const buffers[] = {&decoder.residual_, &decoder.normed_,    &decoder.delta_,
                               &decoder.qkv_,      &decoder.q_,         &decoder.attention_,
                               &decoder.gate_up_,  &decoder.activated_, &decoder.logits_};
    static_assert(std::size(buffers) == pieces.size());
    std::byte* next = decoder.scratch_.data();
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        *buffers[i] = {next, pieces[i].kind};
        next += pieces[i].bytes;
    }
    return decoder;
}

base::Result<void> Decoder::run(const DecoderBatch& batch) {
    CHECK(!batch.tokens.empty() && batch.tokens.size() <= limits_.batch_tokens,
          batch.tokens.size() << " rows, at most " << limits_.batch_tokens);
    CHECK(batch.layer_group > 0);
    find_wanted(batch);
    const auto plan = backend_->begin_step({.tokens = batch.tokens,
                                            .sequences = batch.sequences,
                                            .rows_wanted = batch.rows_wanted,
                                            .sequences_wanted = sequences_wanted_});
    if (!plan) { return base::pass_on(plan); }
    find_runs(batch, *plan);
    backend_->run([&] { run_layers(batch, *plan); });
    if (plan->is_replayed) {  // the recording knows nothing of this batch's listener
        for (std::uint32_t layer = 0; layer < shape_->layers; layer += batch.layer_group) {
            announce(batch, layer, std::min(layer + batch.layer_group, shape_->layers));
        }
    }
    base::Result<void> taken;
    for (std::size_t i = 0; i < hidden_runs_.size() && taken; ++i) {
        taken = take_hidden_rows(batch, hidden_runs_[i]);
    }
    for (std::size_t i = 0; i < head_runs_.size() && taken; ++i) {
        if (i > 0) { run_head(head_runs_[i].first, head_runs_[i].count); }
        taken = take_rows(batch, head_runs_[i]);
    }
    auto ended = backend_->end_step();  // in any case: nothing of this step may run on
    return taken ? ended : taken;
}

void Decoder::run_layers(const DecoderBatch& batch, const StepPlan& plan) {
    backend_->embed(weights_->embedding, batch.tokens, residual_.data);
    const StepRows step{.tokens = batch.tokens,
                        .sequences = batch.sequences,
                        .rows_wanted = batch.rows_wanted,
                        .sequences_wanted = sequences_wanted_};
    std::uint32_t announced = 0;
    for (std::uint32_t layer = 0; layer < shape_->layers; ++layer) {
        append_layer(batch, layer, plan.rows);
        const bool last = layer + 1 == shape_->layers;
        if (last || layer + 1 - announced == batch.layer_group) {
            if (!plan.is_replayed) { announce(batch, announced, layer + 1); }
            announced = layer + 1;
        }
        if (!last) {
            finish_layer(layer, batch.sequences, RowSet::all, plan.rows);
        } else if (plan.rows_wanted > 0) {
            backend_->keep_wanted(step, residual_.kind, residual_.data, shape_->hidden);
            backend_->keep_wanted(step, q_.kind, q_.data, shape_->heads_q * shape_->head_dim);
            finish_layer(layer, sequences_wanted_, RowSet::wanted, plan.rows_wanted);
        }
    }
    if (plan.rows_wanted == 0) { return; }
    backend_->add_rms_norm(residual_.data, delta_.data, weights_->final_norm, static_cast<float>(shape_->rms_norm_eps),
                           plan.rows_wanted, shape_->hidden, normed_.data);
    if (plan.is_replayed) {
        run_head(0, std::min(limits_.logit_rows, plan.rows_wanted));  // of all rows, idle ones too
    } else if (!head_runs_.empty()) {
        run_head(head_runs_.front().first, head_runs_.front().count);
    }
}

void Decoder::announce(const DecoderBatch& batch, std::uint32_t layer_begin, std::uint32_t layer_end) {
    if (!batch.layers_done) { return; }
    backend_->when_done([&listener = batch.layers_done, layer_begin, layer_end] { listener(layer_begin, layer_end); });
}

void Decoder::append_layer(const DecoderBatch& batch, std::uint32_t layer, std::uint32_t rows) {
    const LayerWeights& w = weights_->layers[layer];
    const auto eps = static_cast<float>(shape_->rms_norm_eps);
    if (layer == 0) {
        backend_->rms_norm(residual_.data, w.attention_norm, eps, rows, shape_->hidden, normed_.data);
    } else {
        backend_->add_rms_norm(residual_.data, delta_.data, w.attention_norm, eps, rows, shape_->hidden, normed_.data);
    }
    backend_->linear(w.qkv, normed_.data, rows, w.qkv_bias, qkv_.data, qkv_.kind);
    backend_->rope_and_append(*shape_, {.qkv = qkv_.data,
                                        .rows = rows,
                                        .sequences = batch.sequences,
                                        .rope = rope_,
                                        .q_norm = w.q_norm,
                                        .k_norm = w.k_norm,
                                        .norm_eps = eps,
                                        .layer = layer,
                                        .q = q_.data,
                                        .kv = kv_});
    if (query_watch_) { tell_queries(batch, layer); }
}

void Decoder::tell_queries(const DecoderBatch& batch, std::uint32_t layer) const {
    const std::size_t width = std::size_t{shape_->heads_q} * shape_->head_dim;
    for (const SequenceRows& sequence : batch.sequences) {
        const auto* queries = reinterpret_cast<const float*>(q_.data) + sequence.row_begin * width;
        query_watch_(layer, sequence.position, {queries, sequence.rows * width});
    }
}

void Decoder::finish_layer(std::uint32_t layer, std::span<const SequenceRows> sequences, RowSet set,
                           std::uint32_t rows) {
    const LayerWeights& w = weights_->layers[layer];
    backend_->attention(*shape_, {.q = q_.data,
                                  .sequences = sequences,
                                  .layer = layer,
                                  .scale = 1.0f / std::sqrt(static_cast<float>(shape_->head_dim)),
                                  .kv = kv_,
                                  .out = attention_.data,
                                  .rows = set});
    backend_->linear(w.output, attention_.data, rows, w.output_bias, delta_.data, delta_.kind);
    backend_->add_rms_norm(residual_.data, delta_.data, w.mlp_norm, static_cast<float>(shape_->rms_norm_eps), rows,
                           shape_->hidden, normed_.data);
    backend_->mlp({.gate_up = &w.gate_up,
                   .down = &w.down,
                   .x = normed_.data,
                   .rows = rows,
                   .gate_up_rows = gate_up_.data,
                   .activated_rows = activated_.data,
                   .y = delta_.data,
                   .kind = delta_.kind});
}

void Decoder::find_wanted(const DecoderBatch& batch) {
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
            if (run != nullptr && run->sequence == sequence.sequence && run->position + run->rows == position) {
                ++run->rows;
            } else {
                sequences_wanted_.push_back({.row_begin = kept,
                                             .rows = 1,
                                             .position = position,
                                             .blocks = sequence.blocks,
                                             .sequence = sequence.sequence});
            }
            ++kept;
            ++next;
        }
    }
    CHECK(next == batch.rows_wanted.size());
}

void Decoder::find_runs(const DecoderBatch& batch, const StepPlan& plan) {
    head_runs_.clear();
    hidden_runs_.clear();
    const auto rows = static_cast<std::uint32_t>(batch.rows_wanted.size());
    CHECK(batch.wants_hidden.empty() || batch.wants_hidden.size() == rows);
    for (std::uint32_t begin = 0; begin < rows;) {
        const bool is_hidden = wants_hidden(batch, begin);
        std::uint32_t end = begin + 1;
        while (end < rows && end - begin < limits_.logit_rows && wants_hidden(batch, end) == is_hidden) {
            ++end;
        }
        (is_hidden ? hidden_runs_ : head_runs_).push_back({begin, end - begin});
        begin = end;
    }
    if (plan.is_replayed) {  // what is recorded has logits of every row
        CHECK(rows <= limits_.logit_rows);
        head_runs_.assign(1, {0, rows});
    }
}

void Decoder::run_head(std::uint32_t first, std::uint32_t count) {
    const std::byte* rows = normed_.data + std::size_t{first} * shape_->hidden * backend_->element_bytes(normed_.kind);
    backend_->linear(weights_->head, rows, count, nullptr, logits_.data, logits_.kind);
}

base::Result<void> Decoder::take_hidden_rows(const DecoderBatch& batch, RowRun run) {
    const std::size_t row_bytes = shape_->hidden * backend_->element_bytes(normed_.kind);
    const auto rows =
        backend_->read_rows(normed_.data + run.first * row_bytes, normed_.kind, run.count, shape_->hidden);
    if (!rows) { return base::pass_on(rows); }
    batch.take_hidden(run.first, run.count, *rows);
    return {};
}

base::Result<void> Decoder::take_rows(const DecoderBatch& batch, RowRun run) {
    const std::uint32_t first = run.first;
    const std::uint32_t count = run.count;
    const std::size_t vocabulary = shape_->vocabulary;
    is_chosen_.assign(count, false);
    for (std::uint32_t i = 0; i < count; ++i) {
        is_chosen_[i] = wants_hidden(batch, first + i);  // not to be chosen any more
    }
    const auto all_chosen = [this] {
        return std::find(is_chosen_.begin(), is_chosen_.end(), false) == is_chosen_.end();
    };
    if (all_chosen()) { return {}; }
    if (!batch.choices.empty()) {
        chosen_.clear();
        const auto sampled =
            backend_->choose(logits_.data, shape_->vocabulary, batch.choices.subspan(first, count), chosen_);
        if (!sampled) { return base::pass_on(sampled); }
        if (*sampled) {
            CHECK(chosen_.size() == count);
            for (std::uint32_t i = 0; i < count; ++i) {
                if (is_chosen_[i]) { continue; }
                if (!chosen_[i] && chosen_[i].error().code == base::ErrorCode::resource_exhausted) { continue; }
                batch.take_chosen(first + i, std::move(chosen_[i]));
                is_chosen_[i] = true;
            }
            if (all_chosen()) { return {}; }
        }
    }
    const auto logits = backend_->read_rows(logits_.data, logits_.kind, count, shape_->vocabulary);
    if (!logits) { return base::pass_on(logits); }
    for (std::uint32_t begin = 0; begin < count;) {
        std::uint32_t end = begin;
        while (end < count && !is_chosen_[end]) {
            ++end;
        }
        if (end > begin) {
            batch.take_logits(first + begin, end - begin,
                              logits->subspan(begin * vocabulary, (end - begin) * vocabulary));
        }
        begin = end + 1;
    }
    return {};
}

}  // namespace engine
