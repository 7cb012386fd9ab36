#include "gateway/openai/prepare.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>

#include "base/check.h"
#include "gateway/openai/fields.h"

namespace gateway {
namespace {

namespace json = boost::json;

using Tokens = std::vector<base::TokenId>;

ApiError text_error(const base::Error& error, std::string_view param) {
    ApiError result = bad_request(param, error.message).value();
    if (error.code == base::ErrorCode::internal) { result = api_error(error, 0); }
    return result;
}

std::string utf8_of_three_bytes(std::uint32_t code_point) {
    return {static_cast<char>(0xe0 | (code_point >> 12)), static_cast<char>(0x80 | ((code_point >> 6) & 0x3f)),
            static_cast<char>(0x80 | (code_point & 0x3f))};
}

/// Private-use characters that `text` (UTF-8) does not hold, at most `count` of them.
std::vector<std::string> unused_private_characters(std::string_view text, std::size_t count) {
    constexpr std::uint32_t kFirst = 0xe000;
    constexpr std::uint32_t kEnd = 0xf900;
    std::vector<bool> used(kEnd - kFirst);
    for (std::size_t at = 0; at + 2 < text.size(); ++at) {
        const auto byte = [&](std::size_t ahead) { return static_cast<unsigned char>(text[at + ahead]); };
        if (byte(0) != 0xee && byte(0) != 0xef) { continue; }
        const std::uint32_t code_point = (byte(0) & 0x0fu) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu);
        if (code_point >= kFirst && code_point < kEnd) { used[code_point - kFirst] = true; }
    }
    std::vector<std::string> result;
    for (std::uint32_t index = 0; index < kEnd - kFirst && result.size() < count; ++index) {
        if (!used[index]) { result.push_back(utf8_of_three_bytes(kFirst + index)); }
    }
    return result;
}

/// Marks for the special tokens that people wrote in their messages, so that these stay text: the chat template sees a
/// mark, and each mark is encoded as the text it stands for, without looking for special tokens. A mark is the index of
/// the text between two characters that occur nowhere in the request, so it is short whatever the messages hold, and
/// all work here is linear in their size.
class SpecialTextMarks {
public:
    SpecialTextMarks(const std::vector<std::string>& user_texts, const TextPort& text) : text_(text) {
        for (const std::string& special : text.special_texts()) {
            if (special.empty()) { continue; }
            texts_.push_back(special);
            begins_[static_cast<unsigned char>(special.front())] = true;
        }
        std::sort(texts_.begin(), texts_.end());
        texts_.erase(std::unique(texts_.begin(), texts_.end()), texts_.end());
        encoded_.resize(texts_.size());
        needed_ = std::any_of(user_texts.begin(), user_texts.end(), [&](std::string_view one) {
            for (std::size_t at = 0; at < one.size(); ++at) {
                if (find_at(one, at)) { return true; }
            }
            return false;
        });
    }

    bool needed() const { return needed_; }

    /// The template's context with marks in the contents of all but assistants.
    ApiResult<std::string> mark(const std::string& context) {
        const auto characters = unused_private_characters(context, 2);
        if (characters.size() < 2) {
            return bad_request("messages",
                               "the request holds every private-use character, so that none is left to mark "
                               "texts of special tokens with");
        }
        open_ = characters[0];
        close_ = characters[1];
        json::parse_options options;
        options.max_depth = 256;
        json::value value = json::parse(context, {}, options);  // our own text
        for (json::value& message : value.get_object()["messages"].get_array()) {
            json::object& object = message.get_object();
            if (object["role"].get_string() == "assistant" || !object["content"].is_string()) { continue; }
            const json::string& content = object["content"].get_string();
            object["content"] = marked({content.data(), content.size()});
        }
        return json::serialize(value);
    }

