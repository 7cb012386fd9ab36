#include "gateway/openai/grammar_form.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "proto/worker.pb.h"

namespace gateway {
namespace {

namespace json = boost::json;

using Kind = proto::Grammar::Kind;

constexpr std::size_t kDepthMax = 128;  // as parse_body()'s

std::string_view view_of(const json::string& text) {
    return {text.data(), text.size()};
}

/// Reads the fields of one request; what it found last is in `form`.
class GrammarReader {
public:
    GrammarReader(Fields& fields, const FormLimits& limits, RequestForm& form)
        : fields_(fields), limits_(limits), form_(form) {}

    void read() {
        if (const json::object* outputs = fields_.object("structured_outputs"); outputs != nullptr) {
            Fields inside(*outputs, "structured_outputs.");
            has_spaces_ = !inside.boolean("disable_any_whitespace").value_or(false);
            if (inside.error()) { return fields_.pass_on(*inside.error()); }
        }
        read_response_format();
        if (const json::object* outputs = fields_.object("structured_outputs"); outputs != nullptr) {
            read_structured_outputs(*outputs);
        }
        for (const char* name : {"guided_json", "json_schema"}) {
            if (const json::value* schema = asked(fields_.find(name))) { take_schema(name, *schema); }
        }
        for (const char* name : {"guided_regex", "regex"}) {
            if (const json::value* pattern = asked(fields_.find(name))) {
                take_text(proto::Grammar::KIND_REGEX, name, *pattern);
            }
        }
        if (const json::value* choices = asked(fields_.find("guided_choice"))) {
            take_choices("guided_choice", *choices);
        }
        if (const json::value* grammar = asked(fields_.find("guided_grammar"))) {
            take_text(proto::Grammar::KIND_LARK, "guided_grammar", *grammar);
        }
    }

private:
    /// An empty text asks for nothing, as forms of web pages send it.
    static const json::value* asked(const json::value* value) {
        if (value != nullptr && value->is_string() && value->get_string().empty()) { return nullptr; }
        return value;
    }

    void read_response_format() {
        const json::object* format = fields_.object("response_format");
        if (format == nullptr) { return; }
        Fields inside(*format, "response_format.");
        const auto type = inside.string("type", 64);
        if (inside.error() || !type) { return fields_.problem("response_format", "needs a 'type' that is a string"); }
        if (*type == "text") { return; }
        if (*type == "json_object") {
            if (const json::value* schema = inside.find("schema")) { return take_schema("response_format", *schema); }
            return take_object("response_format");
        }
        if (*type != "json_schema") {
            return fields_.problem("response_format", "must have the type text, json_object or json_schema");
        }
        const json::object* wrapped = inside.object("json_schema");
        if (wrapped == nullptr) {
            return fields_.problem("response_format", "of the type json_schema needs an object 'json_schema'");
        }
        Fields schema_fields(*wrapped, "response_format.json_schema.");
        schema_fields.string("name", 256);
        schema_fields.string("description", 1 << 20);
        schema_fields.boolean("strict");  // it is kept to either way
        if (schema_fields.error()) { return fields_.pass_on(*schema_fields.error()); }
        const json::value* schema = schema_fields.find("schema");
        if (schema == nullptr) {
            return fields_.problem("response_format", "of the type json_schema needs 'json_schema.schema'");
        }
        take_schema("response_format", *schema);
    }

