#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bench {

/// Cuts a text/event-stream into the data of its events. Bytes may arrive cut anywhere, lines may end in LF, CRLF or
/// CR. Comments and fields other than `data` are passed over. Not thread-safe.
class SseParser {
public:
    /// `event_bytes_max` bounds one event (and so the memory held).
    explicit SseParser(std::size_t event_bytes_max = std::size_t{1} << 20);

    /// The data of every event that `bytes` completes, in order; several data lines are joined by a newline.
    /// Error: resource_exhausted when an event grows beyond the bound; the parser is then of no further use.
    base::Result<std::vector<std::string>> feed(std::string_view bytes);

    /// True when the stream so far does not end at the end of an event.
    bool is_inside_event() const { return !line_.empty() || has_data_; }

private:
    void end_line(std::vector<std::string>& events);

    std::size_t event_bytes_max_;
    std::string line_;  // the unfinished line
    std::string data_;  // the unfinished event
    bool has_data_ = false;
    bool last_was_cr_ = false;
    bool is_first_line_ = true;  // may begin with a byte order mark
};

}  // namespace bench
