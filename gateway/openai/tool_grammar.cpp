#include <algorithm>
#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/tool_form.h"
#include "gateway/openai/tool_stream.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kDepthMax = 128;  // as parse_body()'s
constexpr const char* kSpacesOfJson = R"([\x20\x0A\x0D\x09]{1,40})";

/// As a literal of Lark.
std::string lark_text(std::string_view text) {
    return json::serialize(json::string(text.data(), text.size()));
}

/// How a schema says which spaces stand between the tokens of its JSON: bounded ones, or none.
json::object spaces_of_json(bool has_spaces) {
    if (!has_spaces) { return {{"whitespace_flexible", false}}; }
    return {{"whitespace_pattern", kSpacesOfJson}};
}

/// The schema of a tool's arguments, within a Lark grammar.
std::string arguments_schema(const ToolsForm::Tool& tool, bool has_spaces = true) {
    json::object schema{{"type", "object"}, {"properties", json::object()}, {"additionalProperties", false}};
    if (!tool.parameters.empty()) {
        json::parse_options deep;
        deep.max_depth = kDepthMax;
        schema = json::parse(tool.parameters, {}, deep).as_object();  // was serialized by us
        if (schema.if_contains("type") == nullptr && schema.if_contains("$ref") == nullptr &&
            schema.if_contains("anyOf") == nullptr && schema.if_contains("allOf") == nullptr) {
            schema["type"] = "object";
        }
    }
    schema["x-guidance"] = spaces_of_json(has_spaces);
    return json::serialize(schema);
}

/// Whether spaces may stand between the tokens of an answer of `schema`, as answer_schema_of() gives it.
bool has_spaces_of(const std::string& schema) {
    if (schema.empty()) { return true; }
    json::error_code error;
    json::parse_options deep;
    deep.max_depth = kDepthMax;
    const json::value value = json::parse(json::string_view(schema), error, {}, deep);
    const json::object* object = error ? nullptr : value.if_object();
    const json::value* spaces = object == nullptr ? nullptr : object->if_contains("x-guidance");
    return spaces == nullptr || *spaces != spaces_of_json(false);
}

/// A name within a regular expression of Lark.
std::string regex_text(std::string_view name) {
    std::string text;
    for (const char c : name) {
        if (std::string_view(".-").find(c) != std::string_view::npos) { text += '\\'; }
        text += c;
    }
    return text;
}

/// Writes the grammar of an answer in which the model decides itself, for one form of calls.
class OpenGrammar {
public:
    OpenGrammar(const ToolsForm& tools, ToolFormat format, const std::vector<base::TokenId>& marks,
                const std::string& answer_schema)
        : tools_(tools),
          format_(format),
          marks_(marks),
          answer_schema_(answer_schema),
          has_spaces_(has_spaces_of(answer_schema)) {}

    std::string text() {
        for (std::size_t index = 0; index < tools_.tools.size(); ++index) {
            const ToolsForm::Tool& tool = tools_.tools[index];
            const std::string schema =
                tool.strict ? arguments_schema(tool, has_spaces_) : arguments_schema({"", "{}"}, has_spaces_);
            rules_ += "arguments_" + std::to_string(index) + ": %json " + schema + "\n";
        }
        if (has_answer()) { rules_ += "answer: %json " + answer_schema_ + "\n"; }
        switch (format_) {
            case ToolFormat::llama3:
            case ToolFormat::json:
                return has_answer() ? beside_answer() : bare();
            case ToolFormat::mistral:
                return marked(0, list() + (has_mark(1) ? " | " + named(1) : std::string()), true);
            case ToolFormat::deepseek:
                return deepseek();
            default:
                return has_answer() ? beside_answer() : hermes();
        }
    }

private:
    /// Bounded: a model that is forced away from what it wants may write spaces for ever.
    static constexpr const char* kSpace = R"([ \t\r\n]{0,20})";

    bool has_answer() const { return !answer_schema_.empty(); }
    bool is_token(std::size_t mark) const { return mark < marks_.size() && marks_[mark] >= 0; }
    /// Where the first mark is a token, so are all that the model knows.
    bool has_mark(std::size_t mark) const { return is_token(mark) || !is_token(0); }
    std::string mark(std::size_t index) const {
        if (is_token(index)) { return "<[" + std::to_string(marks_[index]) + "]>"; }
        return lark_text(special_marks(format_)[index]);
    }

