#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"

namespace cli::model {

/// "name: 45.2 of 98.4 MB, 46 %, 12.3 MB/s, 4 s left"; without a total only what is there and the rate. A rate of 0:
/// not known yet.
std::string progress_line(std::string_view label, std::uint64_t done, std::optional<std::uint64_t> total,
                          double bytes_per_s);

/// Tells people how far a download is: one line rewritten in place on a terminal, a line every few seconds elsewhere.
/// One thread.
class Progress {
public:
    /// `print` gets the text with its line ends.
    Progress(std::string label, bool is_terminal, const base::Clock& clock,
             std::function<void(std::string_view)> print);

    /// A new piece of work of `total` bytes (empty: not known), of which `done` are there already.
    void begin(std::uint64_t done, std::optional<std::uint64_t> total);
    /// So many bytes are there now; may be fewer than before when a file had to begin again.
    void at(std::uint64_t done);
    /// The last state, and the end of the line.
    void end();
    /// A line of its own, without tearing the one that is rewritten.
    void say(std::string_view line);

private:
    double rate() const;
    void show();

    std::string label_;
    bool is_terminal_;
    const base::Clock& clock_;
    std::function<void(std::string_view)> print_;
    std::uint64_t done_ = 0;
    std::optional<std::uint64_t> total_;
    std::deque<std::pair<base::TimePoint, std::uint64_t>> samples_;  // of the last seconds
    base::TimePoint shown_at_{};
    std::size_t shown_width_ = 0;  // of the line that is rewritten; 0: there is none
};

}  // namespace cli::model
