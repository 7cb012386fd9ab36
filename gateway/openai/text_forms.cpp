#include "gateway/openai/text_forms.h"

#include <boost/json.hpp>
#include <utility>

#include "gateway/anthropic/messages_form.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/json_writer.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/responses_form.h"

namespace gateway {
namespace {

namespace json = boost::json;

using Tokens = std::vector<base::TokenId>;

constexpr std::size_t kModelNameBytesMax = 1024;

class TextRequest {
public:
    TextRequest(const json::object& body, const TextContext& context) : body_(body), fields_(body), context_(context) {}

    TextAnswer answer(TextRoute route) {
        const auto index = find_model();
        if (!index) { return {std::nullopt, pass_on(index.error())}; }
        switch (route) {
            case TextRoute::tokenize:
                return {*index, tokenize()};
            case TextRoute::detokenize:
                return {*index, detokenize()};
            case TextRoute::apply_template:
                return {*index, apply_template()};
            case TextRoute::input_tokens:
            case TextRoute::count_tokens:
                return {*index, count(route)};
        }
        return {*index, bad_request("", "no such route")};
    }

private:
    ApiResult<std::size_t> find_model() {
        const auto asked = fields_.string("model", kModelNameBytesMax);
        if (fields_.error()) { return pass_on(*fields_.error()); }
        std::size_t index = 0;
        if (asked && !asked->empty() && *asked != "default") {
            const auto found = context_.models.find(*asked);
            if (!found) { return pass_on(no_such_model(*asked)); }
            index = *found;
        }
        model_ = &context_.models[index];
        context_tokens_ = context_.clusters[index].context_tokens;
        return index;
    }

    const TextPort& text() const { return *model_->text; }

    ApiResult<void> check_length(std::string_view param, std::size_t bytes) const {
        if (bytes <= context_.limits.text_bytes_max) { return {}; }
        return bad_request(param, "'" + std::string(param) + "' has " + std::to_string(bytes) +
                                      " bytes of text; at most " + std::to_string(context_.limits.text_bytes_max) +
                                      " are read");
    }

    ApiResult<void> encode(std::string_view param, std::string_view words, bool add_special, bool parse_special,
                           Tokens& tokens) const {
        if (auto fits = check_length(param, words.size()); !fits) { return fits; }
        auto encoded = text().encode(words, add_special, parse_special, {});
        if (!encoded) { return pass_on(text_error(encoded.error(), param)); }
        tokens.insert(tokens.end(), encoded->begin(), encoded->end());
        return {};
    }

    std::optional<base::TokenId> token_of(const json::value& value) const {
        const auto token = whole_number(value);
        if (!token || *token < 0 || *token >= static_cast<std::int64_t>(text().vocabulary())) { return std::nullopt; }
        return static_cast<base::TokenId>(*token);
    }

    /// A text, or a list of texts and ids that follow each other (llama.cpp's).
    ApiResult<Tokens> words_of(std::string_view param, const json::value& value, bool add_special,
                               bool parse_special) const {
        Tokens tokens;
        const auto malformed = [&] {
            return bad_request(param,
                               "'" + std::string(param) + "' must be a string, or a list of strings and token ids");
        };
        if (const json::string* words = value.if_string()) {
            if (auto done = encode(param, *words, add_special, parse_special, tokens); !done) {
                return pass_on(done.error());
            }
            return tokens;
        }
        if (!value.is_array()) { return malformed(); }
        bool is_first = true;
        for (const json::value& one : value.get_array()) {
            if (const json::string* words = one.if_string()) {
                auto done = encode(param, *words, add_special && is_first, parse_special, tokens);
                if (!done) { return pass_on(done.error()); }
            } else if (const auto token = token_of(one)) {
                tokens.push_back(*token);
            } else {
                return malformed();
            }
            is_first = false;
        }
        return tokens;
    }

    /// The prompt of a chat, as /v1/chat/completions would send it to the model.
    ApiResult<ChatPrompt> render() const {
        auto form = read_form(Endpoint::chat, body_, context_.limits, context_.models);
        if (!form) { return pass_on(form.error()); }
        return chat_prompt(*form, context_.limits, text(), context_.now_unix_s);
    }

