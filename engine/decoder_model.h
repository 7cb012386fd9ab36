#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/block_hash.h"
#include "base/model_shape.h"
#include "device/buffer.h"
#include "device/prefault.h"
#include "engine/kernels/backend.h"
#include "engine/loaded_model.h"
#include "engine/model/decoder.h"
#include "engine/model/packed_file.h"
#include "engine/model/weights.h"
#include "engine/step.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// Everything that a decoder's step reads, in a place that does not change. Built by load_engine().
struct DecoderParts {
    base::ModelShape shape;
    PackedFile packed;        // of a model on the host
    device::Buffer uploaded;  // of a model on a GPU
    base::BlockHash content;  // of the weights (PackedFile::content)
    Weights weights;
    RopeTable rope;
    std::unique_ptr<Backend> backend;
    std::optional<kv_cache::KvStore> kv;
    std::optional<device::Prefault> prefault;  // of its memory
    std::optional<Decoder> decoder;
};

/// A model that makes text.
class DecoderModel final : public LoadedModel {
public:
    /// `layer_group`: layers per LayersDone call, > 0.
    DecoderModel(std::unique_ptr<DecoderParts> parts, std::uint32_t layer_group);

    const base::ModelShape& shape() const override { return parts_->shape; }
    kv_cache::KvStore* kv() override { return &*parts_->kv; }
    void check(const BatchEntry& entry) const override;
    base::Result<std::vector<EntryResult>> run(const Batch& batch, const LayersDone& layers_done) override {
        return runner_.run(batch, layers_done);
    }

private:
    const std::unique_ptr<DecoderParts> parts_;
    StepRunner runner_;
};

}  // namespace engine
