#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace text {

/// A tokenizer's files, read and recognised.
struct TokenizerFiles {
    std::int32_t kind = 0;  // SLUICE_HUGGING_FACE_JSON, ...
    std::filesystem::path path;
    std::string first;
    std::string second;        // merges.txt, where the kind has two files
    std::string options_json;  // for sluice_tokenizer_load
};

/// Finds the tokenizer of a model's folder, or recognises one file by its name and content. `pattern`: see
/// TokenizerOptions. Errors: not_found with the names looked for; invalid_argument for a file of no known form or a
/// broken tokenizer_config.json; resource_exhausted for a file above `file_bytes_max`.
base::Result<TokenizerFiles> find_tokenizer_files(const std::filesystem::path& path, const std::string& pattern,
                                                  std::size_t file_bytes_max);

}  // namespace text
