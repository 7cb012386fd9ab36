#include "gateway/openai/errors.h"

#include <algorithm>
#include <utility>

#include "gateway/anthropic/messages_form.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

constexpr std::size_t kMessageBytesMax = 1000;  // a message may quote what the client sent, but not amplify it

unsigned status_of(base::ErrorCode code) {
    switch (code) {
        case base::ErrorCode::invalid_argument:
        case base::ErrorCode::unimplemented:
            return 400;
        case base::ErrorCode::unauthenticated:
            return 401;
        case base::ErrorCode::permission_denied:
            return 403;
        case base::ErrorCode::not_found:
            return 404;
        case base::ErrorCode::resource_exhausted:
            return 429;
        case base::ErrorCode::deadline_exceeded:
            return 504;
        case base::ErrorCode::unavailable:
        case base::ErrorCode::aborted:
        case base::ErrorCode::cancelled:
        case base::ErrorCode::failed_precondition:
            return 503;
        default:
            return 500;
    }
}

bool is_digits(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Four numbers with points between them.
bool is_ipv4(std::string_view text) {
    int numbers = 0;
    while (true) {
        const auto point = text.find('.');
        const std::string_view number = text.substr(0, point);
        if (!is_digits(number) || number.size() > 3) { return false; }
        ++numbers;
        if (point == std::string_view::npos) { return numbers == 4; }
        text.remove_prefix(point + 1);
    }
}

/// A place inside the cluster: an address with or without its port, a URI, a file. `word` has no spaces.
bool is_place(std::string_view word) {
    if (word.find("://") != std::string_view::npos) { return true; }
    for (const std::string_view scheme : {"ipv4:", "ipv6:", "unix:", "dns:", "unix-abstract:", "vsock:"}) {
        if (word.starts_with(scheme)) { return true; }
    }
    if (word.front() == '/' && word.size() > 1) { return true; }
    if (is_ipv4(word)) { return true; }
    const std::string_view ipv6 = word.substr(0, word.find('%'));  // without its zone
    if (std::count(ipv6.begin(), ipv6.end(), ':') > 1 &&
        ipv6.find_first_not_of("0123456789abcdefABCDEF:.[]") == std::string_view::npos) {
        return true;
    }
    // NAME:PORT. A message's own words end in a colon, or have a space behind it.
    const auto colon = word.rfind(':');
    return colon != std::string_view::npos && colon > 0 && is_digits(word.substr(colon + 1)) &&
           word.size() - colon <= 6;
}

/// `text` with the places in it left out: clients have no use for them, and they are nobody else's business.
std::string without_places(std::string_view text) {
    constexpr std::string_view kBetween = " \t\r\n\"'`()<>,;=";
    constexpr std::string_view kBehind = ".:!?";  // of the sentence and not of the word
    std::string result;
    while (!text.empty()) {
        const auto begin = text.find_first_not_of(kBetween);
        result += text.substr(0, begin);
        if (begin == std::string_view::npos) { break; }
        text.remove_prefix(begin);
        std::string_view word = text.substr(0, text.find_first_of(kBetween));
        text.remove_prefix(word.size());
        const auto end = word.find_last_not_of(kBehind);
        const std::string_view behind = end == std::string_view::npos ? word : word.substr(end + 1);
        word.remove_suffix(behind.size());
        result += !word.empty() && is_place(word) ? std::string_view("[internal]") : word;
        result += behind;
    }
    return result;
}

}  // namespace

namespace {

std::string_view anthropic_type(unsigned status) {
    switch (status) {
        case 404:
            return "not_found_error";
        case 413:
            return "request_too_large";
        case 503:
            return "overloaded_error";
        case 504:
            return "timeout_error";
        default:
            return status >= 500 ? "api_error" : error_type(status);
    }
}

}  // namespace

std::string_view error_type(unsigned status, ErrorStyle style) {
    if (style == ErrorStyle::anthropic) { return anthropic_type(status); }
    switch (status) {
        case 401:
            return "authentication_error";
        case 403:
            return "permission_error";
        case 429:
            return "rate_limit_error";
        case 503:
            return "unavailable_error";
        case 504:
            return "timeout_error";
        default:
            return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

tl::unexpected<ApiError> bad_request(std::string_view param, std::string message) {
    ApiError error{.status = 400, .message = std::move(message)};
    if (!param.empty()) { error.param = std::string(param.substr(0, 100)); }
    return tl::unexpected<ApiError>(std::move(error));
}

ApiError no_such_model(std::string_view name) {
    ApiError error{.status = 404, .message = "the model '" + std::string(name.substr(0, 200)) + "' does not exist"};
    error.param = "model";
    error.code = "model_not_found";
    return error;
}

ApiError api_error(const base::Error& error, std::uint32_t retry_after_ms) {
    ApiError result{.status = status_of(error.code), .message = without_places(error.message)};
    if (result.status == 429) { result.code = "rate_limit_exceeded"; }
    if (result.status == 503) { result.code = "unavailable"; }
    if (result.status == 504) { result.code = "timeout"; }
    if (result.status == 429 || result.status == 503) {
        if (retry_after_ms > 0) {
            result.retry_after_s = std::clamp<std::uint32_t>((retry_after_ms + 999) / 1000, 1, 60);
        } else {
            result.repeat_is_useless = true;
        }
    }
    // A bug stays one, and who waited a whole time limit is not helped by the SDKs' two silent repeats of it.
    if (result.status == 500 || result.status == 504) { result.repeat_is_useless = true; }
    return result;
}

std::string error_json(const ApiError& error, ErrorStyle style) {
    JsonWriter json;
    if (style == ErrorStyle::anthropic) {
        json.begin_object().key("type").string("error").key("error").begin_object();
        json.key("type").string(error_type(error.status, style));
        json.key("message").string(std::string_view(error.message).substr(0, kMessageBytesMax));
        if (error.code == kThreadsUnsupported) {  // by this the client sends whole conversations from then on
            json.key("details").begin_object().key("error_code").string(kThreadsUnsupported);
            json.key("unsupported").begin_array().string("thread").end_array().end_object();
        }
        return json.end_object().end_object().take();
    }
    json.begin_object().key("error").begin_object();
    json.key("message").string(std::string_view(error.message).substr(0, kMessageBytesMax));
    json.key("type").string(error_type(error.status));
    json.key("param");
    error.param ? json.string(*error.param) : json.null();
    json.key("code");
    error.code ? json.string(*error.code) : json.null();
    if (error.prompt_tokens) { json.key("n_prompt_tokens").integer(*error.prompt_tokens); }
    if (error.context_tokens) { json.key("n_ctx").integer(*error.context_tokens); }
    json.end_object().end_object();
    return json.take();
}

HttpResponse error_response(const ApiError& error, ErrorStyle style) {
    HttpResponse response{.status = error.status, .fields = {}, .body = error_json(error, style)};
    if (error.retry_after_s > 0) { response.fields.emplace_back("Retry-After", std::to_string(error.retry_after_s)); }
    if (error.status == 401) { response.fields.emplace_back("WWW-Authenticate", "Bearer"); }
    if (error.repeat_is_useless) { response.fields.emplace_back("x-should-retry", "false"); }
    if (!error.allow.empty()) {
        std::string list;
        for (const std::string& method : error.allow) {
            list += (list.empty() ? "" : ", ") + method;
        }
        response.fields.emplace_back("Allow", list);
    }
    return response;
}

}  // namespace gateway
