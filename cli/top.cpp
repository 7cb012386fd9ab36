#include "cli/top.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "bench/load_generator.h"
#include "bench/openai_wire.h"
#include "cli/process.h"
#include "cli/top_view.h"

namespace cli {
namespace {

using base::ErrorCode;
using base::fail;

constexpr std::size_t kUrlsMax = 256;
constexpr bench::Seconds kTimeout{3};
constexpr std::size_t kColumnsDefault = 80;
/// Processes that are asked at once.
constexpr std::size_t kAskedAtOnce = 16;

std::optional<std::uint32_t> number_in(std::string_view text) {
    std::uint32_t number = 0;
    const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc{} && at == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

TopSource ask(const std::string& url, const std::string& api_key) {
    TopSource source{.url = url, .samples = {}, .problem = {}};
    const auto read = [&]() -> base::Result<std::vector<Sample>> {
        auto target = bench::parse_url(url);
        if (!target) { return base::pass_on(target); }
        target->api_key = api_key;
        if (target->base_path == "/v1") { target->base_path.clear(); }  // of a gateway's address as clients write it
        const auto answer = bench::http_get(*target, "/metrics", kTimeout);
        if (!answer) { return base::pass_on(answer); }
        if (answer->status == 401 || answer->status == 403) {
            return fail(ErrorCode::permission_denied,
                        "needs an API key of scope admin: --api-key, SLUICE_API_KEY, or an --admin-port");
        }
        if (answer->status != 200) {
            return fail(ErrorCode::unavailable, "answers /metrics with status " + std::to_string(answer->status));
        }
        return parse_metrics(answer->body);
    };
    auto samples = read();
    if (samples) {
        source.samples = std::move(*samples);
    } else {
        source.problem = samples.error().message;
    }
    return source;
}

/// Asks all, some at a time, so that one that does not answer holds up few.
TopMoment look(const std::vector<std::string>& urls, const std::string& api_key, const base::Clock& clock) {
    TopMoment moment;
    moment.sources.resize(urls.size());
    for (std::size_t first = 0; first < urls.size(); first += kAskedAtOnce) {
        std::vector<std::jthread> threads;
        for (std::size_t i = first; i < std::min(urls.size(), first + kAskedAtOnce); ++i) {
            threads.emplace_back([&, i] { moment.sources[i] = ask(urls[i], api_key); });
        }
    }
    moment.at = clock.now();
    moment.unix_s = static_cast<double>(clock.unix_us()) / 1e6;
    return moment;
}

bool is_reached(const TopMoment& moment) {
    return std::any_of(moment.sources.begin(), moment.sources.end(),
                       [](const TopSource& source) { return source.problem.empty(); });
}

std::size_t columns_of_terminal() {
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) { return size.ws_col; }
    const char* const columns = std::getenv("COLUMNS");
    const auto number = columns == nullptr ? std::nullopt : number_in(columns);
    return number && *number > 0 ? *number : kColumnsDefault;
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

base::Result<std::vector<std::string>> expand_urls(const std::vector<std::string>& urls) {
    std::vector<std::string> all;
    for (const std::string& url : urls) {
        constexpr std::size_t kSchemeBytes = 7;  // http://
        const auto colon = std::min(url.find(':', kSchemeBytes), url.size());
        const auto end = std::min(url.find('/', colon), url.size());
        const auto dash = url.find('-', colon);
        if (dash >= end) {
            all.push_back(url);
        } else {
            const auto first = number_in(std::string_view(url).substr(colon + 1, dash - colon - 1));
            const auto last = number_in(std::string_view(url).substr(dash + 1, end - dash - 1));
            if (!first || !last || *first > *last || *last > 65535) {
                return fail(ErrorCode::invalid_argument, "'" + url + "': ports are FIRST-LAST, for example 9100-9104");
            }
            for (std::uint32_t port = *first; port <= *last && all.size() <= kUrlsMax; ++port) {
                all.push_back(url.substr(0, colon + 1) + std::to_string(port));
            }
        }
        if (all.size() > kUrlsMax) {
            return fail(ErrorCode::invalid_argument,
                        "more than " + std::to_string(kUrlsMax) + " processes: that is what a Prometheus is for");
        }
    }
    for (const std::string& url : all) {
        if (const auto target = bench::parse_url(url); !target) { return base::pass_on(target); }
    }
    return all;
}

void add_top(CLI::App& app, TopCommand& command) {
    app.add_option(
           "--url", command.urls,
           "of a process that serves /metrics: the gateway, and the --admin-port of the others; with commas, several "
           "times, and with ports from to: http://127.0.0.1:9100-9104. `sluice serve` has all at one")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->capture_default_str();
    app.add_option("--api-key", command.api_key, "of scope admin, where the gateway has keys; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
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
    TopMoment before = look(*urls, command.api_key, clock);
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
        TopMoment now = look(*urls, command.api_key, clock);
        show(now, &before);
        if (command.once) { return is_reached(now) ? 0 : 1; }
        if (std::ferror(stdout) != 0) { return 1; }
        before = std::move(now);
    }
}

}  // namespace cli
