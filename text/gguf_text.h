#pragma once

#include <filesystem>

#include "base/gguf_model.h"
#include "base/result.h"
#include "text/model_text.h"
#include "text/shim/sluice_text.h"

namespace text {

/// The vocabulary in a GGUF file's metadata, as the shim takes it: views of the file. Error: data_loss or
/// invalid_argument for a key that is missing or of another type, naming it.
base::Result<SluiceGgufVocabulary> gguf_vocabulary(const base::GgufModel& model);

/// ModelText::load() of a GGUF file.
base::Result<ModelText> load_gguf_text(const std::filesystem::path& path, const TokenizerOptions& options);

}  // namespace text
