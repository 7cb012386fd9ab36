#include "gateway/openai/tool_stream.h"

#include <algorithm>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/answer_reader.h"

#include "tests/support/catch.h"

namespace {

using gateway::AnswerEvent;
using gateway::AnswerReader;
using gateway::ToolFormat;
using gateway::ToolStream;

struct Call {
    std::string name;
    std::string arguments;
    bool operator==(const Call&) const = default;
};
struct Read {
    std::string content;
    std::string reasoning;
    std::vector<Call> calls;
    bool operator==(const Read&) const = default;
};

void take(Read& read, const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
        switch (event.kind) {
            case AnswerEvent::Kind::content:
                read.content += event.text;
                break;
            case AnswerEvent::Kind::reasoning:
                read.reasoning += event.text;
                break;
            case AnswerEvent::Kind::call:
                REQUIRE(event.index == read.calls.size());
                read.calls.push_back({event.text, ""});
                break;
            case AnswerEvent::Kind::arguments:
                REQUIRE(event.index + 1 == read.calls.size());
                read.calls.back().arguments += event.text;
                break;
        }
    }
}

/// The answer in pieces of 1 to `most` bytes.
Read read(AnswerReader::Options options, std::string_view text, std::uint32_t seed, std::size_t most) {
    std::mt19937 random(seed);
    AnswerReader reader(std::move(options));
    Read result;
    while (!text.empty()) {
        const std::size_t size = std::min<std::size_t>(1 + random() % most, text.size());
        take(result, reader.push(text.substr(0, size)));
        text.remove_prefix(size);
    }
    take(result, reader.finish());
    return result;
}

AnswerReader::Options with(ToolFormat format, bool is_begun = false) {
    ToolStream::Options tools;
    tools.format = format;
    tools.names = {"f", "g"};
    tools.is_begun = is_begun;
    AnswerReader::Options options;
    options.tools = std::move(tools);
    return options;
}

/// What is no call is JSON.
AnswerReader::Options json_or(ToolFormat format) {
    AnswerReader::Options options = with(format);
    options.tools->answers_in_json = true;
    return options;
}

AnswerReader::Options reasoning(bool begins_reasoning) {
    AnswerReader::Options options;
    options.reasons = true;
    options.begins_reasoning = begins_reasoning;
    return options;
}

AnswerReader::Options reasoning_with(ToolFormat format) {
    AnswerReader::Options options = with(format);
    options.reasons = true;
    return options;
}

struct Case {
    AnswerReader::Options options;
    std::string text;
    Read expected;
};

