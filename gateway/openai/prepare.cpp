#include "gateway/openai/prepare.h"

#include <algorithm>
#include <boost/json.hpp>
#include <set>

#include "base/check.h"
#include "gateway/openai/fields.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::uint32_t kCompletionsDefault = 16;  // OpenAI's default of max_tokens for /v1/completions

using Tokens = std::vector<base::TokenId>;

ApiError text_error(const base::Error& error, std::string_view param) {
    ApiError result = bad_request(param, error.message).value();
    if (error.code == base::ErrorCode::internal) { result = api_error(error, 0); }
    return result;
}

/// Marks for the special tokens that people wrote in their messages, so that these stay text: the chat template sees a
/// mark, and each mark is encoded as the text it stands for, without looking for special tokens.
class SpecialTextMarks {
public:
    SpecialTextMarks(const RequestForm& form, const TextPort& text) {
        std::set<std::string> found;
        for (const std::string& special : text.special_texts()) {
            for (const std::string& one : form.user_texts) {
                if (!special.empty() && one.find(special) != std::string::npos) { found.insert(special); }
            }
        }
        texts_.assign(found.begin(), found.end());
        // Longer ones first: one may be part of another.
        std::sort(texts_.begin(), texts_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
        while (std::any_of(form.user_texts.begin(), form.user_texts.end(),
                           [&](const std::string& one) { return one.find(open_) != std::string::npos; })) {
            open_ += "\xee\x82\xa0";
        }
    }

    bool needed() const { return !texts_.empty(); }

    /// The template's context with marks in the contents of all but assistants.
    std::string mark(const std::string& context) const {
        json::parse_options options;
        options.max_depth = 256;
        json::value value = json::parse(context, {}, options);  // our own text
        for (json::value& message : value.get_object()["messages"].get_array()) {
            json::object& object = message.get_object();
            if (object["role"].get_string() == "assistant" || !object["content"].is_string()) { continue; }
            std::string content(object["content"].get_string().data(), object["content"].get_string().size());
            for (std::size_t index = 0; index < texts_.size(); ++index) {
                const std::string mark = open_ + std::to_string(index) + kClose;
                for (auto at = content.find(texts_[index]); at != std::string::npos;
                     at = content.find(texts_[index], at)) {
                    content.replace(at, texts_[index].size(), mark);
                    at += mark.size();
                }
            }
            object["content"] = content;
        }
        return json::serialize(value);
    }

    base::Result<Tokens> encode(std::string_view rendered, bool add_special, const TextPort& text) const {
        Tokens tokens;
        const auto append = [&](std::string_view piece, bool parse_special) -> base::Result<void> {
            if (piece.empty() && !add_special) { return {}; }
            auto encoded = text.encode(piece, std::exchange(add_special, false), parse_special);
            if (!encoded) { return base::pass_on(encoded); }
            tokens.insert(tokens.end(), encoded->begin(), encoded->end());
            return {};
        };
        while (true) {
            const auto at = rendered.find(open_);
            if (auto done = append(rendered.substr(0, at), true); !done) { return base::pass_on(done); }
            if (at == std::string_view::npos) { return tokens; }
            rendered.remove_prefix(at + open_.size());
            const auto close = rendered.find(kClose);
            if (close == std::string_view::npos) {
                return base::fail(base::ErrorCode::invalid_argument,
                                  "the chat template cuts special token text in a message");
            }
            std::size_t index = 0;
            for (const char digit : rendered.substr(0, close)) {
                index = index * 10 + static_cast<std::size_t>(digit - '0');
            }
            if (index >= texts_.size()) {
                return base::fail(base::ErrorCode::invalid_argument,
                                  "the chat template changes special token text in a message");
            }
            if (auto done = append(texts_[index], false); !done) { return base::pass_on(done); }
            rendered.remove_prefix(close + std::string_view(kClose).size());
        }
    }

private:
    static constexpr const char* kClose = "\xee\x82\xa1";  // U+E0A1, private use
    std::string open_ = "\xee\x82\xa0";                    // U+E0A0
    std::vector<std::string> texts_;
};

ApiResult<std::string> cut_after_last_message(const RequestForm& form, std::string rendered) {
    if (!form.continued_text) { return rendered; }
    std::string_view last = *form.continued_text;
    while (!last.empty() && std::string_view(" \t\r\n").find(last.back()) != std::string_view::npos) {
        last.remove_suffix(1);
    }
    while (!last.empty() && std::string_view(" \t\r\n").find(last.front()) != std::string_view::npos) {
        last.remove_prefix(1);
    }
    const auto at = rendered.rfind(last);
    if (last.empty() || at == std::string::npos) {
        return bad_request("continue_final_message", "the chat template does not show the text of the last message");
    }
    rendered.resize(at + last.size());
    return rendered;
}

ApiResult<Tokens> chat_tokens(const RequestForm& form, const TextPort& text, std::int64_t now_unix_s) {
    const SpecialTextMarks marks(form, text);
    auto rendered =
        text.render_chat(marks.needed() ? marks.mark(form.template_context) : form.template_context, now_unix_s);
    if (!rendered) { return pass_on(text_error(rendered.error(), "messages")); }
    auto cut = cut_after_last_message(form, std::move(*rendered));
    if (!cut) { return pass_on(cut.error()); }
    const bool add_special = form.add_special.value_or(false);
    auto tokens = marks.needed() ? marks.encode(*cut, add_special, text) : text.encode(*cut, add_special, true);
    if (!tokens) { return pass_on(text_error(tokens.error(), "messages")); }
    return std::move(*tokens);
}

ApiError too_long(std::uint32_t context, std::size_t prompt, std::uint32_t completion, std::string_view param) {
    ApiError error =
        bad_request(param, "This model's maximum context length is " + std::to_string(context) +
                               " tokens. However, you requested " + std::to_string(prompt + completion) + " tokens (" +
                               std::to_string(prompt) + " in the prompt, " + std::to_string(completion) +
                               " for the completion). Please reduce the length of " + "the prompt or the completion.")
            .value();
    error.code = "context_length_exceeded";
    error.prompt_tokens = static_cast<std::uint32_t>(prompt);
    error.context_tokens = context;
    return error;
}

std::string decode(const Tokens& tokens, bool skip_special, const TextPort& text) {
    const auto detokenizer = text.detokenizer(skip_special);
    std::string result;
    for (const base::TokenId token : tokens) {
        result += detokenizer->push(token);
    }
    return result + detokenizer->flush();
}

}  // namespace

