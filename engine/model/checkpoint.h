#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/gguf_model.h"
#include "base/mapped_file.h"
#include "base/result.h"
#include "engine/model/safetensors.h"

namespace engine {

/// The weights of a model as files, mapped read-only: model.safetensors of a Hugging Face folder, or the shards that
/// model.safetensors.index.json names, or a GGUF file (gguf_checkpoint.h). Tensors have Hugging Face's names. What a
/// shard holds beyond the index counts too.
/// Immutable.
class Checkpoint {
public:
    /// `model_dir`: a folder, or a GGUF file. Error: not_found without any of the files; data_loss for what does not
    /// fit together, naming file and tensor; those of GgufModel::open(), gguf_model_shape() and gguf_tensors().
    static base::Result<Checkpoint> open(const std::string& model_dir);

    /// Null when there is none of that name.
    const Tensor* find(std::string_view name) const;
    /// All that the files hold, by name.
    const Tensors& tensors() const { return tensors_; }

    /// Distinguishes one state of the files from another without reading the weights: path, inode, size, times and the
    /// header of each. Whoever writes a file changes it.
    const std::string& identity() const { return identity_; }
    /// Of all files together.
    std::uint64_t bytes() const { return bytes_; }
    /// Where the shape of the model is said, for messages: "config.json".
    std::string_view shape_source() const { return gguf_ ? "the metadata" : "config.json"; }

    /// The file that holds a tensor of find(), for messages.
    std::string file_of(const Tensor& tensor) const;

    /// Says that these bytes of a tensor will not be read soon (MappedFile::let_go()).
    void let_go(std::span<const std::byte> part) const;

private:
    base::Result<void> add_shards(const std::filesystem::path& dir);
    base::Result<Tensors> add_file(const std::string& path, std::string_view file_name);
    base::Result<void> add_gguf(const std::string& path);
    base::Result<void> add_identity(const std::string& path);
    void add_identity(const std::string& name, const Tensor& tensor, std::span<const std::byte> file);

    struct File {
        std::string path;
        base::MappedFile mapped;
    };
    std::vector<File> files_;
    std::optional<base::GgufModel> gguf_;
    Tensors tensors_;
    std::string identity_;
    std::uint64_t bytes_ = 0;
};

}  // namespace engine
