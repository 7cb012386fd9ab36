#include "cli/otlp_exporter.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <optional>
#include <variant>

#include "base/log.h"

namespace cli {
namespace {

namespace json = boost::json;
using base::ErrorCode;

constexpr std::string_view kPath = "/v1/traces";

json::object value_of(const std::string& text) {
    return {{"stringValue", text}};
}
json::object value_of(std::int64_t number) {
    return {{"intValue", std::to_string(number)}};  // protobuf's JSON writes 64 bits as text
}
json::object value_of(double number) {
    return {{"doubleValue", number}};
}
json::object value_of(bool flag) {
    return {{"boolValue", flag}};
}
json::object value_of(const std::vector<std::string>& list) {
    json::array values;
    for (const std::string& one : list) {
        values.push_back(value_of(one));
    }
    return {{"arrayValue", json::object{{"values", std::move(values)}}}};
}

json::object attribute(std::string_view name, json::object value) {
    return {{"key", name}, {"value", std::move(value)}};
}

json::object span_json(const base::Span& span) {
    json::array attributes;
    for (const base::SpanAttribute& one : span.attributes) {
        attributes.push_back(
            attribute(one.name, std::visit([](const auto& value) { return value_of(value); }, one.value)));
    }
    json::object object{{"traceId", base::trace_id_text(span.context)},
                        {"spanId", base::span_id_text(span.context.span)},
                        {"name", span.name},
                        {"kind", static_cast<int>(span.kind)},
                        {"startTimeUnixNano", std::to_string(span.begin_unix_us) + "000"},
                        {"endTimeUnixNano", std::to_string(std::max(span.end_unix_us, span.begin_unix_us)) + "000"},
                        {"attributes", std::move(attributes)}};
    if (span.parent != 0) { object["parentSpanId"] = base::span_id_text(span.parent); }
    if (span.error) { object["status"] = json::object{{"code", 2}, {"message", *span.error}}; }
    return object;
}

std::size_t ignore_body(char* /*data*/, std::size_t size, std::size_t count, void* /*user*/) {
    return size * count;
}

/// Posts over one connection that is kept.
class Poster {
public:
    Poster(std::string url, const std::vector<std::string>& headers) : url_(std::move(url)) {
        add_header("Content-Type: application/json");
        add_header("Expect:");
        for (const std::string& one : headers) {
            std::string line = one;
            line.replace(line.find('='), 1, ": ");
            add_header(line);
        }
    }
    Poster(const Poster&) = delete;
    Poster& operator=(const Poster&) = delete;
    ~Poster() {
        curl_slist_free_all(headers_);
        curl_easy_cleanup(handle_);
    }

