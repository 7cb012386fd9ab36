#include "gateway/cache/cache_request.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <span>
#include <utility>

#include "caching/semantic/words.h"
#include "gateway/request/sequence_source.h"

namespace gateway {
namespace {

namespace json = boost::json;

std::string text_of(const json::value* value) {
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

/// A content's text: a string, or its parts one after the other.
std::string content_of(const json::object& message) {
    const json::value* content = message.if_contains("content");
    if (content == nullptr || !content->is_array()) { return text_of(content); }
    std::string text;
    for (const json::value& part : content->get_array()) {
        if (part.is_object()) { text += text_of(part.get_object().if_contains("text")) + "\n"; }
    }
    return text;
}

/// A field of a name: with its length in front, so that no two lists of fields have the same bytes.
class NameBytes {
public:
    void add(std::string_view field) {
        number(field.size());
        bytes_ += field;
    }
    void number(std::uint64_t value) {
        for (int shift = 0; shift < 64; shift += 8) {
            bytes_ += static_cast<char>((value >> shift) & 0xff);
        }
    }
    template <class T>
    void list(const std::vector<T>& values) {
        number(values.size());
        for (const T& value : values) {
            if constexpr (std::is_integral_v<T>) {
                number(static_cast<std::uint64_t>(value));
            } else {
                add(value);
            }
        }
    }
    void raw(std::span<const std::byte> data) {
        number(data.size());
        bytes_.append(reinterpret_cast<const char*>(data.data()), data.size());
    }
    const std::string& bytes() const { return bytes_; }

private:
    std::string bytes_;
};

/// All fields, also those that a later version adds, in one order.
std::string serialized(const google::protobuf::Message& message) {
    std::string bytes;
    {
        google::protobuf::io::StringOutputStream stream(&bytes);
        google::protobuf::io::CodedOutputStream coded(&stream);
        coded.SetSerializationDeterministic(true);
        message.SerializeToCodedStream(&coded);
    }
    return bytes;
}

/// Why this request passes the cache by; empty: it does not.
std::string_view refusal_of(const CacheAsk& ask, const PreparedRequest& prepared, const GenerationRequest& request,
                            const caching::CacheRules& rules) {
    const RequestForm& form = prepared.form;
    if (ask.no_store) { return "no-store"; }
    if (prepared.prompts.size() != 1) { return "several-prompts"; }
    if (form.n != 1) { return "several-choices"; }
    if (form.logprobs) { return "logprobs"; }
    if (form.return_token_ids) { return "token-ids"; }
    if (prepared.hides_generated) { return "empty"; }
    // With a seed the same tokens come every time; without one every answer is another draw.
    if (request.sampling.temperature() > 0 && !form.seed && !rules.allow_temperature) { return "temperature"; }
    if (!form.tools_field.empty() && !rules.allow_tools) { return "tools"; }
    if (form.cache_texts == nullptr) { return "unread"; }
    return form.cache_texts->refused;
}

constexpr std::size_t kEncodedBytesMax = 16 << 10;  // a longer question is compared with none
constexpr std::size_t kEncodedTokensMost = 512;

std::optional<EncodedQuestion> encoded_of(const caching::Question& question, const CacheNaming& naming) {
    const std::string text = caching::canonical_text(caching::asked(question));
    if (naming.encoder.text == nullptr || text.empty() || text.size() > kEncodedBytesMax) { return std::nullopt; }
    auto tokens = naming.encoder.text->encode(text, true, false, {});
    if (!tokens || tokens->empty()) { return std::nullopt; }
    const std::size_t most = std::min<std::size_t>(
        naming.encoder.tokens_max > 0 ? naming.encoder.tokens_max : kEncodedTokensMost, kEncodedTokensMost);
    if (tokens->size() > most) {
        const base::TokenId last = tokens->back();  // the mark of the end
        tokens->resize(most);
        tokens->back() = last;
    }
    NameBytes name;
    name.add("sluice question 1");
    name.add(question.tenant);
    name.number(naming.encoder.numerics_id);
    name.list(*tokens);
    return EncodedQuestion{.name = base::keyed_hash(naming.key, std::as_bytes(std::span(name.bytes()))),
                           .tokens = std::make_shared<const std::vector<base::TokenId>>(std::move(*tokens))};
}

/// What an answer depends on besides model and prompt. `scope`: who finds what was cached of its prompt.
NameBytes parameters_of(const GenerationRequest& request, std::string_view scope, Endpoint endpoint) {
    NameBytes parameters;
    parameters.add(serialized(request.sampling));
    parameters.list(request.stop_tokens);
    parameters.number(request.stop_tokens_asked);
    parameters.number(request.new_tokens_min);
    parameters.list(request.text.stop_strings);
    parameters.number(request.text.include_stop_string ? 1 : 0);
    parameters.number(request.skip_special ? 1 : 0);
    parameters.add(scope);
    parameters.add(request.grammar == nullptr ? std::string() : serialized(*request.grammar));
    if (const auto& rule = request.reasoning) {
        parameters.number(rule->is_begun ? 2 : 1);
        parameters.number(rule->tokens_max ? std::uint64_t{*rule->tokens_max} + 1 : 0);
    }
    // The same tokens may come from a chat and from a text; what is taken out of their answer differs.
    parameters.number(static_cast<std::uint64_t>(endpoint));
    return parameters;
}

std::shared_ptr<const caching::Question> question_of(const CacheAsk& ask, const RequestForm& form,
                                                     const GenerationRequest& request, const NameBytes& parameters,
                                                     const QuestionEncoder& encoder) {
    const CacheTexts& texts = *form.cache_texts;
    if (texts.messages.empty() || texts.messages.back().role != "user") { return nullptr; }
    if (request.sampling.temperature() > 0 || !form.tools_field.empty()) { return nullptr; }
    auto question = std::make_shared<caching::Question>();
    question->tenant = ask.tenant;
    question->model = ask.model;
    question->revision = ask.revision;
    // The bound as it was asked for: what the context leaves differs with every prompt.
    question->parameters =
        parameters.bytes() + texts.beside + (form.new_tokens_max ? std::to_string(*form.new_tokens_max) : "-");
    // Vectors of an encoder whose weights have changed are not compared with those of before.
    if (encoder.text != nullptr) { question->parameters += "|" + revision_name(encoder.numerics_id); }
    question->messages = texts.messages;
    return question;
}

}  // namespace

ApiResult<void> CacheTextReader::rewrite(RequestForm& form, const RewriteContext& /*context*/) const {
    auto texts = std::make_shared<CacheTexts>();
    if (!form.own_template.empty()) { texts->refused = "unread"; }  // what it makes of the messages nobody knows
    const auto look_at = [&](std::string_view text) {
        if (!options_.rules.allow_personal && caching::is_personal(text)) { texts->refused = "personal"; }
    };
    if (!form.template_context.empty()) {
        boost::system::error_code error;
        json::parse_options depth;
        depth.max_depth = 256;  // it is ours: deeper than what a client may send by the levels around it
        json::value parsed = json::parse(form.template_context, error, {}, depth);
        json::object* context = error ? nullptr : parsed.if_object();
        json::value* list = context == nullptr ? nullptr : context->if_contains("messages");
        if (list == nullptr || !list->is_array()) {
            texts->refused = "unread";
        } else {
            for (const json::value& one : list->get_array()) {
                if (!one.is_object()) { continue; }
                const json::object& message = one.get_object();
                const std::string role = text_of(message.if_contains("role"));
                std::string content = content_of(message);
                look_at(content);
                // What tools said is true of one moment.
                const bool is_agents = role == "tool" || role == "function" || message.contains("tool_calls") ||
                                       message.contains("function_call");
                if (is_agents) { texts->refused = "agent-loop"; }
                if (options_.similarity) { texts->messages.push_back({role, std::move(content)}); }
            }
            if (options_.similarity) {
                context->erase("messages");
                texts->beside = json::serialize(parsed);
            }
        }
    } else {
        look_at(form.suffix);
        for (const auto& prompt : form.prompts) {
            const auto* text = std::get_if<std::string>(&prompt);
            if (text == nullptr) {
                texts->refused = "prompt-ids";  // nobody has looked into it
            } else {
                look_at(*text);
            }
        }
    }
    if (!texts->refused.empty()) { texts->messages.clear(); }
    form.cache_texts = std::move(texts);
    return {};
}

std::string revision_name(std::uint64_t numerics_id) {
    char revision[32];
    std::snprintf(revision, sizeof revision, "%016llx", static_cast<unsigned long long>(numerics_id));
    return revision;
}

void name_request(CacheAsk& ask, const PreparedRequest& prepared, const TextPort& text, const CacheNaming& naming) {
    ask.tenant = naming.tenant;
    ask.model = naming.model;
    ask.revision = revision_name(naming.numerics_id);
    if (prepared.prompts.empty()) {
        ask.refused = "several-prompts";
        return;
    }
    // A seed that the client did not give says nothing of the answer.
    GenerationRequest request = generation_request(prepared, 0, 0, prepared.form.seed.value_or(0), text);
    ask.refused = refusal_of(ask, prepared, request, naming.rules);
    if (!ask.refused.empty()) { return; }
    if (request.sampling.temperature() <= 0) { request.sampling.set_seed(0); }

    // Two models that answer to one name have ends of their own; what the client asked for is in front.
    if (!naming.routed.empty()) { request.stop_tokens.resize(request.stop_tokens_asked); }
    const NameBytes parameters = parameters_of(request, request.cache_scope, prepared.form.endpoint);
    NameBytes name;
    name.add("sluice answer 1");
    name.add(ask.tenant);
    if (naming.routed.empty()) {
        name.add(ask.model);
        name.add(ask.revision);
    } else {
        name.add("routed");
        name.add(naming.routed);
    }
    name.add(parameters.bytes());
    if (naming.routed.empty()) {
        name.number(request.new_tokens_max);
        name.raw(std::as_bytes(std::span(*request.prompt)));
    } else {
        // The bound as it was asked for: what the context leaves differs by model and examples.
        name.number(prepared.form.new_tokens_max.value_or(0));
    }
    ask.key = base::keyed_hash(naming.key, std::as_bytes(std::span(name.bytes())));
    // What two models answer to may have a tenant's examples in its prompt, a tag is a document of a tenant's, and a
    // salt is there to keep others away.
    const bool is_own = ask.is_private || !ask.tags.empty() || prepared.form.has_cache_salt;
    if (naming.common && naming.routed.empty() && !is_own) {
        NameBytes of_anybody;
        of_anybody.add("sluice common answer 1");
        of_anybody.add(ask.model);
        of_anybody.add(ask.revision);
        of_anybody.add(parameters_of(request, {}, prepared.form.endpoint).bytes());
        of_anybody.number(request.new_tokens_max);
        of_anybody.raw(std::as_bytes(std::span(*request.prompt)));
        ask.common = base::keyed_hash(naming.key, std::as_bytes(std::span(of_anybody.bytes())));
    }
    if (!naming.similarity) { return; }
    ask.question = question_of(ask, prepared.form, request, parameters, naming.encoder);
    if (ask.question != nullptr) { ask.encoded = encoded_of(*ask.question, naming); }
}

}  // namespace gateway