    /// Rules `stem`_0, .. of each tool, and the choice between them.
    template <class Rule>
    std::string each(const std::string& stem, const Rule& rule) {
        std::string choice;
        for (std::size_t index = 0; index < tools_.tools.size(); ++index) {
            const std::string number = std::to_string(index);
            choice += (choice.empty() ? "" : " | ") + stem + "_" + number;
            rules_ += stem + "_" + number + ": " + rule(tools_.tools[index].name, "arguments_" + number) + "\n";
        }
        return choice;
    }

    /// {"name": .., "arguments": ..} with the spaces that models put in, and with `before` in front: one lexeme up to
    /// the arguments, since a text that could go on longer takes what begins alike.
    std::string objects(const std::string& stem, const std::string& before) {
        return each(stem, [&](const std::string& name, const std::string& arguments) {
            return "/" + before + head() + regex_text(name) + "\"" + kSpace + "," + kSpace +
                   "\"(parameters|arguments)\"" + kSpace + ":" + kSpace + "/ " + arguments + " /[ \\t\\r\\n]{0,4}\\}/";
        });
    }
    static std::string head() {
        const std::string space = kSpace;
        return space + R"(\{)" + space + R"(("type")" + space + ":" + space + R"("function")" + space + "," + space +
               R"()?"name")" + space + ":" + space + "\"";
    }

    std::string list() {
        const std::string choice = objects("object", "");
        rules_ += "object: " + choice + "\n";
        return std::string(R"(/[ \n]{0,4}\[/ object)") + (tools_.parallel ? R"( (/[ \n]{0,4},/ object){0,15})" : "") +
               R"( /[ \n]{0,4}\]/)";
    }
    std::string named(std::size_t separator) {
        const std::string choice = each("named", [&](const std::string& name, const std::string& arguments) {
            return lark_text(name) + " " + mark(separator) + " " + arguments;
        });
        rules_ += "named: " + choice + "\n";
        return "named";
    }

    /// Text, and behind a mark `calls`; `again`: calls may follow calls, each behind a mark of its own.
    std::string marked(std::size_t first, const std::string& calls, bool again) {
        const std::string more = tools_.parallel && again ? "{1,16}" : "";
        std::string text = "calls: " + calls + "\n" + rules_;
        if (has_answer()) {
            const std::string next = " (/[ \\n]{0,4}/ " + mark(first) + " calls){0,15}";
            return "start: answer | " + mark(first) + " calls" + (more.empty() ? "" : next) + "\n" + text;
        }
        if (is_token(first)) {
            return "start: TEXT | TEXT (" + mark(first) + " calls)" + more + "\nTEXT: /(?s:.*)/\n" + text;
        }
        const std::string word(special_marks(format_)[first]);
        std::string pattern;
        for (const char c : word) {
            if (std::string_view("[]|").find(c) != std::string_view::npos) { pattern += '\\'; }
            pattern += c;
        }
        return "start: TEXT | before calls" + (more.empty() ? "" : " (/[ \\n]{0,4}/ " + mark(first) + " calls){0,15}") +
               "\nTEXT: /(?s:.*)/ & ~/(?s:.*)" + pattern + "(?s:.*)/\nbefore[suffix=" + lark_text(word) +
               "]: /(?s:.*)/\n" + text;
    }

    std::string deepseek() {
        const std::string older = each("older", [&](const std::string& name, const std::string& arguments) {
            return "\"function\" " + mark(2) + " " + lark_text(name + "\n```json\n") + " " + arguments + " \"\\n```\"";
        });
        const std::string newer = named(2);
        rules_ += "one: " + older + " | " + newer + "\n";
        const std::string call = mark(1) + " one " + mark(3);
        return marked(0, call + (tools_.parallel ? " (/[ \\n]{0,4}/ " + call + "){0,15}" : "") + " " + mark(4), false);
    }

    /// Of all tools, as a regular expression's choice.
    std::string names() const {
        std::string choice;
        for (const ToolsForm::Tool& tool : tools_.tools) {
            choice += (choice.empty() ? "" : "|") + regex_text(tool.name);
        }
        return choice;
    }
    /// What no text begins with: an object with the name of a tool, `open` maybe before it.
    std::string begun_call(const std::string& open) const {
        return "/" + open + head() + "(" + names() + ")\"(?s:.*)/";
    }