    base::Result<void> post(const std::string& body, std::chrono::milliseconds timeout) {
        if (handle_ == nullptr) { return base::fail(ErrorCode::internal, "no memory for a connection"); }
        curl_easy_reset(handle_);  // keeps the connection
        curl_easy_setopt(handle_, CURLOPT_URL, url_.c_str());
        curl_easy_setopt(handle_, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(handle_, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(handle_, CURLOPT_CONNECTTIMEOUT_MS, std::min<long>(2000, timeout.count()));
        curl_easy_setopt(handle_, CURLOPT_TIMEOUT_MS, static_cast<long>(timeout.count()));
        curl_easy_setopt(handle_, CURLOPT_HTTPHEADER, headers_);
        curl_easy_setopt(handle_, CURLOPT_WRITEFUNCTION, ignore_body);
        curl_easy_setopt(handle_, CURLOPT_POSTFIELDS, body.data());
        curl_easy_setopt(handle_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
        if (const CURLcode code = curl_easy_perform(handle_); code != CURLE_OK) {
            return base::fail(ErrorCode::unavailable, curl_easy_strerror(code));
        }
        long status = 0;
        curl_easy_getinfo(handle_, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 200 && status < 300) { return {}; }
        const bool can_retry = status == 429 || status == 502 || status == 503 || status == 504;  // OTLP's list
        return base::fail(can_retry ? ErrorCode::unavailable : ErrorCode::failed_precondition,
                          fmt::format("the receiver answered {}", status));
    }

private:
    void add_header(const std::string& line) {
        if (curl_slist* longer = curl_slist_append(headers_, line.c_str())) { headers_ = longer; }
    }

    std::string url_;
    curl_slist* headers_ = nullptr;
    CURL* handle_ = curl_easy_init();
};

}  // namespace

TracingOptions TracingOptions::read(base::Config& config) {
    TracingOptions options;
    options.otlp_endpoint = config.string("tracing.otlp_endpoint", options.otlp_endpoint);
    options.headers = config.strings("tracing.headers", options.headers);
    options.sampled_share = config.number("tracing.sampled_share", options.sampled_share, 0, 1);
    options.spans_max = static_cast<std::size_t>(
        config.integer("tracing.spans_max", static_cast<std::int64_t>(options.spans_max), 1, 1 << 20));
    return options;
}

base::Result<std::string> traces_url(const std::string& endpoint) {
    const bool is_url = endpoint.starts_with("http://") || endpoint.starts_with("https://");
    const std::size_t host = endpoint.find("://") + 3;
    if (!is_url || endpoint.size() == host || endpoint.find_first_of(" \t\r\n?#") != std::string::npos) {
        return base::fail(
            ErrorCode::invalid_argument,
            "tracing.otlp_endpoint must be http://HOST:PORT or https://HOST:PORT, got '" + endpoint + "'");
    }
    std::string url = endpoint;
    while (url.size() > host && url.ends_with('/')) {
        url.pop_back();
    }
    return url.ends_with(kPath) ? url : url + std::string(kPath);
}

std::string otlp_json(const std::vector<base::Span>& spans, const std::string& service, const std::string& instance,
                      const std::string& version) {
    json::array list;
    for (const base::Span& span : spans) {
        list.push_back(span_json(span));
    }
    json::array resource{attribute("service.name", value_of(service)),
                         attribute("service.instance.id", value_of(instance)),
                         attribute("service.version", value_of(version))};
    const json::object scope_spans{{"scope", json::object{{"name", "sluice"}, {"version", version}}},
                                   {"spans", std::move(list)}};
    return json::serialize(json::object{
        {"resourceSpans", json::array{json::object{{"resource", json::object{{"attributes", std::move(resource)}}},
                                                   {"scopeSpans", json::array{scope_spans}}}}}});
}

OtlpExporter::OtlpExporter(Setup setup)
    : setup_(std::move(setup)),
      exported_(setup_.metrics.counter("sluice_trace_spans_total", "Spans of traced requests, by what became of them",
                                       {{"outcome", "exported"}})),
      dropped_(setup_.metrics.counter("sluice_trace_spans_total", "Spans of traced requests, by what became of them",
                                      {{"outcome", "dropped"}})),
      failed_(setup_.metrics.counter("sluice_trace_spans_total", "Spans of traced requests, by what became of them",
                                     {{"outcome", "failed"}})),
      queue_(setup_.spans_max) {
    if (setup_.retry_after.empty()) { setup_.retry_after = {std::chrono::seconds(1), std::chrono::seconds(2)}; }
    thread_ = std::jthread([this] { run(); });
}

OtlpExporter::~OtlpExporter() {
    {
        const std::scoped_lock lock(mutex_);
        is_closing_ = true;
        give_up_at_ = std::chrono::steady_clock::now() + setup_.patience;
    }
    queue_.close();
    closing_.notify_all();
    thread_.join();
}

void OtlpExporter::add(base::Span span) {
    if (!queue_.push(std::move(span))) { dropped_.Increment(); }
}

bool OtlpExporter::is_over() const {
    const std::scoped_lock lock(mutex_);
    return is_closing_ && std::chrono::steady_clock::now() >= give_up_at_;
}

void OtlpExporter::run() {
    // Until the queue is closed and empty.
    while (auto first = queue_.pop(std::stop_token())) {
        std::vector<base::Span> batch;
        batch.push_back(std::move(*first));
        const base::TimePoint full_at = std::chrono::steady_clock::now() + setup_.gather;
        while (batch.size() < setup_.batch_max) {
            auto more = queue_.pop(std::stop_token(), full_at);
            if (!more) { break; }
            batch.push_back(std::move(*more));
        }
        if (is_over()) {
            failed_.Increment(static_cast<double>(batch.size()));
        } else {
            send(batch);
        }
    }
}

void OtlpExporter::send(const std::vector<base::Span>& batch) {
    const std::string body = otlp_json(batch, setup_.service, setup_.instance, setup_.version);
    for (std::size_t tried = 0;; ++tried) {
        const auto posted = setup_.post(body, setup_.post_timeout);
        if (posted) {
            exported_.Increment(static_cast<double>(batch.size()));
            if (std::exchange(is_failing_, false)) { spdlog::info("tracing: spans are taken again"); }
            return;
        }
        if (!std::exchange(is_failing_, true)) {
            spdlog::warn("tracing: spans cannot be sent: {}", posted.error().message);
        }
        if (posted.error().code != ErrorCode::unavailable || tried == setup_.retry_after.size()) { break; }
        std::unique_lock lock(mutex_);
        if (closing_.wait_for(lock, setup_.retry_after[tried], [this] { return is_closing_; })) { break; }
    }
    failed_.Increment(static_cast<double>(batch.size()));
}

base::Result<std::unique_ptr<OtlpExporter>> start_exporter(const TracingOptions& options, const std::string& service,
                                                           base::Metrics& metrics) {
    if (!options.is_on()) { return nullptr; }
    const auto url = traces_url(options.otlp_endpoint);
    if (!url) { return base::pass_on(url); }
    for (const std::string& header : options.headers) {
        const bool is_plain = std::none_of(header.begin(), header.end(), [](char c) { return c == '\r' || c == '\n'; });
        if (header.find('=') == std::string::npos || header.starts_with('=') || !is_plain) {
            return base::fail(ErrorCode::invalid_argument, "tracing.headers must hold NAME=VALUE");
        }
    }
    const auto poster = std::make_shared<Poster>(*url, options.headers);
    return std::make_unique<OtlpExporter>(
        OtlpExporter::Setup{.service = service,
                            .instance = fmt::format("{}-{}", service, getpid()),
                            .version = SLUICE_VERSION,
                            .spans_max = options.spans_max,
                            .post = [poster](const std::string& body,
                                             std::chrono::milliseconds timeout) { return poster->post(body, timeout); },
                            .metrics = metrics});
}

}  // namespace cli
