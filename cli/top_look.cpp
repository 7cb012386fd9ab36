#include "cli/top_look.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "bench/load_generator.h"
#include "bench/openai_wire.h"

namespace cli {
namespace {

using base::ErrorCode;
using base::fail;

constexpr std::size_t kUrlsMax = 256;
constexpr bench::Seconds kTimeout{3};
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

}  // namespace

void add_look_flags(CLI::App& app, std::vector<std::string>& urls, std::string& api_key) {
    app.add_option(
           "--url", urls,
           "of a process that serves /metrics: the gateway, and the --admin-port of the others; with commas, several "
           "times, and with ports from to: http://127.0.0.1:9100-9104. `sluice serve` has all at one")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->capture_default_str();
    app.add_option("--api-key", api_key, "of scope admin, where the gateway has keys; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
}

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

TopMoment look_at(const std::vector<std::string>& urls, const std::string& api_key, const base::Clock& clock) {
    TopMoment moment;
    moment.sources.resize(urls.size());
    {
        std::atomic<std::size_t> next{0};
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < std::min(urls.size(), kAskedAtOnce); ++i) {
            threads.emplace_back([&] {
                for (std::size_t at = next++; at < urls.size(); at = next++) {
                    moment.sources[at] = ask(urls[at], api_key);
                }
            });
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

}  // namespace cli
