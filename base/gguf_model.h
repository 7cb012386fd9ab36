#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/gguf.h"
#include "base/mapped_file.h"
#include "base/result.h"

namespace base {

/// Whether `path` is a GGUF file: by its suffix (".gguf", also when there is no such file), or by its first bytes.
/// Whatever takes a model's folder takes such a file too.
bool is_gguf(const std::filesystem::path& path);

/// What a model is called after its file: "SmolLM2-135M.Q4_1" of "/m/SmolLM2-135M.Q4_1.gguf", without the number of a
/// part ("-00001-of-00003").
std::string gguf_model_name(const std::filesystem::path& path);

/// The GGUF file of a model, or all of them where it is split, mapped read-only. Immutable; movable.
class GgufModel {
public:
    enum class Parts {
        all,
        first
    };  // first: the metadata alone, as a tokenizer needs it; `tensors()` are then its own

    struct File {
        std::filesystem::path path;
        MappedFile mapped;
        GgufFile content;
    };

    /// `path`: the file, or any one of "NAME-00001-of-0000N.gguf"; the others are looked for beside it.
    /// Errors: those of MappedFile::open() and GgufFile::parse(); not_found for a part that is missing; data_loss where
    /// parts do not belong together (numbers, counts, a tensor in two of them); the message names the file.
    static Result<GgufModel> open(const std::filesystem::path& path, Parts parts = Parts::all);

    /// Metadata, of the first file. Null when there is none.
    const GgufValue* find(std::string_view key) const { return files_.front().content.find(key); }
    const std::map<std::string_view, GgufValue>& values() const { return files_.front().content.values; }
    /// Of all files. Names and bytes are valid as long as this object or the one it is moved to.
    const std::map<std::string_view, GgufTensor>& tensors() const { return tensors_; }
    std::span<const File> files() const { return files_; }

private:
    std::vector<File> files_;  // at least one
    std::map<std::string_view, GgufTensor> tensors_;
};

}  // namespace base
