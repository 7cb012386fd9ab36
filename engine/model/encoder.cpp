#include "engine/model/encoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "device/device.h"

namespace engine {
namespace {

/// Elements of each buffer of a step, in the order in which they lie in the scratch memory; padded to 256 bytes.
std::array<std::size_t, 5> scratch_pieces(const EncoderShape& shape, std::uint32_t batch_tokens) {
    constexpr std::size_t kAlignment = 256 / sizeof(float);
    const std::size_t hidden = shape.transformer.hidden;
    std::array<std::size_t, 5> widths = {hidden, hidden, 3 * hidden, hidden, shape.transformer.intermediate};
    for (std::size_t& width : widths) {
        width = (width * batch_tokens + kAlignment - 1) / kAlignment * kAlignment;
    }
    return widths;
}

}  // namespace

std::size_t Encoder::scratch_bytes(const EncoderShape& shape, std::uint32_t batch_tokens) {
    const auto pieces = scratch_pieces(shape, batch_tokens);
    return std::accumulate(pieces.begin(), pieces.end(), std::size_t{0}) * sizeof(float);
}

base::Result<Encoder> Encoder::make(const EncoderShape& shape, const EncoderWeights& weights, Backend& backend,
                                    std::uint32_t batch_tokens) {
    CHECK(backend.encoder() != nullptr && backend.device().is_host_memory());
    CHECK(batch_tokens >= shape.transformer.context_tokens && shape.transformer.context_tokens <= shape.positions);
    Encoder encoder(shape, weights, backend, batch_tokens);
    auto scratch = backend.device().allocate(scratch_bytes(shape, batch_tokens));
    if (!scratch) { return base::pass_on(scratch, "scratch memory of the encoder"); }
    encoder.scratch_ = std::move(*scratch);
    float* next = reinterpret_cast<float*>(encoder.scratch_.data());
    const auto pieces = scratch_pieces(shape, batch_tokens);
    const std::array<float**, 5> buffers = {&encoder.states_, &encoder.delta_, &encoder.qkv_, &encoder.attended_,
                                            &encoder.inner_};
    for (std::size_t i = 0; i < buffers.size(); ++i) {
        *buffers[i] = next;
        next += pieces[i];
    }
    encoder.fill_places();
    return encoder;
}

void Encoder::fill_places() {
    const std::size_t hidden = shape_->transformer.hidden;
    std::vector<base::TokenId> positions(shape_->transformer.context_tokens);
    std::iota(positions.begin(), positions.end(), base::TokenId{0});
    places_.resize(positions.size() * hidden);
    backend_->embed(weights_->positions, positions, places_.data());
    std::vector<float> type(hidden);
    const base::TokenId first = 0;
    backend_->embed(weights_->types, {&first, 1}, type.data());
    for (std::size_t i = 0; i < places_.size(); ++i) {
        places_[i] += type[i % hidden];
    }
}

std::span<const float> Encoder::run(std::span<const base::TokenId> tokens, std::span<const SequenceRows> texts) {
    CHECK(!tokens.empty() && tokens.size() <= batch_tokens_, tokens.size() << " rows, at most " << batch_tokens_);
    const auto rows = static_cast<std::uint32_t>(tokens.size());
    embed(tokens, texts);
    for (const EncoderLayerWeights& layer : weights_->layers) {
        run_layer(layer, rows, texts);
    }
    return {states_, rows * std::size_t{shape_->transformer.hidden}};
}

void Encoder::embed(std::span<const base::TokenId> tokens, std::span<const SequenceRows> texts) {
    const std::size_t hidden = shape_->transformer.hidden;
    backend_->embed(weights_->words, tokens, states_);
    std::uint32_t covered = 0;
    for (const SequenceRows& text : texts) {
        CHECK(text.row_begin == covered && text.rows > 0 && text.rows <= shape_->transformer.context_tokens,
              text.rows << " tokens of a text, at most " << shape_->transformer.context_tokens);
        std::memcpy(delta_ + covered * hidden, places_.data(), text.rows * hidden * sizeof(float));
        covered += text.rows;
    }
    CHECK(covered == tokens.size());
    backend_->encoder()->add_layer_norm(states_, delta_, norm_of(weights_->norm), covered, shape_->transformer.hidden);
}

void Encoder::run_layer(const EncoderLayerWeights& layer, std::uint32_t rows, std::span<const SequenceRows> texts) {
    const base::ModelShape& shape = shape_->transformer;
    EncoderOperators& operators = *backend_->encoder();
    backend_->linear(layer.qkv, states_, rows, layer.qkv_bias, qkv_, Activation::qkv);
    operators.attend_within({.qkv = qkv_,
                             .texts = texts,
                             .heads = shape.heads_q,
                             .head_dim = shape.head_dim,
                             .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                             .out = attended_});
    backend_->linear(layer.output, attended_, rows, layer.output_bias, delta_, Activation::delta);
    operators.add_layer_norm(states_, delta_, norm_of(layer.attention_norm), rows, shape.hidden);
    backend_->linear(layer.inner, states_, rows, layer.inner_bias, inner_, Activation::gate_up);
    operators.gelu(inner_, shape_->gelu, rows, shape.intermediate);
    backend_->linear(layer.outer, inner_, rows, layer.outer_bias, delta_, Activation::delta);
    operators.add_layer_norm(states_, delta_, norm_of(layer.norm), rows, shape.hidden);
}

void Encoder::pool(std::span<const float> states, std::vector<float>& vector) {
    const std::size_t hidden = shape_->transformer.hidden;
    CHECK(!states.empty() && states.size() % hidden == 0);
    const std::size_t rows = shape_->pooling == SentencePooling::first ? 1 : states.size() / hidden;
    pooled_sum_.assign(hidden, 0);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < hidden; ++i) {
            pooled_sum_[i] += static_cast<double>(states[row * hidden + i]);
        }
    }
    double squares = 0;
    for (double& sum : pooled_sum_) {
        sum /= static_cast<double>(rows);
        squares += sum * sum;
    }
    const double scale = shape_->normalize && squares > 0 ? 1.0 / std::sqrt(squares) : 1.0;
    vector.resize(hidden);
    std::transform(pooled_sum_.begin(), pooled_sum_.end(), vector.begin(),
                   [scale](double sum) { return static_cast<float>(sum * scale); });
}

}  // namespace engine
