#include "gateway/openai/request_form.h"

#include <algorithm>
#include <bit>
#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <limits>

#include "gateway/openai/chat_form.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/grammar_form.h"
#include "gateway/request/session_hints.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::int64_t kTokensMax = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t kStopTokensMax = 64;
constexpr std::size_t kCacheKeyBytesMax = 1024;
constexpr std::size_t kStreamFieldWithin = 32 * 1024;  // bytes looked at from either end
constexpr std::int64_t kNoLimit = -1;                  // of max_tokens, as llama.cpp's clients send it
constexpr std::int64_t kTargetMsMax = 3'600'000;       // an hour

std::string text_of(const json::string& text) {
    return {text.data(), text.size()};
}

/// An empty list, object or string asks for nothing.
bool asks_for_something(const json::value* value) {
    if (value == nullptr) { return false; }
    if (value->is_array()) { return !value->get_array().empty(); }
    if (value->is_object()) { return !value->get_object().empty(); }
    if (value->is_string()) { return !value->get_string().empty(); }
    return !value->is_bool() || value->get_bool();
}

/// What Sluice cannot do yet and must not silently leave out.
void refuse_unbuilt(Fields& fields, Endpoint endpoint) {
    if (form_of(endpoint).is_chat && asks_for_something(fields.find("suffix"))) {
        fields.problem("suffix", "is for /v1/completions");
    }
    if (!form_of(endpoint).is_chat) {
        for (const char* name : {"tools", "functions"}) {
            if (asks_for_something(fields.find(name))) { fields.problem(name, "is for /v1/chat/completions"); }
        }
    }
    for (const char* name : {"grammar", "ebnf"}) {
        if (asks_for_something(fields.find(name))) {
            fields.problem(name, "is not supported: give a Lark grammar in 'structured_outputs.grammar'");
        }
    }
    for (const char* name : {"bad_words", "allowed_token_ids", "prompt_logprobs", "use_beam_search"}) {
        if (asks_for_something(fields.find(name))) { fields.problem(name, "is not supported by this server yet"); }
    }
    // `audio` says how an answer in audio would be; it is `modalities` that asks for one.
    if (const auto* modalities = fields.array("modalities")) {
        for (const json::value& one : *modalities) {
            if (!one.is_string() || one.get_string() != "text") {
                fields.problem("modalities", "can only be [\"text\"]");
            }
        }
    }
}

/// A chat template of the request's own, which is a program: only where whoever runs the server wants to have it.
void read_template(Fields& fields, const FormLimits& limits, RequestForm& form) {
    if (!asks_for_something(fields.find("chat_template"))) { return; }
    if (limits.template_bytes_max == 0) {
        fields.problem("chat_template",
                       "is not taken by this server (gateway.request_template_bytes_max of its settings allows it)");
    } else if (!form_of(form.endpoint).is_chat) {
        fields.problem("chat_template", "is for chats");
    } else {
        form.own_template = fields.string("chat_template", limits.template_bytes_max).value_or("");
    }
}

void read_model(Fields& fields, const Models& models, RequestForm& form, std::optional<ApiError>& unknown) {
    form.model = models.first_of(ModelKind::text).value_or(0);
    form.model_name = models[form.model].name;
    const auto asked = fields.string("model", 1024);
    if (!asked || asked->empty() || *asked == "default") { return; }
    form.model_name = *asked;
    if (const auto model = models.find(*asked)) {
        form.model = *model;
        return;
    }
    unknown = no_such_model(*asked);
}

void read_stream(Fields& fields, RequestForm& form) {
    form.stream = fields.boolean("stream").value_or(false);
    if (const auto* options = fields.object("stream_options")) {
        if (!form.stream) { fields.problem("stream_options", "is only allowed when 'stream' is true"); }
        Fields inside(*options, "stream_options.");
        form.include_usage = inside.boolean("include_usage").value_or(false);
        form.continuous_usage = inside.boolean("continuous_usage_stats").value_or(false) && form.include_usage;
        if (inside.error()) { fields.problem("stream_options", "holds a value of a wrong type"); }
    }
    form.ping_interval_s = fields.integer("sse_ping_interval", -1, 3600);
}

/// A whole number of any size.
bool is_whole(const json::value& value) {
    return value.is_int64() || value.is_uint64() ||
           (value.is_double() && std::isfinite(value.get_double()) &&
            std::floor(value.get_double()) == value.get_double());
}

/// Any whole number is a seed, however long: languages without bounds for integers send them. -1 asks for none, as it
/// does at other servers.
void read_seed(Fields& fields, const json::value& seed, RequestForm& form) {
    if (seed.is_uint64()) {
        form.seed = seed.get_uint64();
    } else if (const auto whole = whole_number(seed)) {
        if (*whole != -1) { form.seed = static_cast<std::uint64_t>(*whole); }
    } else if (is_whole(seed)) {
        form.seed = std::bit_cast<std::uint64_t>(seed.get_double());  // beyond 64 bits: what the parser kept of it
    } else {
        fields.problem("seed", "must be an integer");
    }
}

