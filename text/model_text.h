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
#include "text/content_form.h"
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
    ContentForm chat_content;  // of chat_template
    ContentForm tool_content;  // of tool_template

    /// Variables of the template besides those of the request: bos_token, eos_token, pad_token, ... with their texts.
    std::vector<std::pair<std::string, std::string>> template_variables;
    /// Texts of tokens that are not marked as special but that the templates print as marks ("<think>").
    std::vector<std::string> control_texts;

    /// Every token that ends a text, ascending: of generation_config.json, config.json and tokenizer_config.json; in a
    /// GGUF file those that its keys name, and control tokens that are called so ("<|im_end|>", "<|endoftext|>", ...).
    std::vector<base::TokenId> eos_ids;
    std::optional<base::TokenId> bos;
    GenerationDefaults defaults;
    /// Ids of the model: 0 up to here, also where the tokenizer has fewer (it can generate them) or more. 0: the files
    /// do not say.
    std::size_t vocabulary = 0;
    /// For people: what of the files is wrong and was put right or left out, with file and field.
    std::vector<std::string> warnings;

    /// Reads tokenizer, tokenizer_config.json, chat_template.jinja or .json, generation_config.json and config.json
    /// (all but the tokenizer may be missing), or a GGUF file. Errors: those of Tokenizer::load; invalid_argument for
    /// broken JSON; data_loss for a key of a GGUF file of another type.
    [[nodiscard]] static base::Result<ModelText> load(const std::filesystem::path& model_folder,
                                                      const TokenizerOptions& options = {});

    /// The variables of `context_json` (one JSON object) with `template_variables` put in where it has none.
    /// Error: invalid_argument when it is no JSON object.
    [[nodiscard]] base::Result<std::string> with_variables(std::string_view context_json) const;

    /// The prompt of a chat, by the template that serves it, with the contents of the messages in the form that it
    /// takes (adapt_contents()) and `template_variables`. Errors: unimplemented when there is no template; those of
    /// adapt_contents() and ChatTemplate::render().
    [[nodiscard]] base::Result<std::string> render_chat(std::string_view context_json, const CivilTime& now) const;

    /// The same by a template that somebody else gives, with contents as texts. It is compiled for this one call.
    [[nodiscard]] base::Result<std::string> render_by(std::string_view source, std::string_view context_json,
                                                      const CivilTime& now) const;
};

}  // namespace text