std::vector<Case> cases() {
    const std::string deep_call = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n";
    return {
        {with(ToolFormat::hermes), "no call at all", {"no call at all", "", {}}},
        {with(ToolFormat::hermes), "less < than <tool_cal", {"less < than <tool_cal", "", {}}},
        {with(ToolFormat::hermes),
         "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}<tool_call>\\\"\"}}\n</tool_call>",
         {"Let me see.", "", {{"f", "{\"a\": \"}<tool_call>\\\"\"}"}}}},
        {with(ToolFormat::hermes),
         "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"other\", "
         "\"arguments\": {\"b\": [1, 2]}}\n</tool_call>\n",
         {"", "", {{"f", "{}"}, {"other", "{\"b\": [1, 2]}"}}}},
        {with(ToolFormat::hermes),
         "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
         {"", "", {{"f", "{\"a\": 1}"}}}},
        {with(ToolFormat::hermes), "<tool_call>{\"name\": \"f\"}</tool_call>", {"", "", {{"f", "{}"}}}},
        {with(ToolFormat::hermes), "Well.\n<tool_call>{\"name\": \"f", {"Well.", "", {}}},
        {with(ToolFormat::hermes), "<tool_call>{\"name\": \"f\"}</tool_call>\n<tool_c", {"", "", {{"f", "{}"}}}},
        // Without marks, as Qwen2.5-Coder writes them.
        {with(ToolFormat::hermes), "\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}", {"", "", {{"f", "{\"a\": 1}"}}}},
        {with(ToolFormat::hermes),
         "{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"g\", \"arguments\": {\"x\": \"<tool_call>\"}}",
         {"", "", {{"f", "{}"}, {"g", "{\"x\": \"<tool_call>\"}"}}}},
        {with(ToolFormat::hermes),
         "```json\n{\"name\": \"f\", \"arguments\": {\"a\": \"```\"}}\n```",
         {"", "", {{"f", "{\"a\": \"```\"}"}}}},
        {with(ToolFormat::hermes),
         " ```\n{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"g\"}\n```\nI `called`.",
         {"I `called`.", "", {{"f", "{}"}, {"g", "{}"}}}},
        {with(ToolFormat::hermes),
         "<tool_call>\n```json\n{\"name\": \"other\", \"arguments\": {}}\n```\n</tool_call>",
         {"", "", {{"other", "{}"}}}},
        {with(ToolFormat::hermes),
         "{\"a\": 1}\n<tool_call>{\"name\": \"other\"}</tool_call>\n{\"name\": \"other\"}",
         {"{\"a\": 1}{\"name\": \"other\"}", "", {{"other", "{}"}}}},
        {with(ToolFormat::hermes),
         "{\"name\": \"Lily\", \"arguments\": {}}",
         {"{\"name\": \"Lily\", \"arguments\": {}}", "", {}}},
        {with(ToolFormat::hermes), "{\"name\": \"f", {"{\"name\": \"f", "", {}}},
        {with(ToolFormat::hermes),
         "{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"f\", \"",
         {"", "", {{"f", "{}"}}}},
        {with(ToolFormat::hermes),
         "<tool_call>{\"name\": \"f\"}</tool_call>\n{\"name\": \"f",
         {"{\"name\": \"f", "", {{"f", "{}"}}}},
        {with(ToolFormat::hermes), "```json\n[1]\n```", {"```json\n[1]\n```", "", {}}},
        {with(ToolFormat::hermes), "```python\n{}\n```", {"```python\n{}\n```", "", {}}},
        {with(ToolFormat::hermes), "```js", {"```js", "", {}}},
        {with(ToolFormat::hermes),
         "So: {\"name\": \"f\", \"arguments\": {}}",
         {"So: {\"name\": \"f\", \"arguments\": {}}", "", {}}},
        {json_or(ToolFormat::hermes), " {\"a\": \"<tool_call>\"}", {" {\"a\": \"<tool_call>\"}", "", {}}},
        {json_or(ToolFormat::hermes), "\"<tool_call>\"", {"\"<tool_call>\"", "", {}}},
        {json_or(ToolFormat::hermes), "{\"name\": \"f\", \"age\": 5}", {"{\"name\": \"f\", \"age\": 5}", "", {}}},
        {json_or(ToolFormat::hermes), "<tool_call>{\"name\": \"f\"}</tool_call>", {"", "", {{"f", "{}"}}}},
        {json_or(ToolFormat::hermes), "{\"name\": \"f\", \"arguments\": {}}", {"", "", {{"f", "{}"}}}},
        {json_or(ToolFormat::hermes), "{\"name\": \"f\"}", {"{\"name\": \"f\"}", "", {}}},
        {json_or(ToolFormat::llama3),
         "{\"name\": \"f\", \"parameters\": {\"a\": 1}};{\"type\": \"function\", \"name\": \"g\", \"arguments\": {}}",
         {"", "", {{"f", "{\"a\": 1}"}, {"g", "{}"}}}},
        {json_or(ToolFormat::llama3), "{\"name\": \"f\"}", {"{\"name\": \"f\"}", "", {}}},
        {json_or(ToolFormat::llama3),
         "{\"name\": \"f\", \"of\": \"x\", \"parameters\": {}}",
         {"{\"name\": \"f\", \"of\": \"x\", \"parameters\": {}}", "", {}}},
        {json_or(ToolFormat::llama3), "{\"a\": \"<|python_tag|>\"}", {"{\"a\": \"<|python_tag|>\"}", "", {}}},
        {json_or(ToolFormat::json), "[{\"name\": \"f\", \"arguments\": {}}]", {"", "", {{"f", "{}"}}}},
        {json_or(ToolFormat::json), "[{\"rain\": true}, 1]", {"[{\"rain\": true}, 1]", "", {}}},
        {json_or(ToolFormat::mistral), "[\"[TOOL_CALLS]\"]", {"[\"[TOOL_CALLS]\"]", "", {}}},
        {json_or(ToolFormat::mistral), "[TOOL_CALLS]f[ARGS]{}", {"", "", {{"f", "{}"}}}},
        {json_or(ToolFormat::deepseek),
         "{\"a\": \"<｜tool▁calls▁begin｜>\"}",
         {"{\"a\": \"<｜tool▁calls▁begin｜>\"}", "", {}}},
        {with(ToolFormat::json, true), "[{\"name\": \"f\", \"arguments\": {}}, {\"na", {"", "", {{"f", "{}"}}}},
        {with(ToolFormat::llama3), "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", {"", "", {{"f", "{\"a\": 1}"}}}},
        {with(ToolFormat::llama3),
         "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", "
         "\"parameters\": "
         "{}}<|eom_id|>",
         {"", "", {{"f", "{}"}, {"g", "{}"}}}},
        {with(ToolFormat::llama3),
         "{\"name\": \"Lily\", \"parameters\": 3}",
         {"{\"name\": \"Lily\", \"parameters\": 3}", "", {}}},
        {with(ToolFormat::llama3), "{\"a\": 1}", {"{\"a\": 1}", "", {}}},
        {with(ToolFormat::llama3),
         "{\"name\": \"f\", \"parameters\": {\"a\": \"<|python_tag|>\"}}",
         {"", "", {{"f", "{\"a\": \"<|python_tag|>\"}"}}}},
        {with(ToolFormat::json),
         "[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"x\": 1}}]",
         {"", "", {{"f", "{}"}, {"g", "{\"x\": 1}"}}}},
        {with(ToolFormat::json), "[1, 2]", {"[1, 2]", "", {}}},
        {with(ToolFormat::json, true), "[{\"name\": \"h\", \"arguments\": {}}]", {"", "", {{"h", "{}"}}}},
        {with(ToolFormat::mistral),
         "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": [\"]\"]}}]",
         {"", "", {{"f", "{\"a\": [\"]\"]}"}}}},
        {with(ToolFormat::mistral),
         "sure[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
         {"sure", "", {{"f", "{\"a\": 1}"}, {"g", "{}"}}}},
        {with(ToolFormat::deepseek),
         deep_call + "{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         {"", "", {{"f", "{\"a\": 1}"}}}},
        {with(ToolFormat::deepseek),
         "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<"
         "｜tool▁sep｜>{\"b\": "
         "2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         {"", "", {{"f", "{}"}, {"g", "{\"b\": 2}"}}}},
        {reasoning(false), "<think>\nI see </thin.\n</think>\n\nYes.", {"Yes.", "\nI see </thin.\n", {}}},
        {reasoning(false), "Yes <think>.", {"Yes <think>.", "", {}}},
        {reasoning(true), "hm</think>ok", {"ok", "hm", {}}},
        {reasoning(true), "never done", {"", "never done", {}}},
        {reasoning_with(ToolFormat::hermes),
         "<think>f?</think>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
         {"", "f?", {{"f", "{}"}}}},
        {reasoning_with(ToolFormat::hermes),
         "<think>f?</think>\n\n{\"name\": \"f\", \"arguments\": {}}",
         {"", "f?", {{"f", "{}"}}}},
    };
}

}  // namespace

