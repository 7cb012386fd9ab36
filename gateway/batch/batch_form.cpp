#include "gateway/batch/batch_form.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <charconv>
#include <unordered_set>

#include "gateway/openai/fields.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kNameBytesMax = 512;
constexpr std::size_t kPairsMax = 16;
constexpr std::size_t kKeyBytesMax = 64;
constexpr std::size_t kCustomIdBytesMax = 512;
constexpr std::int64_t kWindowHoursMax = 7 * 24;

struct OfBatches {
    std::string_view path;
    Endpoint endpoint;
};
constexpr std::array<OfBatches, 4> kOfBatches = {{{"/v1/chat/completions", Endpoint::chat},
                                                  {"/v1/completions", Endpoint::completions},
                                                  {"/v1/embeddings", Endpoint::embeddings},
                                                  {"/v1/responses", Endpoint::responses}}};

constexpr std::array<std::string_view, 8> kStatusNames = {"validating", "in_progress", "finalizing", "completed",
                                                          "failed",     "expired",     "cancelling", "cancelled"};

/// "24h" or "3d" in seconds; 0 where it is neither.
std::int64_t window_seconds(std::string_view text) {
    if (text.size() < 2) { return 0; }
    std::int64_t count = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size() - 1, count);
    if (error != std::errc() || at != text.data() + text.size() - 1 || count < 1 || count > kWindowHoursMax) {
        return 0;
    }
    const std::int64_t hours = text.back() == 'h' ? count : text.back() == 'd' ? count * 24 : 0;
    return hours <= kWindowHoursMax ? hours * 3600 : 0;
}

/// What is wrong with a line, or its custom_id.
tl::expected<std::string, BatchProblem> read_line(std::string_view line, std::string_view endpoint) {
    const auto wrong = [](std::string code, std::string message, std::string param) {
        return tl::unexpected(
            BatchProblem{.code = std::move(code), .message = std::move(message), .param = std::move(param)});
    };
    const auto parsed = parse_body(line);
    if (!parsed) { return wrong("invalid_json_line", parsed.error().message, ""); }
    Fields fields(*parsed);
    const auto custom_id = fields.string("custom_id", kCustomIdBytesMax);
    const auto method = fields.string("method", kNameBytesMax);
    const auto url = fields.string("url", kNameBytesMax);
    const json::object* body = fields.object("body");
    if (fields.error()) {
        return wrong("invalid_request", fields.error()->message, fields.error()->param.value_or(""));
    }
    if (!custom_id || custom_id->empty()) {
        return wrong("missing_required_parameter", "custom_id is missing", "custom_id");
    }
    if (method != "POST") { return wrong("invalid_method", "method must be POST", "method"); }
    if (url != endpoint) {
        return wrong("mismatched_url", "url must be the batch's endpoint, " + std::string(endpoint), "url");
    }
    if (body == nullptr) { return wrong("missing_required_parameter", "body is missing", "body"); }
    const json::value* stream = body->if_contains("stream");
    if (stream != nullptr && !stream->is_null() && *stream != json::value(false)) {
        return wrong("unsupported_parameter", "answers of a batch cannot be streamed", "body.stream");
    }
    if (const json::value* slo = body->if_contains("slo"); slo != nullptr && !slo->is_null()) {
        return wrong("unsupported_parameter", "requests of a batch have no latency targets", "body.slo");
    }
    return *custom_id;
}

void write_time(JsonWriter& json, std::string_view name, std::int64_t at) {
    json.key(name);
    at == 0 ? json.null() : json.integer(at);
}

void write_text(JsonWriter& json, std::string_view name, std::string_view text) {
    json.key(name);
    text.empty() ? json.null() : json.string(text);
}

}  // namespace

std::optional<Endpoint> batch_endpoint(std::string_view path) {
    const auto at =
        std::find_if(kOfBatches.begin(), kOfBatches.end(), [&](const OfBatches& one) { return one.path == path; });
    return at == kOfBatches.end() ? std::nullopt : std::optional(at->endpoint);
}

std::string_view name_of(BatchStatus status) {
    return kStatusNames[static_cast<std::size_t>(status)];
}

std::optional<BatchStatus> batch_status(std::string_view name) {
    const auto at = std::find(kStatusNames.begin(), kStatusNames.end(), name);
    if (at == kStatusNames.end()) { return std::nullopt; }
    return static_cast<BatchStatus>(at - kStatusNames.begin());
}

ApiResult<BatchForm> read_batch_form(std::string_view body) {
    const auto parsed = parse_body(body);
    if (!parsed) { return pass_on(parsed.error()); }
    Fields fields(*parsed);
    BatchForm form;
    form.input_file = fields.string("input_file_id", kNameBytesMax).value_or("");
    form.endpoint = fields.string("endpoint", kNameBytesMax).value_or("");
    form.window = fields.string("completion_window", kNameBytesMax).value_or("24h");
    const json::object* metadata = fields.object("metadata");
    if (fields.error()) { return pass_on(*fields.error()); }
    if (form.input_file.empty()) { return bad_request("input_file_id", "input_file_id is missing"); }
    if (!batch_endpoint(form.endpoint)) {
        std::string known;
        for (const OfBatches& one : kOfBatches) {
            known += (known.empty() ? "" : ", ") + std::string(one.path);
        }
        return bad_request("endpoint", "endpoint must be one of " + known);
    }
    form.window_s = window_seconds(form.window);
    if (form.window_s == 0) {
        return bad_request("completion_window", "completion_window must be 1h to 168h, or 1d to 7d");
    }
    if (metadata == nullptr) { return form; }
    if (metadata->size() > kPairsMax) { return bad_request("metadata", "metadata may have 16 pairs"); }
    for (const auto& [key, value] : *metadata) {
        if (key.size() > kKeyBytesMax || !value.is_string() || value.get_string().size() > kNameBytesMax) {
            return bad_request("metadata",
                               "keys of metadata may have 64 characters, and its values are strings of up to 512");
        }
    }
    form.metadata = json::serialize(*metadata);
    return form;
}