    /// Text that does not begin as a call of one of the tools, or calls and nothing else.
    std::string bare() {
        const bool may_be_list = format_ == ToolFormat::json;
        const std::string calls = objects("object", "");
        rules_ += "object: " + calls + "\n";
        std::string start = "start: TEXT | object";
        if (tools_.parallel) { start += " (/[ \\t\\r\\n]{0,4};/ object){0,15}"; }
        start += " /[ \\n]{0,4}/";
        if (may_be_list) {
            const std::string firsts = objects("first", std::string(kSpace) + R"(\[)");
            rules_ += "first: " + firsts + "\n";
            start += " | first" + std::string(tools_.parallel ? R"( (/[ \n]{0,4},/ object){0,15})" : "") +
                     R"( /[ \n]{0,4}\][ \n]{0,4}/)";
        }
        const std::string open = may_be_list ? std::string("(") + kSpace + R"(\[)?)" : std::string();
        return start + "\nTEXT: /(?s:.*)/ & ~" + begun_call(open) +
               (may_be_list ? "" : R"( & ~/(?s:.*)<\|python_tag\|>(?s:.*)/)") + "\n" + rules_;
    }

    /// JSON of the form, or calls that may stand alone and so begin as any JSON does: both of the same lexemes, JSON's
    /// own tokens with the same spaces between them, since of two that begin alike the lexer takes the longer one.
    std::string beside_answer() {
        const std::string objects = each("object", [](const std::string& name, const std::string& arguments) {
            return R"("{" ("\"type\"" ":" "\"function\"" ",")? "\"name\"" ":" )" + lark_text(lark_text(name)) +
                   R"( "," ("\"parameters\"" | "\"arguments\"") ":" )" + arguments + R"( "}")";
        });
        rules_ += "object: " + objects + "\n";
        const auto several = [&](const std::string& one, const std::string& separator) {
            return one + (tools_.parallel ? " (" + separator + one + "){0,15}" : "");
        };
        std::string calls = several("object", format_ == ToolFormat::hermes ? "" : "\";\" ");
        if (format_ == ToolFormat::json) { calls += R"( | "[" )" + several("object", R"("," )") + R"( "]")"; }
        if (format_ == ToolFormat::hermes) {
            const std::string breaks = has_spaces_ ? "" : R"(/[ \n]{0,4}/ )";  // which templates put around marks
            calls += " | " + several("marked", breaks);
            rules_ += "marked: " + mark(0) + " " + breaks + "one " + breaks + mark(1) + "\n";
            rules_ += "one: " + written() + "\n";
        }
        const std::string spaces = std::string("%ignore /") + kSpacesOfJson + "/\n";
        return "%llguidance {\"ignore_once\": true}\n" + (has_spaces_ ? spaces : "") + "start: answer | " + calls +
               "\n" + rules_;
    }

    /// Calls as the models' templates write them behind marks.
    std::string written() {
        return each("call", [](const std::string& name, const std::string& arguments) {
            return lark_text("{\"name\": " + lark_text(name) + ", \"arguments\": ") + " " + arguments + " \"}\"";
        });
    }

    /// Text, with calls behind marks. Some models forget the marks: what begins as a call of one of the tools, maybe in
    /// a block of Markdown, is one, and then nothing but calls follows.
    std::string hermes() {
        rules_ += "one: " + written() + "\n";
        const std::string more = tools_.parallel ? " object{0,15}" : "";
        const std::string marked_call = R"(/[ \n]{0,4}/ one /[ \n]{0,4}/ )" + mark(1) + "\n";
        const std::string objects_alone = objects("object", "");
        const std::string fenced = objects("fenced", std::string(kSpace) + "```(json)?");
        rules_ += "object: " + objects_alone + "\nfenced: " + fenced + "\n";
        const std::string alone = " | object" + more + R"( /[ \n]{0,4}/)";
        const std::string unmarked = alone + " | fenced" + more + R"( /[ \n]{0,4}```[ \n]{0,4}/)" + "\n";
        const std::string no_call = "~" + begun_call(std::string(kSpace) + "(```(json)?)?");
        if (is_token(0)) {
            const std::string marked = mark(0) + " call";
            return "start: FIRST" + (tools_.parallel ? " (" + marked + " TEXT){0,16}" : " | FIRST " + marked) +
                   unmarked + "FIRST: /(?s:.*)/ & " + no_call + "\nTEXT: /(?s:.*)/\ncall: " + marked_call + rules_;
        }
        const std::string no_mark = "/(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/";
        return "start: FIRST | opening call" + std::string(tools_.parallel ? " (before call){0,15} TEXT" : "") +
               unmarked + "FIRST: " + no_mark + " & " + no_call + "\nTEXT: " + no_mark +
               "\nopening[suffix=\"<tool_call>\"]: /(?s:.*)/ & " + no_call +
               "\nbefore[suffix=\"<tool_call>\"]: /(?s:.*)/\ncall: " + marked_call + rules_;
    }

    const ToolsForm& tools_;
    const ToolFormat format_;
    const std::vector<base::TokenId>& marks_;
    const std::string& answer_schema_;
    const bool has_spaces_;
    std::string rules_;
};

}  // namespace

