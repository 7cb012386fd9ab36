#pragma once

#include "base/gguf_model.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "engine/model/safetensors.h"

namespace engine {

/// The shape of the model in a GGUF file: architectures `llama` (Llama and Mistral), `qwen2` and `qwen3`.
/// Every field of the architecture is known or refused, and so is every tensor (gguf_tensors()).
/// Error: data_loss for a key or tensor that is missing or makes no sense, unimplemented for one that asks for
/// something we cannot compute; the message names it, what it says, and what would do.
base::Result<base::ModelShape> gguf_model_shape(const base::GgufModel& model);

/// Its tensors under their Hugging Face names, with the outputs first in the shape; bytes borrowed from the file.
/// Error: unimplemented for a tensor that is no part of a model of that shape (it would change the numbers) or is
/// stored in a type that we cannot multiply out.
base::Result<Tensors> gguf_tensors(const base::GgufModel& model, const base::ModelShape& shape);

}  // namespace engine