BatchInput read_batch_input(std::string_view content, std::string_view endpoint, std::size_t requests_max) {
    BatchInput input;
    std::unordered_set<std::string> ids;
    const auto problem = [&input](BatchProblem one, std::int64_t line) {
        one.line = line;
        if (input.problems.size() < kBatchProblemsMax) { input.problems.push_back(std::move(one)); }
    };
    std::int64_t number = 0;
    for (std::size_t at = 0; at < content.size();) {
        const std::size_t end = std::min(content.find('\n', at), content.size());
        std::string_view line = content.substr(at, end - at);
        ++number;
        if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
            auto custom_id = read_line(line, endpoint);
            if (!custom_id) {
                problem(std::move(custom_id.error()), number);
            } else if (!ids.insert(*custom_id).second) {
                problem({.code = "duplicate_custom_id",
                         .message = "custom_id '" + custom_id->substr(0, 100) + "' is there twice",
                         .param = "custom_id"},
                        number);
            } else if (input.lines.size() == requests_max) {
                problem(
                    {.code = "too_many_tasks",
                     .message = "a batch may have " + std::to_string(requests_max) + " requests (batch.requests_max)",
                     .param = ""},
                    number);
                break;
            } else {
                input.lines.push_back(
                    {.number = number, .custom_id = std::move(*custom_id), .begin = at, .bytes = line.size()});
            }
        }
        at = end + 1;
    }
    if (input.lines.empty() && input.problems.empty()) {
        problem({.code = "empty_file", .message = "the input file has no requests", .param = ""}, 0);
    }
    if (!input.problems.empty()) { input.lines.clear(); }
    return input;
}

std::string body_of_line(std::string_view line) {
    const auto parsed = parse_body(line);
    if (!parsed) { return {}; }
    const json::value* body = parsed->if_contains("body");
    return body == nullptr ? std::string() : json::serialize(*body);
}

std::string file_json(const FileRecord& file) {
    JsonWriter json;
    json.begin_object().key("id").string(file.id).key("object").string("file");
    json.key("bytes").integer(static_cast<std::int64_t>(file.bytes)).key("created_at").integer(file.created_at);
    json.key("filename").string(file.name).key("purpose").string(file.purpose);
    json.key("status").string("processed").key("expires_at").null();
    return json.end_object().take();
}

std::string batch_json(const BatchRecord& batch) {
    JsonWriter json;
    const auto at = [&](BatchStatus status) { return batch.status == status ? batch.ended_at : 0; };
    json.begin_object().key("id").string(batch.id).key("object").string("batch").key("endpoint").string(batch.endpoint);
    json.key("errors");
    if (batch.problems.empty()) {
        json.null();
    } else {
        json.begin_object().key("object").string("list").key("data").begin_array();
        for (const BatchProblem& one : batch.problems) {
            json.begin_object().key("code").string(one.code).key("message").string(one.message);
            write_text(json, "param", one.param);
            write_time(json, "line", one.line);
            json.end_object();
        }
        json.end_array().end_object();
    }
    json.key("input_file_id").string(batch.input_file).key("completion_window").string(batch.window);
    json.key("status").string(name_of(batch.status));
    write_text(json, "output_file_id", batch.output_file);
    write_text(json, "error_file_id", batch.error_file);
    json.key("created_at").integer(batch.created_at);
    write_time(json, "in_progress_at", batch.in_progress_at);
    json.key("expires_at").integer(batch.expires_at);
    write_time(json, "finalizing_at", batch.finalizing_at);
    write_time(json, "completed_at", at(BatchStatus::completed));
    write_time(json, "failed_at", at(BatchStatus::failed));
    write_time(json, "expired_at", at(BatchStatus::expired));
    write_time(json, "cancelling_at", batch.cancelling_at);
    write_time(json, "cancelled_at", at(BatchStatus::cancelled));
    json.key("request_counts").begin_object().key("total").integer(static_cast<std::int64_t>(batch.total));
    json.key("completed").integer(static_cast<std::int64_t>(batch.completed));
    json.key("failed").integer(static_cast<std::int64_t>(batch.failed)).end_object();
    json.key("metadata");
    batch.metadata.empty() ? json.null() : json.raw(batch.metadata);
    return json.end_object().take();
}

std::string outcome_line(std::string_view id, std::string_view custom_id, unsigned status, std::string_view request_id,
                         std::string_view body) {
    JsonWriter json;
    json.begin_object().key("id").string(id).key("custom_id").string(custom_id).key("response").begin_object();
    json.key("status_code").integer(status).key("request_id").string(request_id).key("body").raw(body).end_object();
    return json.key("error").null().end_object().take();
}

std::string unsent_line(std::string_view id, std::string_view custom_id, std::string_view code,
                        std::string_view message) {
    JsonWriter json;
    json.begin_object().key("id").string(id).key("custom_id").string(custom_id).key("response").null();
    json.key("error").begin_object().key("code").string(code).key("message").string(message).end_object();
    return json.end_object().take();
}

}  // namespace gateway
