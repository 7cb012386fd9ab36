#include "gateway/openai/embedding_form.h"

#include <bit>
#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "base/check.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

namespace json = boost::json;
using Tokens = std::vector<base::TokenId>;

constexpr std::int64_t kDimensionsMax = 1 << 20;

/// Empty: not a list of token ids.
std::optional<Tokens> read_tokens(const json::array& list, std::uint32_t vocabulary) {
    Tokens tokens;
    tokens.reserve(list.size());
    for (const json::value& one : list) {
        const auto token = whole_number(one);
        if (!token || *token < 0 || *token >= static_cast<std::int64_t>(vocabulary)) { return std::nullopt; }
        tokens.push_back(static_cast<base::TokenId>(*token));
    }
    return tokens;
}

void read_input(Fields& fields, const FormLimits& limits, std::uint32_t vocabulary, RequestForm& form) {
    const std::string range = "token ids must be integers from 0 to " + std::to_string(vocabulary - 1);
    const json::value* input = fields.find("input");
    if (input == nullptr) { return fields.problem("input", "is missing"); }
    const auto add = [&](const json::value& one) {
        if (one.is_string()) {
            form.prompts.emplace_back(std::string(one.get_string()));
        } else if (auto tokens = one.is_array() ? read_tokens(one.get_array(), vocabulary) : std::nullopt) {
            form.prompts.emplace_back(std::move(*tokens));
        } else {
            fields.problem(
                "input", "must be a string, a list of strings, a list of token ids, or a list of such lists; " + range);
        }
    };
    const bool is_list = input->is_array() && !input->get_array().empty() && !input->get_array().front().is_number();
    if (!is_list) {
        add(*input);
    } else if (input->get_array().size() > limits.inputs_max) {
        return fields.problem("input", "has " + std::to_string(input->get_array().size()) + " texts; at most " +
                                           std::to_string(limits.inputs_max) + " are taken in one request");
    } else {
        for (const json::value& one : input->get_array()) {
            add(one);
            if (fields.error()) { return; }
        }
    }
    for (const auto& one : form.prompts) {
        if (std::visit([](const auto& value) { return value.empty(); }, one)) {
            fields.problem("input", "must not be empty, nor hold an empty text");
        }
    }
}

ApiError too_long(std::size_t input, std::size_t tokens, std::uint32_t longest) {
    ApiError error{.status = 400,
                   .message = "text " + std::to_string(input) + " of 'input' has " + std::to_string(tokens) +
                              " tokens; this model takes at most " + std::to_string(longest) +
                              ". Please shorten it or split it up."};
    error.param = "input";
    error.code = "context_length_exceeded";
    error.prompt_tokens = static_cast<std::uint32_t>(tokens);
    error.context_tokens = longest;
    return error;
}

std::string base64_of(std::span<const float> values) {
    static_assert(std::endian::native == std::endian::little, "clients read little-endian floats");
    static constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const auto bytes = std::as_bytes(values);
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        std::uint32_t group = 0;
        for (std::size_t j = 0; j < 3; ++j) {
            group = group << 8 | (i + j < bytes.size() ? std::to_integer<std::uint32_t>(bytes[i + j]) : 0u);
        }
        for (std::size_t j = 0; j < 4; ++j) {
            text += i + j > bytes.size() ? '=' : kAlphabet[group >> (18 - 6 * j) & 63];
        }
    }
    return text;
}

}  // namespace

ApiResult<RequestForm> read_embedding_form(const boost::json::object& body, const FormLimits& limits,
                                           const Models& models) {
    RequestForm form{.endpoint = Endpoint::embeddings};
    Fields fields(body);
    form.model = models.first_of(ModelKind::vectors).value_or(0);
    form.model_name = models[form.model].name;
    bool is_unknown = false;
    if (const auto asked = fields.string("model", 1024); asked && !asked->empty() && *asked != "default") {
        form.model_name = *asked;
        const auto found = models.find(*asked);
        is_unknown = !found;
        form.model = found.value_or(form.model);
    }
    read_input(fields, limits, models[form.model].text->vocabulary(), form);
    if (const auto format = fields.string("encoding_format", 64)) {
        form.base64 = *format == "base64";
        if (!form.base64 && *format != "float") {
            fields.problem("encoding_format", "must be \"float\" or \"base64\"");
        }
    }
    if (const auto dimensions = fields.integer("dimensions", 1, kDimensionsMax)) {
        form.dimensions = static_cast<std::uint32_t>(*dimensions);
    }
    fields.string("user", 1024);
    if (fields.error()) { return pass_on(*fields.error()); }
    if (is_unknown) { return pass_on(no_such_model(form.model_name)); }
    return form;
}

