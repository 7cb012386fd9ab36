#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "gateway/openai/endpoint.h"
#include "gateway/openai/errors.h"
#include "gateway/request/answer_style.h"
#include "gateway/request/models.h"
#include "gateway/request/slo_targets.h"
#include "proto/version.h"
#include "proto/worker.pb.h"

namespace boost::json {
class object;
}

namespace gateway {

struct CacheTexts;
struct RoutedAsk;

/// Bounds of what one request may ask for.
struct FormLimits {
    std::uint32_t n_max = 16;         // choices of one prompt
    std::uint32_t prompts_max = 64;   // of one /v1/completions request
    std::uint32_t inputs_max = 2048;  // texts of one /v1/embeddings request
    std::uint32_t stop_strings_max = 16;
    std::uint32_t stop_string_bytes_max = 1024;
    std::uint32_t logit_bias_max = 1024;
    std::uint64_t text_bytes_max = 16ull << 20;              // all user messages or prompts of a request together
    std::optional<ToolFormat> tool_format = {};              // of all models; absent: what their templates say
    bool leaves_tools_out = true;                            // a model's template takes none: not a 400 under "auto"
    bool all_calls_by_schema = true;                         // under "auto" also calls of tools that are not strict
    std::uint64_t grammar_bytes_max = 256 << 10;             // of a schema, a pattern, a list of choices, a grammar
    std::optional<std::uint32_t> reasoning_tokens_max = {};  // of answers that ask for no other budget; absent: any
    std::uint64_t template_bytes_max = 0;                    // of a chat template of the request; 0: none is taken
    std::uint64_t logprob_records_max = 4'000'000;           // logprobs that an answer may hold, top ones counted
};

/// The tools of a chat, and whether the answer shall be a call.
struct ToolsForm {
    struct Tool {
        std::string name;
        std::string parameters = {};  // JSON schema of its arguments; empty: it takes none
        bool strict = false;          // also a call that nobody requires keeps to it
    };
    enum class Choice { none, automatic, required, named };
    std::vector<Tool> tools = {};
    Choice choice = Choice::none;
    std::string named = {};      // with Choice::named
    bool parallel = true;        // more calls than one in an answer
    bool is_older_form = false;  // came as `functions`
    bool is_forced() const { return choice == Choice::required || choice == Choice::named; }
};

/// What a client asked for, checked, before any text became tokens.
struct RequestForm {
    Endpoint endpoint = Endpoint::chat;
    std::size_t model = 0;        // of Models
    std::string model_name = {};  // as asked; the first model's own when absent
    bool stream = false;
    bool include_usage = false;
    bool continuous_usage = false;
    std::optional<std::int64_t> ping_interval_s = {};  // -1: none

    std::uint32_t n = 1;
    std::optional<std::uint32_t> new_tokens_max = {};  // absent: what the context leaves (chat), 16 (completions)
    bool fills_context = false;                        // max_tokens -1: what the context leaves, at both
    std::uint32_t new_tokens_min = 0;
    std::optional<std::uint64_t> seed = {};

    std::optional<double> temperature = {};
    std::optional<double> top_p = {};
    std::optional<double> min_p = {};
    std::optional<std::int64_t> top_k = {};  // 0: off
    std::optional<double> repetition_penalty = {};
    double presence_penalty = 0;
    double frequency_penalty = 0;
    std::vector<std::pair<base::TokenId, float>> logit_bias = {};

    bool logprobs = false;
    std::uint32_t top_logprobs = 0;

    std::vector<std::string> stop_strings = {};
    std::vector<base::TokenId> stop_tokens = {};
    bool include_stop_string = false;
    bool ignore_eos = false;
    bool skip_special = true;
    bool return_token_ids = false;
    std::optional<std::uint32_t> prompt_tokens_kept = {};  // truncate_prompt_tokens: the last so many
    std::string cache_scope = {};
    bool has_cache_salt = false;        // the request gave a part of it
    std::string request_id = {};        // from the body; empty: none
    std::string session = {};           // session_id: its conversation, where no header field names it; empty: not said
    std::string prompt_cache_key = {};  // prompts with the same one begin alike; empty: not said
    SloWish slo = {};

    std::shared_ptr<const proto::Grammar> grammar = {};           // that answers keep to; null: none
    std::shared_ptr<const proto::Grammar> grammar_to_check = {};  // the same without tokens of the model; null: itself
    std::string grammar_field = {};                               // that it came in
    bool grammar_is_answers =
        false;  // it came as response_format: calls that are allowed or wanted need not keep to it

    std::shared_ptr<const CacheTexts> cache_texts = {};  // for a cache in front, where there is one
    std::shared_ptr<RoutedAsk> routed = {};              // where two models answer to the name; null: one does

    // chat
    std::optional<std::uint32_t> reasoning_tokens_max = {};  // a budget: after so many its reasoning is closed
    bool reasoning_unbounded = false;                        // it asks for none, whatever the server's default is
    std::string template_context = {};                       // JSON object for the chat template
    std::string own_template = {};                           // in place of the model's; empty: none
    std::size_t user_text_bytes = 0;                         // of the contents of all but assistants
    ToolsForm tools = {};
    std::string tools_field = {};                    // that tools came in: tools, functions; empty: none came
    bool needs_tools = false;                        // the model shall know them: its template must take them
    std::optional<std::string> continued_text = {};  // continue_final_message: text of the last message
    std::optional<bool> add_special = {};            // BOS and the like; absent: chat no, completions yes

    // responses
    std::string shown_fields = {};  // of the request, that the answer repeats, as JSON members

    // completions
    std::vector<std::variant<std::string, std::vector<base::TokenId>>> prompts = {};
    std::string suffix = {};  // what stands behind the text that is asked for; empty: nothing is known of that
    bool echo = false;

    // embeddings, whose texts are `prompts`
    bool base64 = false;
    std::optional<std::uint32_t> dimensions = {};  // of the vectors, cut off; absent: all
};

/// Reads and checks a body of /v1/chat/completions or /v1/completions (of others: embedding_form.h, responses_form.h,
/// anthropic/messages_form.h, of which the last two write theirs as a chat's and have it read here). Unknown fields are
/// accepted. Pure. Errors: 400 with param; 404 model_not_found.
ApiResult<RequestForm> read_form(Endpoint endpoint, std::string_view body, const FormLimits& limits,
                                 const Models& models);
/// The same of a body that is parsed already.
ApiResult<RequestForm> read_form(Endpoint endpoint, const boost::json::object& body, const FormLimits& limits,
                                 const Models& models);

/// Whether an answer in pieces is wanted, for the account of requests that are refused.
bool asks_for_stream(const boost::json::object& body);
/// A guess at the same about a body that nobody has parsed, at a bounded cost.
bool seems_to_ask_for_stream(std::string_view body);

}  // namespace gateway
