#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/reasoning.h"
#include "gateway/openai/answer_reader.h"
#include "gateway/openai/request_form.h"
#include "gateway/request/ports.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

class TokenPrefixes;

/// A checked request whose text became tokens.
struct PreparedRequest {
    struct Prompt {
        std::shared_ptr<const std::vector<base::TokenId>> tokens;
        std::shared_ptr<const PromptHashes> hashes;  // empty with prompt logprobs: then no prefix can be reused
        std::string text;                            // for echo; else empty
        std::vector<std::size_t> text_offsets;       // echo with logprobs: code points of text before each token
    };
    RequestForm form;                   // without its texts
    std::vector<Prompt> prompts;        // one for chat
    std::uint32_t new_tokens_max = 0;   // > 0; also where the client wants none (then `hides_generated`)
    AnswerReader::Options reader = {};  // chat: what of an answer is no content
    bool shows_marks = false;           // which are special tokens
    bool tools_left_out = false;        // the template takes none, and the model might have called or not
    std::optional<base::ReasoningRule> reasoning = {};  // where its model reasons
    bool hides_generated = false;                       // completions with max_tokens 0: only the prompt is answered
};

/// What a form is prepared with; borrowed for the call.
struct PrepareContext {
    const FormLimits& limits;
    const TextPort& text;        // of the form's model
    const ClusterView& cluster;  // its workers; context_tokens > 0
    const base::HashKey& hash_key;
    std::int64_t now_unix_s;
    TokenPrefixes* prefixes = nullptr;  // of the model's chats so far; null: none are kept
};

/// What a client is told of a text that could not be made tokens: a 400 where the text is the cause, a 5xx, without
/// paths, where the server is.
ApiError text_error(const base::Error& error, std::string_view param);

/// The error of a text of `bytes` that cannot fit whatever its tokens are, so that nobody encodes it; where the client
/// wants only its end, of one many times too long. `what`: "your prompt has". Thread-safe.
ApiResult<void> check_fits(std::uint64_t bytes, const RequestForm& form, const PrepareContext& context,
                           std::string_view what);

/// The prompt of a chat.
struct ChatPrompt {
    std::string text;                   // as the chat template wrote it
    std::vector<base::TokenId> tokens;  // of the text; what clients wrote is never a special token
};
/// Renders and encodes the messages of `form` and takes them out of it: they may be megabytes, and nobody needs them
/// after this. Thread-safe. Errors: 400 (more text than `limits`
/// allow, template refuses, tools for a template that takes none).
/// `prefixes`: of the model's texts so far; null: none are kept.
ApiResult<ChatPrompt> chat_prompt(RequestForm& form, const FormLimits& limits, const TextPort& text,
                                  std::int64_t now_unix_s, TokenPrefixes* prefixes = nullptr);

/// From form to tokens: renders the chat template, encodes, checks lengths against the context, hashes the blocks.
/// Thread-safe; slow for long prompts, so it runs on the gateway's text threads.
/// A text that cannot fit the context whatever its tokens are is not encoded.
/// Errors: 400 (more text or logprobs than `limits` allow, template refuses, prompt empty, context_length_exceeded with
/// both numbers).
ApiResult<PreparedRequest> prepare(RequestForm form, const PrepareContext& context);

/// The sequence for one choice of one prompt. `seed`: the client's, or minted.
GenerationRequest generation_request(const PreparedRequest& prepared, std::size_t prompt, std::uint32_t choice,
                                     std::uint64_t seed, const TextPort& text);

}  // namespace gateway