ApiResult<PreparedRequest> prepare_embedding(RequestForm form, const PrepareContext& context) {
    std::size_t bytes = 0;
    for (const auto& one : form.prompts) {
        if (const auto* written = std::get_if<std::string>(&one)) { bytes += written->size(); }
    }
    if (bytes > context.limits.text_bytes_max) {
        return bad_request("input", "the request has " + std::to_string(bytes) + " bytes of text; at most " +
                                        std::to_string(context.limits.text_bytes_max) + " are read");
    }
    PreparedRequest prepared;
    for (std::size_t i = 0; i < form.prompts.size(); ++i) {
        Tokens tokens;
        if (auto* given = std::get_if<Tokens>(&form.prompts[i])) {
            tokens = std::move(*given);
        } else {
            const std::string what = "text " + std::to_string(i) + " of 'input' has";
            if (auto fits = check_fits(std::get<std::string>(form.prompts[i]).size(), form, context, what); !fits) {
                return pass_on(fits.error());
            }
            auto encoded = context.text.encode(std::get<std::string>(form.prompts[i]), true, false, {});
            if (!encoded) {
                return pass_on(text_error(
                    {encoded.error().code, "text " + std::to_string(i) + " of 'input': " + encoded.error().message},
                    "input"));
            }
            tokens = std::move(*encoded);
        }
        if (tokens.empty()) { return bad_request("input", "text " + std::to_string(i) + " of 'input' has no tokens"); }
        if (tokens.size() > context.cluster.context_tokens) {
            return pass_on(too_long(i, tokens.size(), context.cluster.context_tokens));
        }
        prepared.prompts.push_back({.tokens = std::make_shared<const Tokens>(std::move(tokens)),
                                    .hashes = nullptr,
                                    .text = {},
                                    .text_offsets = {}});
    }
    form.prompts.clear();
    prepared.form = std::move(form);
    return prepared;
}

void cut_vector(std::vector<float>& vector, std::uint32_t dimensions) {
    CHECK(dimensions > 0 && dimensions <= vector.size(), dimensions << " of " << vector.size() << " dimensions");
    if (dimensions == vector.size()) { return; }
    vector.resize(dimensions);
    double squares = 0;
    for (const float value : vector) {
        squares += static_cast<double>(value) * static_cast<double>(value);
    }
    if (squares <= 0) { return; }
    const double scale = 1.0 / std::sqrt(squares);
    for (float& value : vector) {
        value = static_cast<float>(static_cast<double>(value) * scale);
    }
}

std::string embedding_json(std::string_view model, const std::vector<std::vector<float>>& vectors, bool base64,
                           std::uint64_t prompt_tokens) {
    JsonWriter json;
    json.begin_object().key("object").string("list").key("data").begin_array();
    for (std::size_t i = 0; i < vectors.size(); ++i) {
        json.begin_object().key("object").string("embedding").key("index").integer(static_cast<std::int64_t>(i));
        json.key("embedding");
        if (base64) {
            json.string(base64_of(vectors[i]));
        } else {
            json.begin_array();
            for (const float value : vectors[i]) {
                json.number(value);
            }
            json.end_array();
        }
        json.end_object();
    }
    json.end_array().key("model").string(model).key("usage").begin_object();
    json.key("prompt_tokens").integer(static_cast<std::int64_t>(prompt_tokens));
    json.key("total_tokens").integer(static_cast<std::int64_t>(prompt_tokens));
    return json.end_object().end_object().take();
}

}  // namespace gateway