    void read_structured_outputs(const json::object& outputs) {
        constexpr const char* kName = "structured_outputs";
        Fields inside(outputs, "structured_outputs.");
        if (const json::value* schema = inside.find("json")) { take_schema(kName, *schema); }
        if (const json::value* pattern = inside.find("regex")) {
            take_text(proto::Grammar::KIND_REGEX, kName, *pattern);
        }
        if (const json::value* choices = inside.find("choice")) { take_choices(kName, *choices); }
        if (const json::value* grammar = inside.find("grammar")) {
            take_text(proto::Grammar::KIND_LARK, kName, *grammar);
        }
        if (inside.boolean("json_object").value_or(false)) { take_object(kName); }
        if (inside.find("structural_tag") != nullptr) {
            fields_.problem(kName, "holds 'structural_tag', which is not supported by this server yet");
        }
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    /// As JSON, or as a text that is JSON.
    void take_schema(const char* name, const json::value& schema) {
        if (!has_spaces_) { return take_dense_schema(name, schema); }
        if (schema.is_string()) { return take(proto::Grammar::KIND_JSON_SCHEMA, name, view_of(schema.get_string())); }
        if (!schema.is_object() && !schema.is_bool()) {
            return fields_.problem(name, "must have a JSON schema that is an object");
        }
        take(proto::Grammar::KIND_JSON_SCHEMA, name, json::serialize(schema));
    }

    void take_object(const char* name) {
        if (!has_spaces_) { return take_dense_schema(name, json::object{{"type", "object"}}); }
        take(proto::Grammar::KIND_JSON_OBJECT, name, "");
    }

    /// JSON with no spaces between its tokens, as a grammar around the schema.
    void take_dense_schema(const char* name, json::value schema) {
        if (schema.is_string()) {
            json::error_code error;
            json::parse_options deep;
            deep.max_depth = kDepthMax;
            schema = json::parse(json::string(schema.get_string()), error, {}, deep);
            if (error) { return fields_.problem(name, "must have a JSON schema that is JSON"); }
        }
        if (schema.is_bool() && schema.get_bool()) { schema = json::object(); }
        json::object* object = schema.if_object();
        if (object == nullptr) { return fields_.problem(name, "must have a JSON schema that is an object"); }
        (*object)["x-guidance"] = json::object{{"whitespace_flexible", false}};
        take(proto::Grammar::KIND_LARK, name, "start: %json " + json::serialize(*object) + "\n");
    }

    void take_text(Kind kind, const char* name, const json::value& text) {
        if (!text.is_string()) { return fields_.problem(name, "must be given as a string"); }
        take(kind, name, view_of(text.get_string()));
    }

    void take_choices(const char* name, const json::value& choices) {
        const auto is_choice = [](const json::value& one) { return one.is_string() && !one.get_string().empty(); };
        if (!choices.is_array() || choices.get_array().empty() ||
            !std::all_of(choices.get_array().begin(), choices.get_array().end(), is_choice)) {
            return fields_.problem(name, "must have choices that are a list of strings, none of them empty");
        }
        take(proto::Grammar::KIND_CHOICE, name, json::serialize(choices));
    }

    void take(Kind kind, const char* name, std::string_view text) {
        if (form_.grammar != nullptr) {
            return fields_.problem(
                name, "and '" + form_.grammar_field + "' exclude each other: an answer keeps to one grammar");
        }
        if (text.size() > limits_.grammar_bytes_max) {
            return fields_.problem(name, "holds a grammar of " + std::to_string(text.size()) + " bytes; at most " +
                                             std::to_string(limits_.grammar_bytes_max) + " are taken");
        }
        auto grammar = std::make_shared<proto::Grammar>();
        grammar->set_kind(kind);
        grammar->set_text(std::string(text));
        form_.grammar = std::move(grammar);
        form_.grammar_field = name;
        form_.grammar_is_answers = form_.grammar_field == "response_format";
    }

    Fields& fields_;
    const FormLimits& limits_;
    RequestForm& form_;
    bool has_spaces_ = true;  // between the tokens of JSON
};

}  // namespace

void read_grammar(Fields& fields, const FormLimits& limits, RequestForm& form) {
    GrammarReader(fields, limits, form).read();
    if (form.grammar == nullptr) { return; }
    if (form.new_tokens_min > 0) {
        fields.problem("min_tokens",
                       "and '" + form.grammar_field + "' exclude each other: where a grammar ends, the answer does");
    }
}

}  // namespace gateway
