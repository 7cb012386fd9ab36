#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace text {

/// What generation_config.json (or general.sampling.* of a GGUF file) recommends; a request's own values go first.
struct GenerationDefaults {
    std::optional<bool> do_sample;
    std::optional<double> temperature;
    std::optional<double> top_p;
    std::optional<double> min_p;
    std::optional<double> repetition_penalty;
    std::optional<int> top_k;
    std::optional<int> max_new_tokens;
};

/// Everything about text in a model's folder, or in the metadata of its GGUF file.
struct ModelText {
    std::shared_ptr<const Tokenizer> tokenizer;  // never null

    /// Null when the folder has none, or it does not compile: then `chat_template_problem` says why.
    std::shared_ptr<const ChatTemplate> chat_template;
    /// The folder's other template for requests with tools ("tool_use"); null: `chat_template` serves these too.
    std::shared_ptr<const ChatTemplate> tool_template;
    std::string chat_template_problem;

    /// Variables of the template besides those of the request: bos_token, eos_token, pad_token, ... with their texts.
    std::vector<std::pair<std::string, std::string>> template_variables;

    /// Every token that ends a text, ascending: of generation_config.json, config.json and tokenizer_config.json; in a
    /// GGUF file those that its keys name, and control tokens that are called so ("<|im_end|>", "<|endoftext|>", ...).
    std::vector<base::TokenId> eos_ids;
    std::optional<base::TokenId> bos;
    GenerationDefaults defaults;

    /// Reads tokenizer, tokenizer_config.json, chat_template.jinja or .json, generation_config.json and config.json
    /// (all but the tokenizer may be missing), or a GGUF file. Errors: those of Tokenizer::load; invalid_argument for
    /// broken JSON; data_loss for a key of a GGUF file of another type.
    [[nodiscard]] static base::Result<ModelText> load(const std::filesystem::path& model_folder,
                                                      const TokenizerOptions& options = {});

    /// The variables of `context_json` (one JSON object) with `template_variables` put in where it has none.
    /// Error: invalid_argument when it is no JSON object.
    [[nodiscard]] base::Result<std::string> with_variables(std::string_view context_json) const;
};

}  // namespace text
