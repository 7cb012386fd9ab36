#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "engine/model/safetensors.h"

namespace engine {

/// The safetensors files of a Hugging Face model folder, mapped read-only: model.safetensors, or the shards that
/// model.safetensors.index.json names. Immutable.
class Checkpoint {
public:
    /// Error: not_found without either file; data_loss for what does not fit together, naming file and tensor.
    static base::Result<Checkpoint> open(const std::string& model_dir);

    /// Null when there is none of that name.
    const Tensor* find(std::string_view name) const;

    /// Distinguishes one state of the files from another without reading the weights: path, inode, size, times and the
    /// header of each. Whoever writes a file changes it.
    const std::string& identity() const { return identity_; }
    /// Of all files together.
    std::uint64_t bytes() const { return bytes_; }

private:
    base::Result<Tensors> add_file(const std::string& path, std::string_view file_name);

    std::vector<base::MappedFile> files_;
    Tensors tensors_;
    std::string identity_;
    std::uint64_t bytes_ = 0;
};

}  // namespace engine
