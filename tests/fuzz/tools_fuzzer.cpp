// Answers that hold calls and reasoning, and grammars of tools. The first byte says the format and what is read, the
// second how the text is cut; then a body with tools up to the first zero byte, then the text. However a text is cut,
// it is read as the same parts, and no mark gets through.
#include <algorithm>
#include <boost/json.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/answer_reader.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/tool_form.h"
#include "tests/fuzz/no_text.h"

namespace {

using Kind = gateway::AnswerEvent::Kind;

/// What a client has in the end.
struct Read {
    std::string content;
    std::string reasoning;
    std::vector<std::pair<std::string, std::string>> calls;
    bool operator==(const Read&) const = default;
};

void take(const std::vector<gateway::AnswerEvent>& events, Read& read) {
    for (const gateway::AnswerEvent& event : events) {
        switch (event.kind) {
            case Kind::content:
                read.content += event.text;
                break;
            case Kind::reasoning:
                read.reasoning += event.text;
                break;
            case Kind::call:
                if (event.index != read.calls.size() || event.text.empty()) { std::abort(); }
                read.calls.emplace_back(event.text, "");
                break;
            case Kind::arguments:
                if (read.calls.empty() || event.index + 1 != read.calls.size()) { std::abort(); }
                read.calls.back().second += event.text;
                break;
        }
    }
}

Read read_in_pieces(const gateway::AnswerReader::Options& options, std::string_view text, std::size_t piece) {
    gateway::AnswerReader reader(options);
    Read read;
    for (std::size_t at = 0; at < text.size(); at += piece) {
        take(reader.push(text.substr(at, piece)), read);
    }
    take(reader.finish(), read);
    if (reader.calls() != read.calls.size() || read.calls.size() > gateway::ToolStream::kCallsMax) { std::abort(); }
    return read;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) { return 0; }
    std::string_view rest(reinterpret_cast<const char*>(data) + 2, size - 2);
    const std::size_t split = rest.find('\0');
    const std::string_view text = split == std::string_view::npos ? std::string_view() : rest.substr(split + 1);
    const auto format = static_cast<gateway::ToolFormat>(data[0] % 6);

    gateway::AnswerReader::Options options{.reasons = (data[0] / 6 & 1) != 0,
                                           .begins_reasoning = (data[0] / 12 & 1) != 0};
    options.tools = gateway::ToolStream::Options{
        .format = format, .names = {"f", "get_weather"}, .answers_in_json = (data[0] / 24 & 1) != 0};
    const auto body = gateway::parse_body(rest.substr(0, split));
    const auto form = body ? gateway::read_form(gateway::Endpoint::chat, *body, {}, fuzz::models())
                           : gateway::ApiResult<gateway::RequestForm>(gateway::bad_request("", "no body"));
    if (form && !form->tools.tools.empty()) {
        for (const auto& tool : form->tools.tools) {
            options.tools->names.push_back(tool.name);
        }
        gateway::ToolsForm tools = form->tools;
        const auto is_written = [](const sluice::proto::Grammar& grammar) {
            const std::string rules = "\n" + grammar.text();  // settings of the grammar may stand before its rules
            return grammar.kind() == sluice::proto::Grammar::KIND_LARK && rules.find("\nstart: ") != std::string::npos;
        };
        if (!is_written(gateway::open_grammar(tools, format, {})) ||
            !is_written(gateway::open_grammar(tools, format, {}, R"({"type":"object"})")) ||
            !is_written(gateway::call_grammar(tools, format))) {
            std::abort();
        }
    }
    const Read whole = read_in_pieces(options, text, std::max<std::size_t>(text.size(), 1));
    if (read_in_pieces(options, text, data[1] % 32 + 1u) != whole) { std::abort(); }
    return 0;
}
