#include "cli/smoke.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <utility>
#include <vector>

#include "bench/load_generator.h"
#include "bench/openai_wire.h"
#include "cli/process.h"

namespace cli {

namespace json = boost::json;

namespace {

constexpr std::string_view kNotJson = "the answer is no object of JSON";

/// `body` as an object; empty: it is none.
std::optional<json::object> object_in(std::string_view body) {
    boost::system::error_code error;
    json::value value = json::parse(body, error);
    if (error || !value.is_object()) { return std::nullopt; }
    return std::move(value.get_object());
}

/// The first element of the array `name`, where that is an object.
const json::object* first_of(const json::object& object, std::string_view name) {
    const json::value* list = object.if_contains(name);
    if (list == nullptr || !list->is_array() || list->get_array().empty()) { return nullptr; }
    return list->get_array().front().if_object();
}

const json::object* object_at(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value == nullptr ? nullptr : value->if_object();
}

struct Look {
    std::string name;
    bool is_ok = false;
    std::string says;
};

/// The looks, one after the other, at one gateway.
class Smoke {
public:
    Smoke(const SmokeCommand& command, bench::Target target)
        : command_(command), api_(std::move(target)), root_(api_), timeout_(command.timeout_s) {
        root_.base_path.clear();
    }

    std::vector<Look> run() {
        plain("live", "/live");
        plain("ready", "/health");
        models();
        if (!model_.empty()) {
            post("chat", "/chat/completions", chat(false), chat_problem);
            post("stream", "/chat/completions", chat(true), stream_problem);
        }
        if (!command_.encoder.empty()) {
            post("embeddings", "/embeddings", json::object{{"model", command_.encoder}, {"input", "Hi!"}},
                 embedding_problem);
        }
        metrics();
        return std::move(looks_);
    }

private:
    void add(std::string name, const std::optional<std::string>& problem, std::string says) {
        looks_.push_back({std::move(name), !problem, problem ? *problem : std::move(says)});
    }
    /// What is wrong where an answer with status 200 was wanted.
    static std::optional<std::string> failure_of(const base::Result<bench::HttpAnswer>& answer) {
        if (!answer) { return answer.error().message; }
        if (answer->status != 200) {
            return fmt::format("{}: {}", answer->status, bench::error_message_of(answer->body));
        }
        return std::nullopt;
    }
    void plain(std::string name, std::string_view path) {
        add(std::move(name), failure_of(bench::http_get(root_, path, timeout_)), std::string(path));
    }
    void models() {
        const auto answer = bench::http_get(api_, "/models", timeout_);
        std::optional<std::string> problem = failure_of(answer);
        if (!problem) { problem = models_problem(answer->body, command_.model); }
        if (!problem && !command_.encoder.empty()) { problem = models_problem(answer->body, command_.encoder); }
        if (!problem) {
            const auto first = bench::first_model_of(answer->body);
            model_ = command_.model.empty() && first ? *first : command_.model;
        }
        add("models", problem, model_);
    }
    json::object chat(bool streams) const {
        json::object body{{"model", model_},
                          {"messages", json::array{json::object{{"role", "user"}, {"content", "Hi!"}}}},
                          {"max_tokens", 8},
                          {"temperature", 0},
                          {"stream", streams}};
        if (streams) { body["stream_options"] = json::object{{"include_usage", true}}; }
        return body;
    }
    template <class Problem>
    void post(std::string name, std::string_view path, const json::object& body, Problem problem_of) {
        const auto answer = bench::http_post(api_, path, json::serialize(body), timeout_);
        std::optional<std::string> problem = failure_of(answer);
        if (!problem) { problem = problem_of(answer->body); }
        add(std::move(name), problem, api_.base_path + std::string(path));
    }
    void metrics() {
        const auto answer = bench::http_get(root_, "/metrics", timeout_);
        if (answer && (answer->status == 401 || answer->status == 403)) {
            return add("metrics", std::nullopt, "not looked at: they need an API key of scope admin");
        }
        std::optional<std::string> problem = failure_of(answer);
        if (!problem && answer->body.find("\nsluice_gateway_requests_total{") == std::string::npos) {
            problem = "no sluice_gateway_requests_total, although requests were sent: is this a gateway of Sluice?";
        }
        add("metrics", problem, "/metrics");
    }

