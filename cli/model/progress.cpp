#include "cli/model/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/model/manifest.h"

namespace cli::model {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(200);  // on a terminal
constexpr auto kNextLine = std::chrono::seconds(5);       // elsewhere
constexpr auto kRateOver = std::chrono::seconds(10);

std::string format_time(double seconds) {
    const auto whole = static_cast<std::uint64_t>(std::ceil(seconds));
    if (whole < 90) { return fmt::format("{} s", whole); }
    if (whole < 5400) { return fmt::format("{} min", (whole + 59) / 60); }
    return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace

std::string progress_line(std::string_view label, std::uint64_t done, std::optional<std::uint64_t> total,
                          double bytes_per_s) {
    std::string line = fmt::format("{}: {}", label, format_bytes(done));
    if (total && *total > 0) {
        line += fmt::format(" of {}, {} %", format_bytes(*total), std::min<std::uint64_t>(100, done * 100 / *total));
    }
    if (bytes_per_s >= 1) {
        line += fmt::format(", {}/s", format_bytes(static_cast<std::uint64_t>(bytes_per_s)));
        if (total && *total > done) {
            line += fmt::format(", {} left", format_time(static_cast<double>(*total - done) / bytes_per_s));
        }
    }
    return line;
}

Progress::Progress(std::string label, bool is_terminal, const base::Clock& clock,
                   std::function<void(std::string_view)> print)
    : label_(std::move(label)), is_terminal_(is_terminal), clock_(clock), print_(std::move(print)) {}

void Progress::begin(std::uint64_t done, std::optional<std::uint64_t> total) {
    done_ = done;
    total_ = total;
    samples_.assign({{clock_.now(), done}});
    shown_at_ = clock_.now();
}

void Progress::at(std::uint64_t done) {
    const base::TimePoint now = clock_.now();
    if (done < done_) { samples_.clear(); }  // it began again
    done_ = done;
    if (samples_.empty() || now - samples_.back().first >= kRedraw) {
        samples_.emplace_back(now, done);
        while (samples_.size() > 2 && now - samples_.front().first > kRateOver) {
            samples_.pop_front();
        }
    }
    if (now - shown_at_ >= (is_terminal_ ? base::Duration(kRedraw) : base::Duration(kNextLine))) { show(); }
}

void Progress::end() {
    if (is_terminal_ && shown_width_ > 0) {
        show();
        print_("\n");
    }
    shown_width_ = 0;
}

void Progress::say(std::string_view line) {
    end();
    print_(fmt::format("{}\n", line));
}

double Progress::rate() const {
    if (samples_.empty() || done_ < samples_.front().second) { return 0; }
    const std::chrono::duration<double> passed = clock_.now() - samples_.front().first;
    return passed.count() <= 0 ? 0 : static_cast<double>(done_ - samples_.front().second) / passed.count();
}

void Progress::show() {
    shown_at_ = clock_.now();
    const std::string line = progress_line(label_, done_, total_, rate());
    if (!is_terminal_) { return print_(line + "\n"); }
    print_(fmt::format("\r{:<{}}", line, shown_width_));  // spaces over what was longer
    shown_width_ = line.size();
}

}  // namespace cli::model
