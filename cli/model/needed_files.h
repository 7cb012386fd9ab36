#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace cli::model {

/// Which of the files of a repository, a wheel or a zip make up a model that Sluice can run: configuration, tokenizer,
/// chat template, licence, and safetensors with their index; or one GGUF file with its splits. Never pickles, other
/// quantisations or code. Pure.
/// `wanted`: one GGUF file of `paths` (its other splits come along); empty: the model that is there.
/// Error: not_found where there is no such file or no model, listing what there is to choose from;
/// failed_precondition where only files are there that run code when they are read.
base::Result<std::vector<std::string>> needed_files(const std::vector<std::string>& paths, std::string_view wanted);

/// Of the files of a finished model's folder: the GGUF file to open (of a split one, the first), or an empty string for
/// a folder with config.json. Error: failed_precondition when it is neither.
base::Result<std::string> entry_of(const std::vector<std::string>& paths);

}  // namespace cli::model
