#include "engine/encoder_model.h"

#include <span>
#include <string>
#include <utility>

#include "base/block_hash.h"
#include "base/check.h"
#include "engine/local_engine.h"
#include "engine/model/checkpoint.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::Result;

/// Raised whenever the graph gives other numbers from the same operators.
constexpr std::uint32_t kEncoderGraphVersion = 1;

NumericsId make_numerics_id(const EncoderParts& parts, WeightFormat format) {
    const EncoderShape& shape = parts.shape;
    std::string text = "encoder graph " + std::to_string(kEncoderGraphVersion) + "\n";
    for (const std::uint64_t number :
         {parts.packed.content.high, parts.packed.content.low, std::uint64_t{parts.backend->numerics_version()},
          std::uint64_t{shape.transformer.heads_q}, static_cast<std::uint64_t>(shape.gelu),
          static_cast<std::uint64_t>(shape.pooling), std::uint64_t{shape.normalize}}) {
        text += std::to_string(number) + "\n";
    }
    text += std::to_string(shape.layer_norm_eps) + "\n" + std::string(name_of(format)) + "\n" +
            parts.backend->numerics_name();
    return NumericsId{base::keyed_hash({}, std::as_bytes(std::span(text))).low};
}

std::string describe_encoder(const EncoderParts& parts, WeightFormat format, const EngineOptions& options) {
    const EncoderShape& shape = parts.shape;
    return shape.transformer.architecture + " with " + std::to_string(shape.transformer.layers) + " layers, " +
           std::string(name_of(format)) + " weights in " + parts.packed.path + ", " +
           std::string(parts.backend->family()) + " kernels on " + std::to_string(options.threads) +
           (options.threads == 1 ? " thread" : " threads") + ", vectors of " +
           std::to_string(shape.transformer.hidden) + (shape.normalize ? ", normalised" : "") + ", texts of up to " +
           std::to_string(shape.transformer.context_tokens) + " tokens";
}

/// The host's kernels, whatever GPU there may be; asking for one is an error.
Result<std::unique_ptr<Backend>> make_host_backend(const EngineOptions& options) {
    if (options.kernels == "cuda" || (options.device != "auto" && options.device != "host")) {
        return base::fail(ErrorCode::unimplemented,
                          "sentence encoders run on the host only: set device to auto or "
                          "host and kernels to auto, amx, avx512, avx2 or reference");
    }
    auto backend = make_backend({.family = options.kernels,
                                 .threads = options.threads,
                                 .cpus = options.cpus,
                                 .weight_format = options.weight_format,
                                 .kv_dtype = options.kv_dtype});
    if (!backend) { return base::pass_on(backend); }
    CHECK((*backend)->encoder() != nullptr);
    return backend;
}

}  // namespace

void EncoderModel::check(const BatchEntry& entry) const {
    CHECK(entry.position == 0 && entry.pooling == Pooling::own && !entry.sample && !entry.score,
          "an encoder takes whole texts and gives vectors");
}

Result<std::vector<EntryResult>> EncoderModel::run(const Batch& batch, const LayersDone& /*layers_done*/) {
    tokens_.clear();
    texts_.clear();
    std::vector<EntryResult> results(batch.entries().size());
    for (std::size_t i = 0; i < results.size(); ++i) {
        const BatchEntry& entry = batch.entries()[i];
        results[i].sequence = entry.sequence;
        for (const base::TokenId token : entry.tokens) {
            if (token < 0 || static_cast<std::uint32_t>(token) >= shape().vocabulary) {
                return base::fail(ErrorCode::invalid_argument, "sequence " + std::to_string(base::raw(entry.sequence)) +
                                                                   ": token " + std::to_string(token) +
                                                                   ", the vocabulary has " +
                                                                   std::to_string(shape().vocabulary));
            }
        }
        texts_.push_back({.row_begin = static_cast<std::uint32_t>(tokens_.size()),
                          .rows = static_cast<std::uint32_t>(entry.tokens.size()),
                          .position = 0,
                          .blocks = {},
                          .sequence = static_cast<std::uint32_t>(i)});
        tokens_.insert(tokens_.end(), entry.tokens.begin(), entry.tokens.end());
    }
    const std::span<const float> states = parts_->encoder->run(tokens_, texts_);
    const std::size_t hidden = shape().hidden;
    for (std::size_t i = 0; i < results.size(); ++i) {
        parts_->encoder->pool(states.subspan(texts_[i].row_begin * hidden, texts_[i].rows * hidden), results[i].pooled);
    }
    return results;
}

Result<std::unique_ptr<Engine>> load_encoder(const EngineOptions& options,
                                             const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    auto parts = std::make_unique<EncoderParts>();
    auto shape = read_encoder_config(options.model_dir);
    if (!shape) { return base::pass_on(shape); }
    parts->shape = *shape;
    if (options.batch_tokens_max < shape->transformer.context_tokens) {
        return base::fail(ErrorCode::invalid_argument,
                          "batch_tokens_max is " + std::to_string(options.batch_tokens_max) +
                              ", but the longest text of this encoder has " +
                              std::to_string(shape->transformer.context_tokens) +
                              " tokens, which go through one step: set worker.batch_tokens_max to at least that");
    }
    auto backend = make_host_backend(options);
    if (!backend) { return base::pass_on(backend); }
    parts->backend = std::move(*backend);

    const auto checkpoint = Checkpoint::open(options.model_dir);
    if (!checkpoint) { return base::pass_on(checkpoint); }
    PackingPlan plan = plan_encoder_packing(*shape, WeightFormat::f32);
    if (auto checked = check_tensors(*checkpoint, plan); !checked) { return base::pass_on(checked, options.model_dir); }
    const WeightFormat format = parts->backend->choose_formats(stored_format(*checkpoint, plan)).weights;
    plan = plan_encoder_packing(*shape, format);
    const auto packed_dir = prepare_packed_dir(options.packed_dir);
    if (!packed_dir) { return base::pass_on(packed_dir, "folder for packed weights"); }
    auto packed = open_packed_file(*checkpoint, plan, *packed_dir, progress, options.packed_bytes_max);
    if (!packed) { return base::pass_on(packed); }
    parts->packed = std::move(*packed);
    parts->weights = bind_encoder_weights(*shape, plan, parts->packed.file.bytes().data());
    auto encoder = Encoder::make(parts->shape, parts->weights, *parts->backend, options.batch_tokens_max);
    if (!encoder) { return base::pass_on(encoder); }
    parts->encoder.emplace(std::move(*encoder));

    const NumericsId numerics_id = make_numerics_id(*parts, format);
    std::string description = describe_encoder(*parts, format, options);
    return std::make_unique<LocalEngine>(LocalEngine::Limits{.batch_tokens_max = options.batch_tokens_max,
                                                             .batch_sequences_max = options.batch_sequences_max},
                                         std::make_unique<EncoderModel>(std::move(parts)), numerics_id,
                                         std::move(description));
}

}  // namespace engine
