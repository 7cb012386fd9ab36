#include "text/civil_time.h"

#include <charconv>
#include <ctime>
#include <string>

namespace text {
namespace {

constexpr std::int64_t kUsPerSecond = 1'000'000;
constexpr std::int64_t kUnixSecondsMax = 253'402'300'799;  // the end of year 9999

/// Takes exactly `digits` digits off the front of `text`.
bool take_number(std::string_view& text, std::size_t digits, int low, int high, int& out) {
    if (text.size() < digits) { return false; }
    const auto [end, error] = std::from_chars(text.data(), text.data() + digits, out);
    if (error != std::errc() || end != text.data() + digits || out < low || out > high) { return false; }
    text.remove_prefix(digits);
    return true;
}

bool take(std::string_view& text, std::string_view any_of) {
    if (text.empty() || any_of.find(text.front()) == std::string_view::npos) { return false; }
    text.remove_prefix(1);
    return true;
}

}  // namespace

CivilTime local_time(std::int64_t unix_us) {
    const std::time_t seconds = unix_us / kUsPerSecond;
    std::tm fields{};
    localtime_r(&seconds, &fields);
    return {.year = fields.tm_year + 1900,
            .month = fields.tm_mon + 1,
            .day = fields.tm_mday,
            .hour = fields.tm_hour,
            .minute = fields.tm_min,
            .second = fields.tm_sec,
            .microsecond = static_cast<int>(unix_us % kUsPerSecond)};
}

base::Result<CivilTime> parse_civil_time(std::string_view text) {
    std::int64_t unix_seconds = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), unix_seconds);
    if (error == std::errc() && end == text.data() + text.size() && unix_seconds >= 0 &&
        unix_seconds <= kUnixSecondsMax) {
        return local_time(unix_seconds * kUsPerSecond);
    }
    CivilTime time;
    std::string_view rest = text;
    bool is_time = take_number(rest, 4, 1, 9999, time.year) && take(rest, "-") &&
                   take_number(rest, 2, 1, 12, time.month) && take(rest, "-") && take_number(rest, 2, 1, 31, time.day);
    if (is_time && !rest.empty()) {
        is_time = take(rest, " T") && take_number(rest, 2, 0, 23, time.hour) && take(rest, ":") &&
                  take_number(rest, 2, 0, 59, time.minute);
        if (is_time && !rest.empty()) { is_time = take(rest, ":") && take_number(rest, 2, 0, 60, time.second); }
        if (is_time && rest == "Z") { rest = {}; }
    }
    if (!is_time || !rest.empty()) {
        return base::fail(
            base::ErrorCode::invalid_argument,
            "\"" + std::string(text) + "\" is no time: write 2024-07-26T13:05:09 or seconds since the Unix epoch");
    }
    return time;
}

}  // namespace text
