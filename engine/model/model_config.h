#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/model_shape.h"
#include "base/result.h"

namespace engine {

/// Reads the text of a Hugging Face config.json (releases 4 and 5 of transformers) of LlamaForCausalLM,
/// MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM.
/// Error: invalid_argument for a field that is missing or makes no sense, unimplemented for one that asks for something
/// we cannot compute; the message names the field, what it says, and what would do.
base::Result<base::ModelShape> parse_model_config(std::string_view json);

/// The same from `model_dir`/config.json, or from the metadata of a GGUF file (gguf_model_shape()).
/// Error: also not_found, permission_denied.
base::Result<base::ModelShape> read_model_config(const std::string& model_dir);

/// What a config.json leaves open that transformers reads in another way than it is computed here; empty: nothing.
/// Mistral without `sliding_window`: 4096 to transformers, whole contexts here.
std::vector<std::string> model_config_warnings(std::string_view json);

/// The config.json that parse_model_config() turns back into `shape`; `dtype` as Hugging Face writes it ("bfloat16").
std::string format_model_config(const base::ModelShape& shape, std::string_view dtype);

}  // namespace engine
