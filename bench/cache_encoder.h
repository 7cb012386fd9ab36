#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "caching/semantic/embedder.h"

namespace bench {

/// A sentence encoder in this process: tokenizer and engine. Texts longer than the model takes are cut. Not
/// thread-safe. Error: the engine's, the tokenizer's; invalid_argument for a model that makes text.
base::Result<std::unique_ptr<caching::Embedder>> load_encoder(const std::string& model_dir, const std::string& kernels,
                                                              std::uint32_t threads);

}  // namespace bench