ApiResult<PreparedRequest> prepare(RequestForm form, const TextPort& text, std::uint32_t context_tokens,
                                   std::int64_t now_unix_s) {
    const bool is_chat = form.endpoint == Endpoint::chat;
    const std::string_view param = is_chat ? "messages" : "prompt";
    std::vector<std::pair<Tokens, std::string>> prompts;
    if (is_chat) {
        auto tokens = chat_tokens(form, text, now_unix_s);
        if (!tokens) { return pass_on(tokens.error()); }
        prompts.emplace_back(std::move(*tokens), "");
    } else {
        for (auto& one : form.prompts) {
            if (auto* tokens = std::get_if<Tokens>(&one)) {
                std::string shown = form.echo ? decode(*tokens, form.skip_special, text) : std::string();
                prompts.emplace_back(std::move(*tokens), std::move(shown));
                continue;
            }
            std::string& written = std::get<std::string>(one);
            auto tokens = text.encode(written, form.add_special.value_or(true), true);
            if (!tokens) { return pass_on(text_error(tokens.error(), param)); }
            prompts.emplace_back(std::move(*tokens), std::move(written));
        }
        form.prompts.clear();
    }

    PreparedRequest prepared;
    const bool wants_none = form.new_tokens_max == 0u;
    std::uint32_t most = form.new_tokens_max.value_or(is_chat ? context_tokens : kCompletionsDefault);
    for (auto& [tokens, shown] : prompts) {
        if (form.prompt_tokens_kept && tokens.size() > *form.prompt_tokens_kept) {
            tokens.erase(tokens.begin(), tokens.end() - *form.prompt_tokens_kept);
            if (form.echo) { shown = decode(tokens, form.skip_special, text); }
        }
        if (tokens.empty()) { return pass_on(bad_request(param, "the prompt has no tokens").value()); }
        if (tokens.size() >= context_tokens) {
            return pass_on(too_long(context_tokens, tokens.size(), form.new_tokens_max.value_or(1), param));
        }
        const auto left = context_tokens - static_cast<std::uint32_t>(tokens.size());
        if (!form.new_tokens_max) {
            most = std::min(most, left);
        } else if (*form.new_tokens_max > left) {
            return pass_on(too_long(context_tokens, tokens.size(), *form.new_tokens_max, param));
        }
        prepared.prompts.push_back({std::make_shared<const Tokens>(std::move(tokens)), std::move(shown)});
    }
    if (form.new_tokens_min > most) {
        return pass_on(bad_request("min_tokens", "'min_tokens' must not be greater than the " + std::to_string(most) +
                                                     " tokens that may be generated")
                           .value());
    }
    prepared.hides_generated = wants_none;
    prepared.new_tokens_max = wants_none ? 1 : most;
    prepared.form = std::move(form);
    return prepared;
}