    const SmokeCommand& command_;
    const bench::Target api_;
    bench::Target root_;
    const bench::Seconds timeout_;
    std::string model_;
    std::vector<Look> looks_;
};

}  // namespace

std::optional<std::string> chat_problem(std::string_view body) {
    const auto answer = object_in(body);
    if (!answer) { return std::string(kNotJson); }
    const json::object* choice = first_of(*answer, "choices");
    if (choice == nullptr) { return "the answer has no choices"; }
    const json::object* message = object_at(*choice, "message");
    const json::value* content = message == nullptr ? nullptr : message->if_contains("content");
    if (content == nullptr || !content->is_string()) { return "the choice has no text"; }
    const json::value* finish = choice->if_contains("finish_reason");
    if (finish == nullptr || !finish->is_string()) { return "the choice does not say why it ended"; }
    const json::object* usage = object_at(*answer, "usage");
    const json::value* tokens = usage == nullptr ? nullptr : usage->if_contains("completion_tokens");
    if (tokens == nullptr || !tokens->is_int64() || tokens->get_int64() <= 0) { return "usage counts no tokens"; }
    return std::nullopt;
}

std::optional<std::string> stream_problem(std::string_view body) {
    bool has_finish = false;
    bool has_usage = false;
    while (!body.empty()) {
        const std::size_t end = std::min(body.find('\n'), body.size());
        const std::string_view line = body.substr(0, end);
        body.remove_prefix(std::min(end + 1, body.size()));
        if (!line.starts_with("data: ")) { continue; }
        const auto event = bench::parse_stream_event(line.substr(6));
        if (!event) { return event.error().message; }
        if (event->error) { return "the stream ended with an error: " + *event->error; }
        if (event->is_done) {
            if (!has_finish) { return "the stream does not say why it ended"; }
            if (!has_usage) { return "the stream has no usage, although it was asked for"; }
            return std::nullopt;
        }
        has_finish = has_finish || event->is_finish;
        has_usage = has_usage || (event->usage && event->usage->output_tokens > 0);
    }
    return "the stream does not end with [DONE]";
}

std::optional<std::string> embedding_problem(std::string_view body) {
    const auto answer = object_in(body);
    if (!answer) { return std::string(kNotJson); }
    const json::object* first = first_of(*answer, "data");
    const json::value* vector = first == nullptr ? nullptr : first->if_contains("embedding");
    if (vector == nullptr || !vector->is_array() || vector->get_array().empty()) { return "the answer has no vector"; }
    return std::nullopt;
}

std::optional<std::string> models_problem(std::string_view body, std::string_view model) {
    const auto answer = object_in(body);
    if (!answer) { return std::string(kNotJson); }
    const json::value* list = answer->if_contains("data");
    if (list == nullptr || !list->is_array()) { return "the answer lists no models"; }
    std::string known;
    for (const json::value& one : list->get_array()) {
        const json::value* id = one.is_object() ? one.get_object().if_contains("id") : nullptr;
        if (id == nullptr || !id->is_string()) { continue; }
        const std::string_view name(id->get_string());
        if (model.empty() || name == model) { return std::nullopt; }
        known += (known.empty() ? "" : ", ") + std::string(name);
    }
    if (model.empty()) { return "the answer lists no models"; }
    return fmt::format("{} is not among the models that are served: {}", model, known.empty() ? "none" : known);
}

void add_smoke(CLI::App& app, SmokeCommand& command) {
    app.add_option("--url", command.url, "of the gateway")->capture_default_str();
    app.add_option("--api-key", command.api_key,
                   "where the gateway has keys; of scope admin for its metrics; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
    app.add_option("--model", command.model, "that must be served, and is asked; default: the first that is");
    app.add_option("--encoder", command.encoder, "that must be served, and is asked for a vector; default: none");
    app.add_option("--timeout-s", command.timeout_s, "for each answer")
        ->check(CLI::Range(1, 3600))
        ->capture_default_str();
    app.add_flag("--json", command.json, "as JSON");
}

int smoke_main(const SmokeCommand& command) {
    auto target = bench::parse_url(command.url);
    if (!target) { return report(target.error()); }
    target->api_key = command.api_key;
    const std::vector<Look> looks = Smoke(command, std::move(*target)).run();
    const bool is_ok = std::all_of(looks.begin(), looks.end(), [](const Look& look) { return look.is_ok; });
    if (command.json) {
        json::array all;
        for (const Look& look : looks) {
            all.push_back(json::object{{"look", look.name}, {"ok", look.is_ok}, {"says", look.says}});
        }
        std::printf("%s\n", json::serialize(json::object{{"ok", is_ok}, {"looks", std::move(all)}}).c_str());
        return is_ok ? 0 : 1;
    }
    for (const Look& look : looks) {
        std::printf("%-4s %-10s %s\n", look.is_ok ? "ok" : "FAIL", look.name.c_str(), look.says.c_str());
    }
    return is_ok ? 0 : 1;
}

}  // namespace cli