TEST_CASE("calls and reasoning are taken out of an answer however it is cut", "[gateway][openai][property]") {
    for (const Case& one : cases()) {
        CAPTURE(one.text);
        const Read whole = read(one.options, one.text, 0, 100'000);
        CHECK(whole.content == one.expected.content);
        CHECK(whole.reasoning == one.expected.reasoning);
        CHECK(whole.calls == one.expected.calls);
        for (std::uint32_t seed = 0; seed < 30; ++seed) {
            CAPTURE(seed);
            CHECK(read(one.options, one.text, seed, 1 + seed % 7) == one.expected);
        }
    }
}

TEST_CASE("an answer in JSON comes as soon as it is known to be no call", "[gateway][openai]") {
    for (const ToolFormat format : {ToolFormat::llama3, ToolFormat::json, ToolFormat::hermes}) {
        AnswerReader reader(json_or(format));
        CHECK(reader.push("{").empty());
        const auto events = reader.push("\"city\"");
        REQUIRE(events.size() == 1);
        CHECK((events[0].kind == AnswerEvent::Kind::content && events[0].text == "{\"city\""));
    }
}

TEST_CASE("an answer that is noise ends, and is read alike however it is cut", "[gateway][openai][property]") {
    std::vector<std::string> parts{
        "{",  "}", "\"name\"", ":",  "\"f\"",  "\"arguments\"", ",",        "[",       "]",          "\\",
        "\"", "x", " ",        "\n", "[ARGS]", "<think>",       "</think>", "```json", "<tool_call>"};
    for (const ToolFormat format : {ToolFormat::hermes, ToolFormat::llama3, ToolFormat::mistral, ToolFormat::deepseek,
                                    ToolFormat::json, ToolFormat::none}) {
        std::vector<std::string> words = parts;
        for (const std::string& mark : gateway::tool_marks(format)) {
            words.push_back(mark);
        }
        for (std::uint32_t seed = 0; seed < 300; ++seed) {
            std::mt19937 random(seed);
            std::string text;
            for (int i = 0; i < 60; ++i) {
                text += words[random() % words.size()];
            }
            CAPTURE(text, seed);
            AnswerReader::Options options = with(format, seed % 5 == 0);
            options.reasons = seed % 3 == 0;
            options.tools->answers_in_json = seed % 7 == 0 && !options.tools->is_begun;
            const Read whole = read(options, text, seed, 100'000);
            const Read pieces = read(options, text, seed, 3);
            CHECK(whole.calls.size() == pieces.calls.size());
            for (const Call& call : whole.calls) {
                CHECK(!call.name.empty());
            }
        }
    }
}
