#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/anthropic/messages_answer.h"
#include "gateway/openai/responses_answer.h"
#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using gateway::AnswerEvent;
using Kind = gateway::AnswerEvent::Kind;

gateway::AnswerHeader header(gateway::Endpoint endpoint) {
    gateway::AnswerHeader result;
    result.endpoint = endpoint;
    result.id = std::string(gateway::form_of(endpoint).id_prefix) + "drawn";
    result.created = 7;
    result.model = "m";
    return result;
}

gateway::GenerationEnd ending(gateway::EndReason reason) {
    gateway::GenerationEnd end;
    end.reason = reason;
    return end;
}

const gateway::Usage kUsage{.prompt_tokens = 10, .cached_tokens = 4, .completion_tokens = 3};

/// Reasoning, a text and two calls, in pieces.
const std::vector<AnswerEvent> kParts = {
    {Kind::reasoning, "let ", 0},   {Kind::reasoning, "me", 0},         {Kind::content, "a", 0},
    {Kind::content, "", 0},         {Kind::content, "\xe2\x80\xa8", 0}, {Kind::call, "f", 0},
    {Kind::arguments, "{\"x\"", 0}, {Kind::arguments, ":1}", 0},        {Kind::call, "g", 1},
    {Kind::arguments, "{}", 1}};

std::string run(gateway::ItemAnswer& answer, bool streams, gateway::EndReason reason = gateway::EndReason::stop) {
    std::string events = streams ? answer.open(kUsage) : std::string();
    for (const AnswerEvent& part : kParts) {
        events += answer.push(part, part.kind == Kind::call ? "call_" + std::to_string(part.index) : std::string());
    }
    return streams ? events + answer.close(ending(reason), kUsage) : answer.whole(ending(reason), kUsage);
}

/// The objects of a stream; each event's name is its type.
std::vector<json::object> parsed(std::string_view stream) {
    std::vector<json::object> events;
    while (!stream.empty()) {
        const auto end = stream.find("\n\n");
        REQUIRE(end != std::string_view::npos);
        const std::string_view event = stream.substr(0, end);
        stream.remove_prefix(end + 2);
        REQUIRE(event.starts_with("event: "));
        const auto line = event.find("\ndata: ");
        REQUIRE(event.find('\n', line + 1) == std::string_view::npos);
        events.push_back(json::parse(event.substr(line + 7)).as_object());
        REQUIRE(events.back().at("type").as_string() == event.substr(7, line - 7));
    }
    return events;
}

std::vector<std::string> types_of(const std::vector<json::object>& events) {
    std::vector<std::string> types;
    for (const json::object& event : events) {
        types.emplace_back(event.at("type").as_string().c_str());
    }
    return types;
}

}  // namespace

TEST_CASE("a response is built up by events in OpenAI's order", "[gateway][responses]") {
    gateway::ResponsesAnswer answer(header(gateway::Endpoint::responses), R"("tools":[],"metadata":{})", true);
    const auto events = parsed(run(answer, true));
    REQUIRE(types_of(events) == std::vector<std::string>{"response.created",
                                                         "response.in_progress",  //
                                                         "response.output_item.added",
                                                         "response.content_part.added",  // reasoning
                                                         "response.reasoning_text.delta",
                                                         "response.reasoning_text.delta",  //
                                                         "response.reasoning_text.done",
                                                         "response.content_part.done",
                                                         "response.output_item.done",  //
                                                         "response.output_item.added",
                                                         "response.content_part.added",  // message
                                                         "response.output_text.delta",
                                                         "response.output_text.delta",  //
                                                         "response.output_text.done",
                                                         "response.content_part.done",
                                                         "response.output_item.done",  //
                                                         "response.output_item.added",
                                                         "response.function_call_arguments.delta",  // f
                                                         "response.function_call_arguments.delta",
                                                         "response.function_call_arguments.done",  //
                                                         "response.output_item.done",              //
                                                         "response.output_item.added",
                                                         "response.function_call_arguments.delta",  // g
                                                         "response.function_call_arguments.done",
                                                         "response.output_item.done",
                                                         "response.completed"});
    for (std::size_t index = 0; index < events.size(); ++index) {
        REQUIRE(events[index].at("sequence_number") == index);
    }
    REQUIRE(events[4].at("output_index") == 0);
    REQUIRE(events[12].at("output_index") == 1);
    REQUIRE(events[12].at("item_id") == events[9].at("item").at("id"));
    REQUIRE(events[19].at("arguments") == R"({"x":1})");
    const json::object& last = events.back().at("response").as_object();
    REQUIRE(last.at("status") == "completed");
    REQUIRE(last.at("usage").at("input_tokens_details").at("cached_tokens") == 4);
    REQUIRE(last.at("usage").at("total_tokens") == 13);
    const json::array& output = last.at("output").as_array();
    REQUIRE(output.size() == 4u);
    REQUIRE(output[0].at("content").at(0).at("text") == "let me");
    REQUIRE(output[1].at("content").at(0).at("text") == "a\xe2\x80\xa8");
    REQUIRE(output[3].at("call_id") == "call_1");

    gateway::ResponsesAnswer whole(header(gateway::Endpoint::responses), R"("tools":[],"metadata":{})", false);
    REQUIRE(json::parse(run(whole, false)).as_object() == last);
}

