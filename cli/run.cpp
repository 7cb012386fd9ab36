#include "cli/run.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
#include <cstdio>
#include <functional>
#include <iostream>
#include <utility>

#include "base/log.h"
#include "bench/openai_wire.h"
#include "bench/sse_parser.h"

namespace cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace json = boost::json;

using base::ErrorCode;

/// The text in one event of a stream; empty when it has none.
std::string text_of_event(const json::value& event) {
    boost::system::error_code none;
    for (const char* place : {"/choices/0/delta/content", "/choices/0/text"}) {
        const json::value* text = event.find_pointer(place, none);
        if (text != nullptr && text->is_string()) { return std::string(text->get_string()); }
    }
    return {};
}

/// Posts one streaming request to loopback and hands the text on as it comes. Returns the whole text.
base::Result<std::string> stream_text(std::uint16_t port, const std::string& target, const json::object& body,
                                      const std::function<void(std::string_view)>& on_text) {
    beast::error_code error;
    asio::io_context io;
    asio::ip::tcp::socket socket(io);
    socket.connect({asio::ip::make_address("127.0.0.1"), port}, error);
    if (error) { return base::fail(ErrorCode::unavailable, "cannot reach the gateway: " + error.message()); }
    http::request<http::string_body> request{http::verb::post, target, 11};
    request.set(http::field::host, "127.0.0.1");
    request.set(http::field::content_type, "application/json");
    request.body() = json::serialize(body);
    request.prepare_payload();
    http::write(socket, request, error);
    if (error) { return base::fail(ErrorCode::unavailable, "the gateway does not read: " + error.message()); }

    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    http::read_header(socket, buffer, parser, error);
    bench::SseParser events;
    std::string whole;
    std::string plain;  // of an answer that is no stream: an error
    const bool is_stream = parser.get().result() == http::status::ok;
    char chunk[4096];
    while (!error && !parser.is_done()) {
        parser.get().body().data = chunk;
        parser.get().body().size = sizeof chunk;
        http::read(socket, buffer, parser, error);
        if (error == http::error::need_buffer) { error = {}; }
        const std::string_view bytes(chunk, sizeof chunk - parser.get().body().size);
        if (!is_stream) {
            plain += bytes;
            continue;
        }
        const auto complete = events.feed(bytes);
        if (!complete) { return base::pass_on(complete); }
        for (const std::string& data : *complete) {
            if (data == "[DONE]") { continue; }
            boost::system::error_code broken;
            const json::value event = json::parse(data, broken);
            if (broken) { return base::fail(ErrorCode::data_loss, "an event of the stream is not JSON"); }
            if (event.as_object().contains("error")) {
                return base::fail(ErrorCode::internal, bench::error_message_of(data));
            }
            const std::string text = text_of_event(event);
            whole += text;
            on_text(text);
        }
    }
    if (error) { return base::fail(ErrorCode::unavailable, "the stream broke: " + error.message()); }
    if (!is_stream) { return base::fail(ErrorCode::invalid_argument, bench::error_message_of(plain)); }
    return whole;
}

void print_text(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

json::object request_form(const RunOptions& options, const std::string& model) {
    json::object body;
    body["model"] = model;
    body["stream"] = true;
    body["max_tokens"] = options.max_tokens;
    body["temperature"] = options.temperature;
    body["seed"] = options.seed;
    return body;
}

base::Result<void> continue_prompt(const RunOptions& options, const LocalStack& stack) {
    json::object body = request_form(options, stack.served_name());
    body["prompt"] = options.prompt;
    print_text(options.prompt);
    const auto text = stream_text(stack.port(), "/v1/completions", body, print_text);
    print_text("\n");
    if (!text) { return base::pass_on(text); }
    return {};
}

base::Result<void> chat(const RunOptions& options, const LocalStack& stack) {
    json::array messages;
    if (!options.system_message.empty()) {
        messages.push_back({{"role", "system"}, {"content", options.system_message}});
    }
    std::fprintf(stderr, "chat with %s; an empty line or the end of input ends it\n", stack.served_name().c_str());
    for (std::string line; std::fputs("> ", stderr), std::getline(std::cin, line) && !line.empty();) {
        messages.push_back({{"role", "user"}, {"content", line}});
        json::object body = request_form(options, stack.served_name());
        body["messages"] = messages;
        const auto text = stream_text(stack.port(), "/v1/chat/completions", body, print_text);
        print_text("\n");
        if (!text) {
            std::fprintf(stderr, "sluice: %s\n", text.error().message.c_str());
            messages.pop_back();
            continue;
        }
        messages.push_back({{"role", "assistant"}, {"content", *text}});
    }
    return {};
}

}  // namespace

void add_run(CLI::App& app, RunOptions& options) {
    app.add_option("prompt", options.prompt, "text to continue; without one: a chat");
    // One value: a list would take the prompt behind it too.
    app.add_option_function<std::string>(
        "--model", [&options](const std::string& model) { options.serve.models = {model}; }, kChatModelHelp);
    app.add_option("--system", options.system_message, "system message of the chat");
    app.add_option("--max-tokens", options.max_tokens, "tokens of an answer at most")->capture_default_str();
    app.add_option("--temperature", options.temperature, "0: always the likeliest token")->capture_default_str();
    app.add_option("--seed", options.seed, "of the random choices")->capture_default_str();
    app.add_option("--threads", options.serve.threads, "compute threads; 0: the machine's cores")
        ->capture_default_str();
    add_common_flags(app, options.serve.common);
    options.serve.common.log_level = "warn";
}

int run_main(RunOptions options) {
    unblock_signals();  // Ctrl-C ends it at once: nobody else is served
    options.serve.port = 0;
    options.serve.prefill = 0;
    options.serve.decode = 0;
    options.serve.mixed = 1;
    base::init_log({.role = "run", .level = options.serve.common.log_level});
    auto stack = LocalStack::start(options.serve);
    if (!stack) { return report(stack.error()); }
    if (!(*stack)->wait_until_ready(std::chrono::seconds(30))) {
        return report({ErrorCode::unavailable, "the worker did not register within 30 s"});
    }
    const auto done = options.prompt.empty() ? chat(options, **stack) : continue_prompt(options, **stack);
    return done ? 0 : report(done.error());
}

}  // namespace cli