void read_sampling(Fields& fields, const FormLimits& limits, std::uint32_t vocabulary, RequestForm& form) {
    form.temperature = fields.number("temperature", base::kTemperatureRange);
    form.top_p = fields.number("top_p", base::kTopPRange);
    form.min_p = fields.number("min_p", base::kMinPRange);
    if (const auto top_k = fields.integer("top_k", base::kTopKLow, base::kTopKHigh)) {
        form.top_k = std::max<std::int64_t>(*top_k, 0);
    }
    form.repetition_penalty = fields.number("repetition_penalty", base::kRepetitionPenaltyRange);
    form.presence_penalty = fields.number("presence_penalty", base::kPresencePenaltyRange).value_or(0);
    form.frequency_penalty = fields.number("frequency_penalty", base::kFrequencyPenaltyRange).value_or(0);
    if (const auto* seed = fields.find("seed")) { read_seed(fields, *seed, form); }
    if (const auto* bias = fields.object("logit_bias")) {
        if (bias->size() > limits.logit_bias_max) {
            fields.problem("logit_bias", "may hold at most " + std::to_string(limits.logit_bias_max) + " tokens");
            return;
        }
        for (const auto& [key, value] : *bias) {
            std::int64_t token = -1;
            const auto end = key.data() + key.size();
            const auto [parsed, error] = std::from_chars(key.data(), end, token);
            if (error != std::errc() || parsed != end || token < 0 || token >= static_cast<std::int64_t>(vocabulary)) {
                fields.problem("logit_bias", "has a key that is no token id below " + std::to_string(vocabulary));
                return;
            }
            double number = value.is_double() ? value.get_double() : 1000;
            if (value.is_int64()) { number = static_cast<double>(value.get_int64()); }
            if (!base::kLogitBiasRange.holds(number)) {
                fields.problem("logit_bias", "must have values from -100 to 100");
                return;
            }
            form.logit_bias.emplace_back(static_cast<base::TokenId>(token), static_cast<float>(number));
        }
    }
}

void read_stop(Fields& fields, const FormLimits& limits, std::uint32_t vocabulary, RequestForm& form) {
    const auto add = [&](const json::value& one) {
        // Nothing to stop at: evaluation harnesses send [null], forms of web pages "".
        if (one.is_null() || (one.is_string() && one.get_string().empty())) { return; }
        if (!one.is_string()) {
            fields.problem("stop", "must be a string or a list of them");
        } else if (one.get_string().size() > limits.stop_string_bytes_max) {
            fields.problem("stop", "must be at most " + std::to_string(limits.stop_string_bytes_max) + " bytes long");
        } else {
            form.stop_strings.push_back(text_of(one.get_string()));
        }
    };
    if (const auto* stop = fields.find("stop")) {
        if (stop->is_array()) {
            for (const json::value& one : stop->get_array()) {
                add(one);
            }
        } else {
            add(*stop);
        }
        if (form.stop_strings.size() > limits.stop_strings_max) {
            fields.problem("stop", "may hold at most " + std::to_string(limits.stop_strings_max) + " strings");
        }
    }
    if (const auto* tokens = fields.array("stop_token_ids")) {
        for (const json::value& one : *tokens) {
            const auto token = whole_number(one);
            if (!token || *token < 0 || *token >= static_cast<std::int64_t>(vocabulary)) {
                fields.problem("stop_token_ids", "must hold token ids below " + std::to_string(vocabulary));
                break;
            }
            form.stop_tokens.push_back(static_cast<base::TokenId>(*token));
        }
        if (tokens->size() > kStopTokensMax) {
            fields.problem("stop_token_ids", "may hold at most " + std::to_string(kStopTokensMax) + " ids");
        }
    }
    form.include_stop_string = fields.boolean("include_stop_str_in_output").value_or(false);
    form.ignore_eos = fields.boolean("ignore_eos").value_or(false);
    form.skip_special = fields.boolean("skip_special_tokens").value_or(true);
}