TEST_CASE("a call of a tool that takes a text has that text, whole and as events", "[gateway][responses]") {
    const std::string shown = R"("tools":[{"type":"custom","name":"say"},{"type":"namespace","name":"n",)"
                              R"("tools":[{"type":"custom","name":"say"},{"type":"function","name":"f"}]}])";
    const std::vector<AnswerEvent> parts = {{Kind::call, "say", 0},
                                            {Kind::arguments, R"({"input": "a\)", 0},
                                            {Kind::arguments, R"("b\n"})", 0},
                                            {Kind::call, "n__say", 1},
                                            {Kind::arguments, R"({"input":""})", 1},
                                            {Kind::call, "n__f", 2},
                                            {Kind::arguments, "{}", 2},
                                            {Kind::call, "say", 3},
                                            {Kind::arguments, R"({"input":"cut)", 3}};
    const auto run_parts = [&](gateway::ResponsesAnswer& answer) {
        std::string events;
        for (const AnswerEvent& part : parts) {
            events += answer.push(part, part.kind == Kind::call ? "call_" + std::to_string(part.index) : std::string());
        }
        return events;
    };
    gateway::ResponsesAnswer streamed(header(gateway::Endpoint::responses), shown, true);
    std::string stream = run_parts(streamed);
    stream += streamed.close(ending(gateway::EndReason::length), kUsage);
    const auto events = parsed(stream);
    const std::vector<std::string> custom{"response.output_item.added", "response.custom_tool_call_input.delta",
                                          "response.custom_tool_call_input.done", "response.output_item.done"};
    const auto types = types_of(events);
    REQUIRE(std::vector<std::string>(types.begin(), types.begin() + 4) == custom);
    REQUIRE(events[0].at("item").at("type") == "custom_tool_call");
    REQUIRE(events[0].at("item").at("input") == "");
    REQUIRE(events[1].at("delta") == "a\"b\n");
    REQUIRE(events[2].at("input") == "a\"b\n");
    REQUIRE(events[2].at("item_id") == events[0].at("item").at("id"));
    const json::array& output = events.back().at("response").at("output").as_array();
    REQUIRE(output.at(0).at("input") == "a\"b\n");
    REQUIRE(output.at(0).at("call_id") == "call_0");
    REQUIRE(output.at(0).at("name") == "say");
    REQUIRE(output.at(0).as_object().if_contains("arguments") == nullptr);
    REQUIRE(output.at(1).at("namespace") == "n");
    REQUIRE(output.at(1).at("type") == "custom_tool_call");
    REQUIRE(output.at(2).at("type") == "function_call");
    REQUIRE(output.at(2).at("arguments") == "{}");
    REQUIRE(output.at(3).at("input") == "");  // what was cut off before it was whole
    REQUIRE(output.at(3).at("status") == "incomplete");

    gateway::ResponsesAnswer whole(header(gateway::Endpoint::responses), shown, false);
    run_parts(whole);
    REQUIRE(json::parse(whole.whole(ending(gateway::EndReason::length), kUsage)).at("output").as_array() == output);
}

TEST_CASE("a response that is cut off or fails says so", "[gateway][responses]") {
    gateway::ResponsesAnswer cut(header(gateway::Endpoint::responses), "", false);
    const json::value whole = json::parse(cut.whole(ending(gateway::EndReason::length), kUsage));
    REQUIRE(whole.at("status") == "incomplete");
    REQUIRE(whole.at("incomplete_details").at("reason") == "max_output_tokens");
    REQUIRE(whole.at("output").at(0).at("status") == "incomplete");  // an empty message

    gateway::ApiError error{.status = 503, .message = "gone"};
    gateway::ResponsesAnswer failed(header(gateway::Endpoint::responses), "", true);
    failed.open(kUsage);
    failed.push({Kind::content, "a", 0}, "");
    const auto events = parsed(failed.failed(error, kUsage, true));
    REQUIRE(types_of(events).back() == "response.failed");
    REQUIRE(events.back().at("response").at("error").at("message") == "gone");
    REQUIRE(events.back().at("response").at("status") == "failed");
    gateway::ResponsesAnswer early(header(gateway::Endpoint::responses), "", true);
    REQUIRE(types_of(parsed(early.failed(error, kUsage, false))) == std::vector<std::string>{"error"});
}

TEST_CASE("a message is built up by events in Anthropic's order", "[gateway][messages]") {
    gateway::MessagesAnswer answer(header(gateway::Endpoint::messages), true);
    const auto events = parsed(run(answer, true));
    REQUIRE(types_of(events) ==
            std::vector<std::string>{"message_start",                                                      //
                                     "content_block_start", "content_block_delta", "content_block_delta",  //
                                     "content_block_delta", "content_block_stop",                          // thinking
                                     "content_block_start", "content_block_delta", "content_block_delta",  //
                                     "content_block_stop",                                                 // text
                                     "content_block_start", "content_block_delta", "content_block_delta",  //
                                     "content_block_stop",                                                 // f
                                     "content_block_start", "content_block_delta", "content_block_stop",   // g
                                     "message_delta", "message_stop"});
    REQUIRE(events[0].at("message").at("usage").at("input_tokens") == 10);
    REQUIRE(events[2].at("delta").at("thinking") == "let ");
    REQUIRE(events[1].at("content_block").at("signature") == "");
    REQUIRE(events[4].at("delta") == json::parse(R"({"type":"signature_delta","signature":"msg_drawn"})"));
    REQUIRE(events[7].at("delta").at("text") == "a");
    REQUIRE(events[10].at("content_block").at("input").as_object().empty());
    REQUIRE(events[11].at("delta").at("partial_json") == "{\"x\"");
    REQUIRE(events[16].at("index") == 3);
    REQUIRE(events[17].at("delta").at("stop_reason") == "tool_use");
    REQUIRE(events[17].at("usage").at("input_tokens") == 6);
    REQUIRE(events[17].at("usage").at("cache_read_input_tokens") == 4);

    gateway::MessagesAnswer whole(header(gateway::Endpoint::messages), false);
    const json::value message = json::parse(run(whole, false, gateway::EndReason::length));
    REQUIRE(message.at("stop_reason") == "max_tokens");
    REQUIRE(message.at("content").as_array().size() == 4u);
    REQUIRE(message.at("content").at(2).at("input").at("x") == 1);
    REQUIRE(message.at("content").at(0).at("thinking") == "let me");
    REQUIRE(message.at("content").at(0).at("signature") == "msg_drawn");
}

TEST_CASE("why a message ended", "[gateway][messages]") {
    const auto reason = [](gateway::GenerationEnd end, const std::string& arguments = "") {
        gateway::MessagesAnswer answer(header(gateway::Endpoint::messages), false);
        if (!arguments.empty()) {
            answer.push({Kind::call, "f", 0}, "c");
            answer.push({Kind::arguments, arguments, 0}, "");
        }
        return json::parse(answer.whole(end, kUsage));
    };
    REQUIRE(reason(ending(gateway::EndReason::stop)).at("stop_reason") == "end_turn");
    gateway::GenerationEnd at_text = ending(gateway::EndReason::stop);
    at_text.stop_string = "END";
    REQUIRE(reason(at_text).at("stop_reason") == "stop_sequence");
    REQUIRE(reason(at_text).at("stop_sequence") == "END");
    REQUIRE(reason(at_text, "{}").at("stop_reason") == "tool_use");
    REQUIRE(reason(at_text, "{}").at("stop_sequence").is_null());
    // Cut off before it was an object.
    REQUIRE(reason(ending(gateway::EndReason::length), "{\"x\":").at("content").at(0).at("input").as_object().empty());
    gateway::MessagesAnswer failed(header(gateway::Endpoint::messages), true);
    gateway::ApiError error{.status = 503, .message = "gone"};
    REQUIRE(
        failed.failed(error, kUsage, true) ==
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"gone\"}}\n\n");
    REQUIRE(parsed(failed.ping()).front().at("type") == "ping");
}
