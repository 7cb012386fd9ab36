#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/model_shape.h"
#include "base/result.h"
#include "engine/model/checkpoint.h"

namespace engine {

/// A tensor that the files hold and the model, as it is run, does not read.
struct UnusedTensor {
    enum class Kind : std::uint8_t {
        harmless,     // changes nothing: made from the configuration again, a copy of another, or all zeros
        aside,        // of another task or modality (a vision tower, a classifier): the text model runs without it
        contradicts,  // of the text model itself: what it computes would be something else
    };
    std::string name;
    std::uint64_t bytes = 0;
    Kind kind = Kind::contradicts;
    std::string why;  // "equal to model.embed_tokens.weight"
};

/// What of `checkpoint` a model of `shape` does not read, by name; scales of matrices in FP8 count as read. Reads those
/// bytes that decide whether a tensor is a copy or all zeros, and lets go of them.
std::vector<UnusedTensor> unused_tensors(const Checkpoint& checkpoint, const base::ModelShape& shape);

/// The shape that fits to the files, and what a person should know about it.
struct FittedModel {
    base::ModelShape shape;
    std::vector<UnusedTensor> unused;  // all of them, by name
    std::vector<std::string> warnings;
};

/// Settles where the files say another thing than the configuration: a head of its own that differs from the embedding
/// is used although tied_embeddings says otherwise (with a warning); what stands aside, an adapter beside the model,
/// and what the configuration leaves open (model_config_warnings()) is warned of. Error: data_loss for tensors that
/// contradict the shape, with their names and what would help.
base::Result<FittedModel> fit_to_checkpoint(const base::ModelShape& shape, const Checkpoint& checkpoint,
                                            const std::string& model_dir);

/// "vision_tower.a, vision_tower.b and 12 more (1,234 bytes)" of the unused tensors of one kind; empty when there are
/// none.
std::string describe_unused(std::span<const UnusedTensor> unused, UnusedTensor::Kind kind);

}  // namespace engine