void read_lengths(Fields& fields, const FormLimits& limits, RequestForm& form) {
    const std::int64_t low = form_of(form.endpoint).new_tokens_low;
    std::optional<std::int64_t> most;
    for (const char* name : {"max_tokens", "max_completion_tokens"}) {
        const auto* value = fields.find(name);
        if (value != nullptr && whole_number(*value) == kNoLimit) {
            most = kNoLimit;
        } else if (const auto given = fields.integer(name, low, kTokensMax)) {
            most = given;  // the newer name wins
        }
    }
    form.fills_context = most == kNoLimit;
    if (most && *most != kNoLimit) { form.new_tokens_max = static_cast<std::uint32_t>(*most); }
    form.new_tokens_min = static_cast<std::uint32_t>(fields.integer("min_tokens", 0, kTokensMax).value_or(0));
    if (form.new_tokens_max && form.new_tokens_min > *form.new_tokens_max) {
        fields.problem("min_tokens", "must not be greater than the maximum of tokens");
    }
    form.n = static_cast<std::uint32_t>(fields.integer("n", 1, limits.n_max).value_or(1));
    if (const auto best_of = fields.integer("best_of", 0, kTokensMax).value_or(0); best_of != 0 && best_of != form.n) {
        fields.problem("best_of", "must equal 'n'");
    }
    if (const auto kept = fields.integer("truncate_prompt_tokens", -1, kTokensMax); kept && *kept != -1) {
        if (*kept == 0) { fields.problem("truncate_prompt_tokens", "must be at least 1"); }
        form.prompt_tokens_kept = static_cast<std::uint32_t>(*kept);
    }
}

void read_logprobs(Fields& fields, std::uint32_t vocabulary, RequestForm& form) {
    const std::int64_t top_max = std::min(base::kTopLogprobsMax, vocabulary);
    // Each endpoint has a type of its own for it, and clients of both send the other's.
    const auto* given = fields.find("logprobs");
    if (form.endpoint == Endpoint::completions) {
        if (given != nullptr && given->is_bool()) {
            form.logprobs = given->get_bool();
            form.top_logprobs = form.logprobs ? 1 : 0;
        } else if (const auto count = fields.integer("logprobs", 0, top_max)) {
            form.logprobs = true;
            form.top_logprobs = static_cast<std::uint32_t>(*count);
        }
        return;
    }
    if (given != nullptr && whole_number(*given) == 0) {
        form.logprobs = false;
    } else {
        form.logprobs = fields.boolean("logprobs").value_or(false);
    }
    if (const auto top = fields.integer("top_logprobs", 0, top_max)) {
        if (!form.logprobs && *top > 0) { fields.problem("top_logprobs", "needs 'logprobs' to be true"); }
        form.top_logprobs = static_cast<std::uint32_t>(*top);
    }
}

/// One prompt as token ids; empty when the array is none.
std::optional<std::vector<base::TokenId>> token_prompt(const json::array& array, std::uint32_t vocabulary) {
    std::vector<base::TokenId> tokens;
    tokens.reserve(array.size());
    for (const json::value& one : array) {
        const auto token = whole_number(one);
        if (!token || *token < 0 || *token >= static_cast<std::int64_t>(vocabulary)) { return std::nullopt; }
        tokens.push_back(static_cast<base::TokenId>(*token));
    }
    return tokens;
}

void read_prompts(Fields& fields, const FormLimits& limits, std::uint32_t vocabulary, RequestForm& form) {
    const std::string range = "token ids must be integers from 0 to " + std::to_string(vocabulary - 1);
    const auto* prompt = fields.find("prompt");
    if (prompt == nullptr) {
        fields.problem("prompt", "is missing");
    } else if (prompt->is_string()) {
        form.prompts.emplace_back(text_of(prompt->get_string()));
    } else if (!prompt->is_array() || prompt->get_array().empty()) {
        fields.problem("prompt", "must be a string, a list of strings, a list of token ids, or a list of such lists");
    } else if (prompt->get_array().front().is_number()) {
        auto tokens = token_prompt(prompt->get_array(), vocabulary);
        if (!tokens) { fields.problem("prompt", "is malformed: " + range); }
        form.prompts.emplace_back(std::move(tokens).value_or(std::vector<base::TokenId>()));
    } else {
        if (prompt->get_array().size() > limits.prompts_max) {
            fields.problem("prompt", "may hold at most " + std::to_string(limits.prompts_max) + " prompts");
            return;
        }
        for (const json::value& one : prompt->get_array()) {
            if (one.is_string()) {
                form.prompts.emplace_back(text_of(one.get_string()));
            } else if (auto tokens = one.is_array() ? token_prompt(one.get_array(), vocabulary) : std::nullopt) {
                form.prompts.emplace_back(std::move(*tokens));
            } else {
                fields.problem("prompt", "must hold strings or lists of token ids; " + range);
                return;
            }
        }
    }
    for (const auto& one : form.prompts) {
        const auto* tokens = std::get_if<std::vector<base::TokenId>>(&one);
        if (tokens != nullptr && tokens->empty()) { fields.problem("prompt", "must not be empty"); }
    }
    form.echo = fields.boolean("echo").value_or(false);
    form.suffix = fields.string("suffix", limits.text_bytes_max).value_or("");
    if (!form.suffix.empty() && form.echo) { fields.problem("suffix", "and 'echo' exclude each other"); }
    if (!form.suffix.empty() && form.prompt_tokens_kept) {
        fields.problem("suffix", "and 'truncate_prompt_tokens' exclude each other");
    }
}

