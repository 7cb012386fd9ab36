#include "bench/sse_parser.h"

#include <utility>

namespace bench {

SseParser::SseParser(std::size_t event_bytes_max) : event_bytes_max_(event_bytes_max) {}

base::Result<std::vector<std::string>> SseParser::feed(std::string_view bytes) {
    std::vector<std::string> events;
    for (const char byte : bytes) {
        const bool ends_crlf = byte == '\n' && last_was_cr_;
        last_was_cr_ = byte == '\r';
        if (ends_crlf) { continue; }  // the CR has ended the line already
        if (byte == '\n' || byte == '\r') {
            end_line(events);
            continue;
        }
        if (line_.size() + data_.size() >= event_bytes_max_) {
            return base::fail(base::ErrorCode::resource_exhausted,
                              "an event of the stream is longer than " + std::to_string(event_bytes_max_) + " bytes");
        }
        line_.push_back(byte);
    }
    return events;
}

void SseParser::end_line(std::vector<std::string>& events) {
    std::string_view line = line_;
    if (std::exchange(is_first_line_, false) && line.starts_with("\xEF\xBB\xBF")) { line.remove_prefix(3); }
    if (line.empty()) {
        if (has_data_) { events.push_back(std::exchange(data_, {})); }
        has_data_ = false;
    } else if (line.starts_with("data:") || line == "data") {
        std::string_view value = line.substr(line == "data" ? 4 : 5);
        if (value.starts_with(' ')) { value.remove_prefix(1); }
        if (has_data_) { data_.push_back('\n'); }
        data_.append(value);
        has_data_ = true;
    }
    line_.clear();
}

}  // namespace bench
