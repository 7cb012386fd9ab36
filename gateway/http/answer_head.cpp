#include "gateway/http/answer_head.h"

#include <ctime>

namespace gateway {
namespace {

std::string_view reason_phrase(unsigned status) {
    switch (status) {
        case 200:
            return "OK";
        case 204:
            return "No Content";
        case 400:
            return "Bad Request";
        case 401:
            return "Unauthorized";
        case 403:
            return "Forbidden";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 408:
            return "Request Timeout";
        case 413:
            return "Content Too Large";
        case 414:
            return "URI Too Long";
        case 415:
            return "Unsupported Media Type";
        case 417:
            return "Expectation Failed";
        case 429:
            return "Too Many Requests";
        case 431:
            return "Request Header Fields Too Large";
        case 500:
            return "Internal Server Error";
        case 503:
            return "Service Unavailable";
        case 504:
            return "Gateway Timeout";
        case 505:
            return "HTTP Version Not Supported";
        default:
            return "Status";
    }
}

}  // namespace

std::string head_text(unsigned status, std::string_view content_type, const HttpFields& fields, bool close) {
    std::string text =
        std::string(kAnswerStart) + std::to_string(status) + " " + std::string(reason_phrase(status)) + "\r\n";
    char date[64];
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    if (std::strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &parts) > 0) {
        text += "Date: " + std::string(date) + "\r\n";
    }
    text += "Server: sluice\r\n";
    if (!content_type.empty()) { text += "Content-Type: " + std::string(content_type) + "\r\n"; }
    for (const auto& [name, value] : fields) {
        text += name + ": " + value + "\r\n";
    }
    if (close) { text += "Connection: close\r\n"; }
    return text;
}

}  // namespace gateway
