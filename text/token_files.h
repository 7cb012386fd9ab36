#pragma once

#include <boost/json.hpp>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace text {

/// What the files of a model's folder say about its tokens besides the tokenizer itself, merged in the order of
/// transformers (README.md has the table).
struct TokenFiles {
    /// tokenizer_config.json with the special tokens of special_tokens_map.json: these go first where the former has no
    /// `added_tokens_decoder`, and fill what it lacks where it has one.
    boost::json::object config;
    /// [{"id", "content", "special", "lstrip", "rstrip"}]: `added_tokens_decoder`, else added_tokens.json.
    boost::json::array added_tokens;
    /// Special tokens that the class of the tokenizer has where no file names them: name, text. They count only where
    /// the vocabulary has them.
    std::vector<std::pair<std::string, std::string>> class_defaults;

    /// The texts of every special token, of `config` and of its additional_special_tokens.
    std::vector<std::string> special_texts() const;
};

/// "bos_token", "eos_token", ...
extern const std::vector<std::string> kSpecialTokenNames;

/// Files that are missing say nothing. `folder` is that of the tokenizer, `model_folder` that of config.json.
/// Error: invalid_argument for broken JSON, naming the file; those of read_file().
base::Result<TokenFiles> read_token_files(const std::filesystem::path& folder,
                                          const std::filesystem::path& model_folder);

/// Where the files about text are: the folder itself, or the one that modules.json of sentence-transformers names for
/// its transformer ("0_Transformer"). Error: invalid_argument for a broken modules.json.
base::Result<std::filesystem::path> token_folder(const std::filesystem::path& model_folder);

/// An empty object when the file is missing. Error: as read_token_files().
base::Result<boost::json::object> read_optional_object(const std::filesystem::path& path);

}  // namespace text