    ApiResult<std::string> tokenize() {
        const json::value* content = fields_.find("content");
        const json::value* prompt = fields_.find("prompt");
        const bool has_messages = fields_.find("messages") != nullptr;
        if ((content != nullptr ? 1 : 0) + (prompt != nullptr ? 1 : 0) + (has_messages ? 1 : 0) != 1) {
            return bad_request("prompt", "one of 'prompt', 'messages' and 'content' must be given");
        }
        // vLLM adds BOS to a prompt, llama.cpp does not to a content.
        const bool vllm_special = fields_.boolean("add_special_tokens").value_or(prompt != nullptr);
        const bool add_special = fields_.boolean("add_special").value_or(vllm_special);
        const bool parse_special = fields_.boolean("parse_special").value_or(true);
        const bool with_pieces = fields_.boolean("with_pieces").value_or(false);
        const bool with_texts = fields_.boolean("return_token_strs").value_or(false);
        if (fields_.error()) { return pass_on(*fields_.error()); }
        Tokens tokens;
        if (has_messages) {
            auto rendered = render();
            if (!rendered) { return pass_on(rendered.error()); }
            tokens = std::move(rendered->tokens);
        } else {
            auto words = prompt != nullptr ? words_of("prompt", *prompt, add_special, parse_special)
                                           : words_of("content", *content, add_special, parse_special);
            if (!words) { return pass_on(words.error()); }
            tokens = std::move(*words);
        }
        JsonWriter out;
        out.begin_object().key("count").integer(static_cast<std::int64_t>(tokens.size()));
        write_context(out);
        out.key("tokens").begin_array();
        for (const base::TokenId token : tokens) {
            if (with_pieces) {
                write_piece(out, token);
            } else {
                out.integer(token);
            }
        }
        out.end_array().key("token_strs");
        if (with_texts) {
            out.begin_array();
            for (const base::TokenId token : tokens) {
                out.string(text().token_bytes(token));
            }
            out.end_array();
        } else {
            out.null();
        }
        return out.end_object().take();
    }

    /// {"id":..,"piece":text}, or its bytes where they are no text alone.
    void write_piece(JsonWriter& out, base::TokenId token) const {
        const std::string bytes = text().token_bytes(token);
        out.begin_object().key("id").integer(token).key("piece");
        if (valid_utf8(bytes) == bytes) {
            out.string(bytes);
        } else {
            out.begin_array();
            for (const char byte : bytes) {
                out.integer(static_cast<unsigned char>(byte));
            }
            out.end_array();
        }
        out.end_object();
    }

    ApiResult<std::string> detokenize() {
        const json::array* tokens = fields_.array("tokens");
        const bool skip_special = fields_.boolean("skip_special_tokens").value_or(false);
        if (tokens == nullptr) { fields_.problem("tokens", "must be a list of token ids"); }
        if (fields_.error()) { return pass_on(*fields_.error()); }
        const auto detokenizer = text().detokenizer(skip_special);
        std::string words;
        for (const json::value& one : *tokens) {
            const auto token = token_of(one);
            if (!token) {
                return bad_request("tokens",
                                   "'tokens' must hold token ids below " + std::to_string(text().vocabulary()));
            }
            words += detokenizer->push(*token);
        }
        words += detokenizer->flush();
        JsonWriter out;
        out.begin_object().key("prompt").string(words).key("content").string(words);
        return out.end_object().take();
    }

    ApiResult<std::string> apply_template() {
        auto rendered = render();
        if (!rendered) { return pass_on(rendered.error()); }
        JsonWriter out;
        out.begin_object().key("prompt").string(rendered->text);
        out.key("model").string(model_->name);
        out.key("count").integer(static_cast<std::int64_t>(rendered->tokens.size()));
        write_context(out);
        out.key("token_ids").begin_array();
        for (const base::TokenId token : rendered->tokens) {
            out.integer(token);
        }
        return out.end_array().end_object().take();
    }

    /// Of a request that another endpoint would answer.
    ApiResult<std::string> count(TextRoute route) const {
        const bool is_response = route == TextRoute::input_tokens;
        auto form = is_response ? read_responses_form(body_, context_.limits, context_.models)
                                : read_messages_form(body_, context_.limits, context_.models);
        if (!form) { return pass_on(form.error()); }
        const auto rendered = chat_prompt(*form, context_.limits, text(), context_.now_unix_s);
        if (!rendered) { return pass_on(rendered.error()); }
        JsonWriter out;
        out.begin_object();
        if (is_response) { out.key("object").string("response.input_tokens"); }
        out.key("input_tokens").integer(static_cast<std::int64_t>(rendered->tokens.size()));
        return out.end_object().take();
    }

    void write_context(JsonWriter& out) const {
        out.key("max_model_len");
        context_tokens_ > 0 ? out.integer(context_tokens_) : out.null();
    }

    const json::object& body_;
    Fields fields_;
    const TextContext& context_;
    const ServedModel* model_ = nullptr;  // from find_model() on
    std::uint32_t context_tokens_ = 0;
};

}  // namespace

TextAnswer answer_text(TextRoute route, std::string_view body, const TextContext& context) {
    const auto object = parse_body(body);
    if (!object) { return {std::nullopt, pass_on(object.error())}; }
    return TextRequest(*object, context).answer(route);
}

}  // namespace gateway
