#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/model_shape.h"
#include "base/result.h"

namespace engine {

/// A tensor of a checkpoint that is being written.
struct TensorToWrite {
    std::string name;
    std::string dtype;  // "F32", "F16", "BF16"
    std::vector<std::uint64_t> shape;
    /// Writes elements [first, first + count) as floats; they are rounded to `dtype` (to nearest even) afterwards.
    /// Called from several threads at once.
    std::function<void(std::uint64_t first, std::span<float> values)> fill;
};

/// Writes a Hugging Face model folder: config.json, and model.safetensors or, where that would be longer than
/// `shard_bytes_max`, shards with model.safetensors.index.json. Creates `dir`; replaces what is there.
/// `progress(done, total)` in bytes. Error: those of the file system; resource_exhausted when the disk is full.
base::Result<void> write_checkpoint(const std::string& dir, const base::ModelShape& shape,
                                    const std::vector<TensorToWrite>& tensors, std::uint64_t shard_bytes_max,
                                    const std::function<void(std::uint64_t, std::uint64_t)>& progress = {});

/// All tensors of a shape with random values that are a function of (seed, tensor, element): unit gain in every
/// sublayer and logits with a spread of about 2, so that a random model is neither flat nor stuck.
std::vector<TensorToWrite> random_tensors(const base::ModelShape& shape, const std::string& dtype, std::uint64_t seed);

}  // namespace engine
