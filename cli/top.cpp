#include "cli/top.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "base/clock.h"
#include "cli/process.h"
#include "cli/top_look.h"
#include "cli/top_view.h"

namespace cli {
namespace {

using base::ErrorCode;

constexpr std::size_t kColumnsDefault = 80;

std::size_t columns_of_terminal() {
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) { return size.ws_col; }
    const char* const columns = std::getenv("COLUMNS");
    const long number = columns == nullptr ? 0 : std::strtol(columns, nullptr, 10);
    return number > 0 ? static_cast<std::size_t>(number) : kColumnsDefault;
}

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

/// The screen of a terminal, as it was before when this goes.
class Screen {
public:
    explicit Screen(bool is_terminal) : is_terminal_(is_terminal) {
        if (is_terminal_) { print("\x1b[?1049h\x1b[?25l"); }
    }
    ~Screen() {
        if (is_terminal_) { print("\x1b[?25h\x1b[?1049l"); }
    }
    Screen(const Screen&) = delete;
    Screen& operator=(const Screen&) = delete;

    void show(const std::string& text) const {
        if (!is_terminal_) { return print(text + "\n"); }
        std::string page = "\x1b[H";
        for (const char c : text) {
            if (c == '\n') { page += "\x1b[K"; }
            page += c;
        }
        print(page + "\x1b[J");
    }

private:
    const bool is_terminal_;
};

}  // namespace

void add_top(CLI::App& app, TopCommand& command) {
    add_look_flags(app, command.urls, command.api_key);
    app.add_option("--interval", command.interval_s, "seconds between two looks")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    app.add_flag("--once", command.once, "two looks, an interval apart, and what was between them");
    app.add_flag("--json", command.json, "as JSON, one line a look");
}

int top_main(const TopCommand& command) {
    const auto urls = expand_urls(command.urls);
    if (!urls) { return report(urls.error()); }
    const base::SystemClock clock;
    TopMoment before = look_at(*urls, command.api_key, clock);
    if (!is_reached(before)) {
        return report({ErrorCode::unavailable, before.sources.front().url + ": " + before.sources.front().problem});
    }
    const Screen screen(!command.once && !command.json && isatty(STDOUT_FILENO) != 0);
    const auto show = [&](const TopMoment& now, const TopMoment* earlier) {
        const boost::json::object view = top_view(now, earlier);
        if (command.json) {
            print(boost::json::serialize(view) + "\n");
        } else {
            screen.show(top_text(view, columns_of_terminal()));
        }
    };
    if (!command.once) { show(before, nullptr); }
    const Event never;
    const auto interval = std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(command.interval_s));
    while (true) {
        static_cast<void>(never.wait(interval));  // until then, or the end is asked for
        if (end_asked()) { return 0; }
        TopMoment now = look_at(*urls, command.api_key, clock);
        show(now, &before);
        if (command.once) { return is_reached(now) ? 0 : 1; }
        if (std::ferror(stdout) != 0) { return 1; }
        before = std::move(now);
    }
}

}  // namespace cli
