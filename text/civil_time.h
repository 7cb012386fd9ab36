#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace text {

/// A wall-clock time as a chat template's `strftime_now` prints it; in whatever zone the caller wants shown.
struct CivilTime {
    int year = 1970;  // 1..9999
    int month = 1;    // 1..12
    int day = 1;      // 1..31
    int hour = 0;
    int minute = 0;
    int second = 0;
    int microsecond = 0;
};

/// That instant in the local time zone, as Hugging Face's templates see it.
CivilTime local_time(std::int64_t unix_us);

/// Reads "2024-07-26", "2024-07-26 13:05:09" or "2024-07-26T13:05:09" (taken as it is), or seconds since the Unix epoch
/// (shown in the local zone). Error: invalid_argument.
[[nodiscard]] base::Result<CivilTime> parse_civil_time(std::string_view text);

}  // namespace text