void read_slo(Fields& fields, RequestForm& form) {
    const auto* slo = fields.object("slo");
    if (slo == nullptr) { return; }
    Fields inside(*slo, "slo.");
    form.slo.class_name = inside.string("class", 64);
    if (const auto ttft = inside.integer("ttft_ms", 0, kTargetMsMax)) {
        form.slo.ttft = std::chrono::milliseconds(*ttft);
    }
    if (const auto tpot = inside.integer("tpot_ms", 0, kTargetMsMax)) {
        form.slo.tpot = std::chrono::milliseconds(*tpot);
    }
    if (const auto e2e = inside.integer("e2e_ms", 0, kTargetMsMax)) { form.slo.e2e = std::chrono::milliseconds(*e2e); }
    form.slo.lossy_kv = inside.boolean("lossy_kv");
    if (inside.error()) { fields.pass_on(*inside.error()); }
}

bool is_request_id(const std::string& text) {
    return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._:-").find(c) != std::string_view::npos;
    });
}

}  // namespace

bool asks_for_stream(const json::object& body) {
    const auto* stream = body.if_contains("stream");
    return stream != nullptr && stream->is_bool() && stream->get_bool();
}

bool seems_to_ask_for_stream(std::string_view body) {
    const auto is_in = [](std::string_view part) {
        constexpr std::string_view kName = "\"stream\"";
        const auto skip_spaces = [](std::string_view text) {
            return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
        };
        for (auto at = part.find(kName); at != std::string_view::npos; at = part.find(kName, at + 1)) {
            if (at > 0 && part[at - 1] == '\\') { continue; }  // inside of a string
            const std::string_view rest = skip_spaces(part.substr(at + kName.size()));
            if (rest.starts_with(':') && skip_spaces(rest.substr(1)).starts_with("true")) { return true; }
        }
        return false;
    };
    if (body.size() <= 2 * kStreamFieldWithin) { return is_in(body); }
    return is_in(body.substr(0, kStreamFieldWithin)) || is_in(body.substr(body.size() - kStreamFieldWithin));
}

ApiResult<RequestForm> read_form(Endpoint endpoint, std::string_view body, const FormLimits& limits,
                                 const Models& models) {
    const auto object = parse_body(body);
    if (!object) { return pass_on(object.error()); }
    return read_form(endpoint, *object, limits, models);
}

ApiResult<RequestForm> read_form(Endpoint endpoint, const json::object& body, const FormLimits& limits,
                                 const Models& models) {
    RequestForm form{.endpoint = endpoint};
    Fields fields(body);
    std::optional<ApiError> unknown_model;
    read_model(fields, models, form, unknown_model);
    const std::uint32_t vocabulary = models[form.model].text->vocabulary();
    read_stream(fields, form);
    refuse_unbuilt(fields, endpoint);
    read_lengths(fields, limits, form);
    read_sampling(fields, limits, vocabulary, form);
    read_stop(fields, limits, vocabulary, form);
    read_logprobs(fields, vocabulary, form);
    read_grammar(fields, limits, form);
    read_template(fields, limits, form);
    if (form_of(endpoint).is_chat) {
        read_chat(fields, form);
    } else {
        read_prompts(fields, limits, vocabulary, form);
    }
    form.return_token_ids = fields.boolean("return_token_ids").value_or(false);
    if (endpoint == Endpoint::completions || fields.find("add_special_tokens") != nullptr) {
        form.add_special = fields.boolean("add_special_tokens");
    }
    if (const auto salt = fields.string("cache_salt", 256)) {
        if (salt->empty()) { fields.problem("cache_salt", "must not be empty"); }
        form.cache_scope = "salt:" + *salt;
        form.has_cache_salt = true;
    }
    form.prompt_cache_key = fields.string("prompt_cache_key", kCacheKeyBytesMax).value_or("");
    if (const auto* priority = fields.find("priority"); priority != nullptr && !is_whole(*priority)) {
        fields.problem("priority", "must be an integer");  // without effect: classes (slo) say what goes first
    }
    if (const auto* id = fields.find("request_id"); id != nullptr && id->is_string()) {
        if (std::string text = text_of(id->get_string()); is_request_id(text)) { form.request_id = std::move(text); }
    }
    if (const auto* session = fields.find("session_id"); session != nullptr && session->is_string()) {
        form.session = text_of(session->get_string()).substr(0, SessionHints::kNameBytesMax);
    }
    read_slo(fields, form);
    if (fields.error()) { return pass_on(*fields.error()); }
    if (unknown_model) { return pass_on(*unknown_model); }
    return form;
}

}  // namespace gateway
