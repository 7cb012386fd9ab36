#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "gateway/request/answer_style.h"
#include "gateway/request/special_texts.h"
#include "proto/version.h"
#include "proto/worker.pb.h"

namespace gateway {

/// Turns the tokens of one sequence into text piece by piece; a piece never ends inside a UTF-8 sequence.
class Detokenizer {
public:
    virtual ~Detokenizer() = default;
    /// Text that `token` completes; may be empty.
    virtual std::string push(base::TokenId token) = 0;
    /// What is still held back, made valid.
    virtual std::string flush() = 0;
};

/// What generation_config.json says about sampling where the client says nothing.
struct SamplingDefaults {
    std::optional<double> temperature = {};
    std::optional<double> top_p = {};
    std::optional<double> min_p = {};
    std::optional<std::int64_t> top_k = {};
    std::optional<double> repetition_penalty = {};
};

/// The text side of one model as the gateway needs it. Implemented over text/ by ModelTextPort and by fakes in tests
/// and the simulator, which need no tokenizer library. All functions are thread-safe.
class TextPort {
public:
    virtual ~TextPort() = default;

    /// `add_special`: BOS and the like as the tokenizer's post-processor does. `parse_special`: the text of a special
    /// token becomes that token; without it it stays ordinary text. `text_starts`: bytes of the text, ascending, at
    /// which no such token begins whatever stands there.
    virtual base::Result<std::vector<base::TokenId>> encode(std::string_view text, bool add_special, bool parse_special,
                                                            std::span<const std::size_t> text_starts) const = 0;
    /// The most bytes of a text that one token stands for: a text of more than so many times a number has more tokens
    /// than that. 0: not known, or no such bound.
    virtual std::size_t token_bytes_max() const { return 0; }
    /// The bytes that the token stands for, which need not be valid UTF-8 alone.
    virtual std::string token_bytes(base::TokenId token) const = 0;
    virtual std::unique_ptr<Detokenizer> detokenizer(bool skip_special) const = 0;
    /// Renders the chat template over a JSON context (messages, add_generation_prompt, ...).
    /// Error: invalid_argument when the template refuses, unimplemented when the model has none.
    virtual base::Result<std::string> render_chat(std::string_view context_json, std::int64_t now_unix_s) const = 0;
    /// The same by a template that the client gives. Errors also: invalid_argument when it is none, resource_exhausted
    /// when it takes too much.
    virtual base::Result<std::string> render_by(std::string_view /*source*/, std::string_view /*context_json*/,
                                                std::int64_t /*now_unix_s*/) const {
        return base::fail(base::ErrorCode::unimplemented, "templates of clients cannot be rendered here");
    }
    /// Whether answers can be made to keep to it, whatever the model; bounded in time and memory. Errors:
    /// invalid_argument naming what is wrong or not supported, resource_exhausted: it is too much.
    virtual base::Result<void> check_grammar(const proto::Grammar& /*grammar*/) const {
        return base::fail(base::ErrorCode::unimplemented, "grammars cannot be checked here");
    }
    /// Texts of special tokens, so that they can be recognised in what a client wrote.
    virtual const SpecialTexts& special_texts() const = 0;
    virtual const std::vector<base::TokenId>& eos_ids() const = 0;
    /// How the model's answers hold calls and reasoning.
    virtual AnswerStyle answer_style() const { return {}; }
    /// Empty: the model knows no such marks.
    virtual std::optional<FillMarks> fill_marks() const { return std::nullopt; }
    /// Whether the chat template shows the model the tools of a request.
    virtual bool takes_tools() const = 0;
    /// The tokens that the model's files name (bos_token, eos_token, pad_token, ...), with their texts.
    virtual std::vector<std::pair<std::string, std::string>> named_tokens() const = 0;
    /// What a text begins with, where the model has such a token.
    virtual std::optional<base::TokenId> bos() const = 0;
    /// One more than the largest id that the model knows, whether or not its tokenizer has a text for it.
    virtual std::uint32_t vocabulary() const = 0;
    virtual const SamplingDefaults& sampling_defaults() const = 0;
};

}  // namespace gateway
