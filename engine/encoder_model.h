#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/kernels/backend.h"
#include "engine/loaded_model.h"
#include "engine/model/encoder.h"
#include "engine/model/encoder_config.h"
#include "engine/model/encoder_weights.h"
#include "engine/model/packed_file.h"

namespace engine {

/// Everything that an encoder's step reads, in a place that does not change.
struct EncoderParts {
    EncoderShape shape;
    PackedFile packed;
    EncoderWeights weights;
    std::unique_ptr<Backend> backend;
    std::optional<Encoder> encoder;
};

/// A model that makes one vector of each text. An entry is a whole text, from position 0 on, with Pooling::own; the
/// texts of a batch stand one behind the other, and none is padded.
class EncoderModel final : public LoadedModel {
public:
    explicit EncoderModel(std::unique_ptr<EncoderParts> parts) : parts_(std::move(parts)) {}

    const base::ModelShape& shape() const override { return parts_->shape.transformer; }
    kv_cache::KvStore* kv() override { return nullptr; }
    void check(const BatchEntry& entry) const override;
    /// `layers_done` is never called: there is no KV to tell of.
    base::Result<std::vector<EntryResult>> run(const Batch& batch, const LayersDone& layers_done) override;

private:
    const std::unique_ptr<EncoderParts> parts_;
    std::vector<base::TokenId> tokens_;
    std::vector<SequenceRows> texts_;
};

/// load_engine() of a sentence encoder. Error: as that; unimplemented where the options ask for a GPU.
base::Result<std::unique_ptr<Engine>> load_encoder(const EngineOptions& options,
                                                   const std::function<void(std::uint64_t, std::uint64_t)>& progress);

}  // namespace engine