GenerationRequest generation_request(const PreparedRequest& prepared, std::size_t prompt, std::uint32_t choice,
                                     std::uint64_t seed, const TextPort& text) {
    const RequestForm& form = prepared.form;
    const SamplingDefaults& defaults = text.sampling_defaults();
    const auto pick = [](const auto& asked, const auto& by_model, auto otherwise) {
        return asked ? *asked : by_model.value_or(otherwise);
    };
    GenerationRequest request;
    request.prompt = prepared.prompts[prompt].tokens;
    proto::Sampling& sampling = request.sampling;
    sampling.set_temperature(static_cast<float>(pick(form.temperature, defaults.temperature, 1.0)));
    sampling.set_top_p(static_cast<float>(pick(form.top_p, defaults.top_p, 1.0)));
    sampling.set_min_p(static_cast<float>(pick(form.min_p, defaults.min_p, 0.0)));
    sampling.set_top_k(
        static_cast<std::uint32_t>(std::max<std::int64_t>(pick(form.top_k, defaults.top_k, std::int64_t{0}), 0)));
    sampling.set_repetition_penalty(
        static_cast<float>(pick(form.repetition_penalty, defaults.repetition_penalty, 1.0)));
    sampling.set_presence_penalty(static_cast<float>(form.presence_penalty));
    sampling.set_frequency_penalty(static_cast<float>(form.frequency_penalty));
    sampling.set_seed(seed);
    sampling.set_choice(choice);
    for (const auto& [token, bias] : form.logit_bias) {
        (*sampling.mutable_logit_bias())[token] = bias;
    }
    sampling.set_logprobs(form.logprobs);
    sampling.set_top_logprobs(form.top_logprobs);
    sampling.set_prompt_logprobs(form.logprobs && form.echo);
    request.stop_tokens = form.stop_tokens;
    if (!form.ignore_eos) {
        for (const base::TokenId eos : text.eos_ids()) {
            if (std::find(form.stop_tokens.begin(), form.stop_tokens.end(), eos) == form.stop_tokens.end()) {
                request.stop_tokens.push_back(eos);
            }
        }
    }
    request.new_tokens_max = prepared.new_tokens_max;
    request.new_tokens_min = form.new_tokens_min;
    request.text.stop_strings = form.stop_strings;
    request.text.include_stop_string = form.include_stop_string;
    request.text.tokens_min = form.new_tokens_min;
    request.skip_special = form.skip_special;
    request.cache_scope = form.cache_scope;
    return request;
}

}  // namespace gateway