    /// After mark().
    base::Result<Tokens> encode(std::string_view rendered, bool add_special) {
        Tokens tokens;
        const auto append = [&](std::string_view piece) -> base::Result<void> {
            if (piece.empty() && !add_special) { return {}; }
            auto encoded = text_.encode(piece, std::exchange(add_special, false), true);
            if (!encoded) { return base::pass_on(encoded); }
            tokens.insert(tokens.end(), encoded->begin(), encoded->end());
            return {};
        };
        while (true) {
            const auto at = rendered.find(open_);
            if (auto done = append(rendered.substr(0, at)); !done) { return base::pass_on(done); }
            if (at == std::string_view::npos) { return tokens; }
            rendered.remove_prefix(at + open_.size());
            std::size_t index = 0;
            const auto [end, problem] = std::from_chars(rendered.data(), rendered.data() + rendered.size(), index);
            const auto digits = static_cast<std::size_t>(end - rendered.data());
            if (problem != std::errc() || index >= texts_.size() || !rendered.substr(digits).starts_with(close_)) {
                return base::fail(base::ErrorCode::invalid_argument,
                                  "the chat template cuts or changes special token text in a message");
            }
            rendered.remove_prefix(digits + close_.size());
            std::optional<Tokens>& encoded = encoded_[index];
            if (!encoded) {
                auto fresh = text_.encode(texts_[index], false, false);
                if (!fresh) { return base::pass_on(fresh); }
                encoded = std::move(*fresh);
            }
            tokens.insert(tokens.end(), encoded->begin(), encoded->end());
        }
    }

private:
    /// The longest special text that begins at byte `at`: narrows the sorted texts byte by byte.
    std::optional<std::size_t> find_at(std::string_view content, std::size_t at) const {
        if (!begins_[static_cast<unsigned char>(content[at])]) { return std::nullopt; }
        std::optional<std::size_t> longest;
        auto first = texts_.begin();
        auto last = texts_.end();
        for (std::size_t depth = 0; at + depth < content.size() && first != last; ++depth) {
            const auto wanted = static_cast<unsigned char>(content[at + depth]);
            const auto byte = [depth](const std::string& one) -> int {
                return one.size() > depth ? static_cast<unsigned char>(one[depth]) : -1;
            };
            first = std::partition_point(first, last, [&](const std::string& one) { return byte(one) < wanted; });
            last = std::partition_point(first, last, [&](const std::string& one) { return byte(one) <= wanted; });
            // A text that ends here sorts before those that go on.
            if (first != last && first->size() == depth + 1) {
                longest = static_cast<std::size_t>(first - texts_.begin());
            }
        }
        return longest;
    }

    std::string marked(std::string_view content) const {
        std::string result;
        std::size_t copied = 0;
        for (std::size_t at = 0; at < content.size();) {
            const auto index = find_at(content, at);
            if (!index) {
                ++at;
                continue;
            }
            result += content.substr(copied, at - copied);
            result += open_ + std::to_string(*index) + close_;
            at += texts_[*index].size();
            copied = at;
        }
        result += content.substr(copied);
        return result;
    }