proto::Grammar open_grammar(const ToolsForm& tools, ToolFormat format, const std::vector<base::TokenId>& marks,
                            const std::string& answer_schema) {
    proto::Grammar grammar;
    grammar.set_kind(proto::Grammar::KIND_LARK);
    grammar.set_text(OpenGrammar(tools, format, marks, answer_schema).text());
    return grammar;
}

std::string answer_schema_of(const proto::Grammar& grammar) {
    json::object schema{{"type", "object"}};
    if (grammar.kind() == proto::Grammar::KIND_LARK) {  // a schema without spaces, as read_grammar() writes it
        constexpr std::string_view kBegin = "start: %json ";
        std::string_view text = grammar.text();
        if (!text.starts_with(kBegin) || text.find('\n') + 1 != text.size()) { return {}; }
        text.remove_suffix(1);
        return std::string(text.substr(kBegin.size()));
    }
    if (grammar.kind() == proto::Grammar::KIND_JSON_SCHEMA) {
        json::error_code error;
        json::parse_options deep;
        deep.max_depth = kDepthMax;
        const json::value value = json::parse(json::string_view(grammar.text()), error, {}, deep);
        const bool is_any = !error && value.is_bool() && value.get_bool();
        if (error || (!value.is_object() && !is_any)) { return {}; }
        schema = is_any ? json::object() : value.get_object();
    } else if (grammar.kind() != proto::Grammar::KIND_JSON_OBJECT) {
        return {};
    }
    schema["x-guidance"] = spaces_of_json(true);
    return json::serialize(schema);
}

proto::Grammar call_grammar(const ToolsForm& tools, ToolFormat format) {
    const bool is_named = tools.choice == ToolsForm::Choice::named;
    const std::string_view arguments_name = format == ToolFormat::llama3 ? "parameters" : "arguments";
    std::string rules;
    std::string names;
    for (std::size_t index = 0; index < tools.tools.size(); ++index) {
        const ToolsForm::Tool& tool = tools.tools[index];
        if (is_named && tool.name != tools.named) { continue; }
        const std::string number = std::to_string(index);
        const std::string head = "{\"name\": " + lark_text(tool.name) + ", \"" + std::string(arguments_name) + "\": ";
        names += (names.empty() ? "" : " | ") + ("call_" + number);
        rules += "call_" + number + ": " + lark_text(head) + " arguments_" + number + " \"}\"\n";
        rules += "arguments_" + number + ": %json " + arguments_schema(tool) + "\n";
    }
    const bool is_several = tools.parallel && !is_named;
    std::string start;
    switch (format) {
        case ToolFormat::hermes:
            start = R"(start: one)" + std::string(is_several ? R"( ("\n" one){0,15})" : "") +
                    "\none: \"<tool_call>\\n\" call \"\\n</tool_call>\"\n";
            break;
        case ToolFormat::llama3:
            start = R"(start: call)" + std::string(is_several ? R"( ("; " call){0,15})" : "") + "\n";
            break;
        default:
            start = R"(start: "[" call)" + std::string(is_several ? R"( (", " call){0,15})" : "") + R"( "]")" + "\n";
    }
    proto::Grammar grammar;
    grammar.set_kind(proto::Grammar::KIND_LARK);
    grammar.set_text(start + "call: " + names + "\n" + rules);
    return grammar;
}

}  // namespace gateway
