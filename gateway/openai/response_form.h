#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/request_form.h"
#include "gateway/openai/tool_stream.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

/// By which names a chat's answers have their reasoning: DeepSeek's, the one that others have changed to. none: it is
/// left out.
enum class ReasoningFields { both, reasoning_content, reasoning, none };

/// What every object of one answer carries.
struct AnswerHeader {
    Endpoint endpoint = Endpoint::chat;
    std::string id = {};  // chatcmpl-..., cmpl-...
    std::int64_t created = 0;
    std::string model = {};
    std::string fingerprint = {};  // begins with "b"
    bool older_calls = false;      // `function_call` in place of `tool_calls`
    bool one_call_asked = false;   // the client has named the function: the answer then just stops
    bool usage_null = false;       // stream with include_usage: chunks before the last carry "usage":null
    ReasoningFields reasoning = ReasoningFields::both;
};

struct Usage {
    std::uint64_t prompt_tokens = 0;
    std::uint64_t cached_tokens = 0;
    std::uint64_t completion_tokens = 0;
    std::uint64_t reasoning_tokens = 0;  // of them; of sequences that have ended
    /// Where a cache in front had the answer: what was computed once and not again.
    struct Saved {
        std::string_view kind;  // exact, semantic
        std::int64_t age_s = 0;
        std::uint64_t prompt_tokens = 0;
        std::uint64_t completion_tokens = 0;
    };
    std::optional<Saved> saved = {};
};

/// Logprobs of one choice, or of one chunk of it.
struct LogprobsForm {
    std::vector<TokenRecord> tokens = {};
    bool first_has_none = false;  // completions with echo: the first prompt token has no logprob
};

/// A tool that the model wants to be called.
struct CallForm {
    std::string id;
    std::string name;
    std::string arguments;
};

/// One finished choice.
struct ChoiceForm {
    std::uint32_t index = 0;
    std::string text;
    std::string reasoning = {};
    std::vector<CallForm> calls = {};
    std::optional<LogprobsForm> logprobs;
    GenerationEnd end;
    std::optional<std::vector<base::TokenId>> token_ids;         // asked for by return_token_ids
    std::optional<std::vector<base::TokenId>> prompt_token_ids;  // the same
};

/// Writes the objects of the OpenAI API. Pure.
class ResponseForm {
public:
    ResponseForm(AnswerHeader header, const TextPort& text);

    /// A whole answer: chat.completion or text_completion.
    std::string whole(const std::vector<ChoiceForm>& choices, const Usage& usage) const;

    /// Chunks of a stream, each an event: `data: <one JSON object in one line>\n\n`. `usage`: with
    /// continuous_usage_stats.
    std::string role_chunk(std::uint32_t index, const std::optional<Usage>& usage) const;
    std::string text_chunk(std::uint32_t index, std::string_view text, const std::optional<LogprobsForm>& logprobs,
                           const std::vector<base::TokenId>* token_ids, const std::optional<Usage>& usage) const;
    /// One part of an answer that is read by an AnswerReader. `call_id`: of an event that begins a call.
    std::string event_chunk(std::uint32_t index, const AnswerEvent& event, std::string_view call_id,
                            const std::optional<Usage>& usage) const;
    std::string end_chunk(std::uint32_t index, const GenerationEnd& end, const std::optional<Usage>& usage,
                          bool has_calls = false) const;
    std::string usage_chunk(const Usage& usage) const;

    const AnswerHeader& header() const { return header_; }

private:
    AnswerHeader header_;
    const TextPort& text_;
    std::string chunk_begin_;  // of every event, up to the first of its choices
};

/// One name that clients may use.
struct ModelEntry {
    std::string_view name;
    std::uint32_t context_tokens = 0;  // 0: unknown
};
/// The list of /v1/models, and one entry of it.
std::string models_json(const std::vector<ModelEntry>& models, std::int64_t created);
std::string model_json(const ModelEntry& model, std::int64_t created);

/// `data: <json>\n\n`
std::string sse_event(std::string_view json);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";
inline constexpr std::string_view kSsePing = ": ping\n\n";

}  // namespace gateway