    const TextPort& text_;
    std::vector<std::string> texts_;  // sorted
    std::array<bool, 256> begins_{};  // bytes that a special text begins with
    bool needed_ = false;
    std::string open_;
    std::string close_;
    std::vector<std::optional<Tokens>> encoded_;  // of texts_, as they are needed
};

/// Where `part` begins last in `text`. Linear (Knuth, Morris and Pratt, from the end), whatever people write.
std::size_t last_place(std::string_view part, std::string_view text) {
    const auto from_end = [](std::string_view one, std::size_t at) { return one[one.size() - 1 - at]; };
    std::vector<std::size_t> border(part.size(), 0);  // of the last (index + 1) bytes
    for (std::size_t at = 1, length = 0; at < part.size(); ++at) {
        while (length > 0 && from_end(part, at) != from_end(part, length)) {
            length = border[length - 1];
        }
        if (from_end(part, at) == from_end(part, length)) { ++length; }
        border[at] = length;
    }
    for (std::size_t at = 0, length = 0; at < text.size(); ++at) {
        while (length > 0 && from_end(text, at) != from_end(part, length)) {
            length = border[length - 1];
        }
        if (from_end(text, at) == from_end(part, length)) { ++length; }
        if (length == part.size()) { return text.size() - 1 - at; }
    }
    return std::string_view::npos;
}

ApiResult<std::string> cut_after_last_message(const std::optional<std::string>& continued_text, std::string rendered) {
    if (!continued_text) { return rendered; }
    std::string_view last = *continued_text;
    while (!last.empty() && std::string_view(" \t\r\n").find(last.back()) != std::string_view::npos) {
        last.remove_suffix(1);
    }
    while (!last.empty() && std::string_view(" \t\r\n").find(last.front()) != std::string_view::npos) {
        last.remove_prefix(1);
    }
    const auto at = last.empty() ? std::string_view::npos : last_place(last, rendered);
    if (at == std::string::npos) {
        return bad_request("continue_final_message", "the chat template does not show the text of the last message");
    }
    rendered.resize(at + last.size());
    return rendered;
}

/// Takes the texts out of `form`: they may be megabytes, and nobody needs them after this.
ApiResult<Tokens> chat_tokens(RequestForm& form, const TextPort& text, std::int64_t now_unix_s) {
    std::string context = std::move(form.template_context);
    const auto user_texts = std::move(form.user_texts);
    const auto continued_text = std::exchange(form.continued_text, std::nullopt);
    SpecialTextMarks marks(user_texts, text);
    if (marks.needed()) {
        auto marked = marks.mark(context);
        if (!marked) { return pass_on(marked.error()); }
        context = std::move(*marked);
    }
    auto rendered = text.render_chat(context, now_unix_s);
    if (!rendered) { return pass_on(text_error(rendered.error(), "messages")); }
    auto cut = cut_after_last_message(continued_text, std::move(*rendered));
    if (!cut) { return pass_on(cut.error()); }
    const bool add_special = form.add_special.value_or(form_of(form.endpoint).adds_special);
    auto tokens = marks.needed() ? marks.encode(*cut, add_special) : text.encode(*cut, add_special, true);
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

/// For each token the code points of text that those before it made.
std::vector<std::size_t> text_offsets(const Tokens& tokens, bool skip_special, const TextPort& text) {
    const auto detokenizer = text.detokenizer(skip_special);
    std::vector<std::size_t> offsets;
    std::size_t produced = 0;
    for (const base::TokenId token : tokens) {
        offsets.push_back(produced);
        produced += code_points(detokenizer->push(token));
    }
    return offsets;
}

std::size_t text_bytes(const RequestForm& form) {
    std::size_t bytes = 0;
    for (const std::string& one : form.user_texts) {
        bytes += one.size();
    }
    for (const auto& one : form.prompts) {
        if (const auto* written = std::get_if<std::string>(&one)) { bytes += written->size(); }
    }
    return bytes;
}

/// Each record of a token holds its own logprob and the top ones; all of them wait in memory until they are written.
ApiResult<void> check_logprob_records(const PreparedRequest& prepared, const RequestForm& form,
                                      std::uint64_t records_max) {
    if (!form.logprobs) { return {}; }
    std::uint64_t tokens = prepared.prompts.size() * std::uint64_t{prepared.new_tokens_max};
    for (const auto& prompt : prepared.prompts) {
        if (form.echo) { tokens += prompt.tokens->size(); }
    }
    const std::uint64_t records = form.n * tokens * (std::uint64_t{form.top_logprobs} + 1);
    if (records <= records_max) { return {}; }
    return bad_request("logprobs", "this request may need " + std::to_string(records) + " logprobs (" +
                                       std::to_string(form.n) + " choices of " +
                                       std::to_string(prepared.prompts.size()) + " prompts, " + std::to_string(tokens) +
                                       " tokens for one choice of each, " + std::to_string(form.top_logprobs) +
                                       " top logprobs); at most " + std::to_string(records_max) +
                                       " are given. Please reduce max_tokens, n or the top logprobs.");
}

}  // namespace

ApiResult<PreparedRequest> prepare(RequestForm form, const PrepareContext& context) {
    const FormLimits& limits = context.limits;
    const TextPort& text = context.text;
    const std::uint32_t context_tokens = context.cluster.context_tokens;
    const EndpointForm& endpoint = form_of(form.endpoint);
    const std::string_view param = endpoint.prompt_field;
    if (const std::size_t bytes = text_bytes(form); bytes > limits.text_bytes_max) {
        return bad_request(param, "the request has " + std::to_string(bytes) + " bytes of text; at most " +
                                      std::to_string(limits.text_bytes_max) + " are read");
    }
    std::vector<std::pair<Tokens, std::string>> prompts;
    if (form.endpoint == Endpoint::chat) {
        auto tokens = chat_tokens(form, text, context.now_unix_s);
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
            auto tokens = text.encode(written, form.add_special.value_or(endpoint.adds_special), true);
            if (!tokens) { return pass_on(text_error(tokens.error(), param)); }
            prompts.emplace_back(std::move(*tokens), form.echo ? std::move(written) : std::string());
        }
        form.prompts.clear();
    }

    PreparedRequest prepared;
    const bool wants_none = form.new_tokens_max == 0u;
    std::uint32_t most = form.new_tokens_max.value_or(endpoint.new_tokens_default.value_or(context_tokens));
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
        std::vector<std::size_t> offsets;
        if (form.echo && form.logprobs) { offsets = text_offsets(tokens, form.skip_special, text); }
        std::shared_ptr<const PromptHashes> hashes;
        if (!(form.echo && form.logprobs) && context.cluster.block_tokens > 0) {
            hashes = std::make_shared<const PromptHashes>(context.hash_key,
                                                          base::HashScope{.cache_scope = form.cache_scope,
                                                                          .numerics_id = context.cluster.numerics_id,
                                                                          .adapter = "",
                                                                          .block_tokens = context.cluster.block_tokens},
                                                          tokens);
        }
        prepared.prompts.push_back({std::make_shared<const Tokens>(std::move(tokens)), std::move(hashes),
                                    std::move(shown), std::move(offsets)});
    }
    if (form.new_tokens_min > most) {
        return pass_on(bad_request("min_tokens", "'min_tokens' must not be greater than the " + std::to_string(most) +
                                                     " tokens that may be generated")
                           .value());
    }
    prepared.hides_generated = wants_none;
    prepared.new_tokens_max = wants_none ? 1 : most;
    if (auto checked = check_logprob_records(prepared, form, limits.logprob_records_max); !checked) {
        return pass_on(checked.error());
    }
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
    request.model = form.model;
    request.prompt = prepared.prompts[prompt].tokens;
    request.hashes = prepared.prompts[prompt].hashes;
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
