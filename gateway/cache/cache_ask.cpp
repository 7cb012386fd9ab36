#include "gateway/cache/cache_ask.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <utility>

namespace gateway {
namespace {

constexpr std::size_t kTagsMax = 16;
constexpr std::size_t kTagBytesMax = 64;
constexpr std::size_t kShownBytesMax = 100;
constexpr std::int64_t kSecondsMax = std::int64_t{1} << 31;  // RFC 9111, 1.2.2: what is more counts as this

std::string_view trimmed(std::string_view text) {
    const auto begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) { return {}; }
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::string lower(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return result;
}

/// Calls `take` with each part of a list in commas.
template <class Take>
void for_each_part(std::string_view list, const Take& take) {
    while (!list.empty()) {
        const auto comma = list.find(',');
        if (const auto part = trimmed(list.substr(0, comma)); !part.empty()) { take(part); }
        list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
    }
}

std::optional<std::int64_t> seconds_of(std::string_view text) {
    if (text.size() >= 2 && text.front() == '"' && text.back() == '"') { text = text.substr(1, text.size() - 2); }
    if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) { return std::nullopt; }
    std::int64_t seconds = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    return error == std::errc() ? std::min(seconds, kSecondsMax) : kSecondsMax;
}

bool is_tag(std::string_view text) {
    return text.size() <= kTagBytesMax && std::all_of(text.begin(), text.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      std::string_view("._:-/").find(c) != std::string_view::npos;
           });
}

/// The error of one directive.
std::optional<ApiError> take_directive(std::string_view part, CacheAsk& ask) {
    const auto equals = part.find('=');
    const std::string name = lower(trimmed(part.substr(0, equals)));
    if (name == "no-cache") { ask.no_cache = true; }
    if (name == "no-store") { ask.no_store = true; }
    if (name == "only-if-cached") { ask.only_if_cached = true; }
    if (name == "private") { ask.is_private = true; }
    if (name != "max-age" && name != "stale-if-error") { return std::nullopt; }
    const auto seconds =
        seconds_of(equals == std::string_view::npos ? std::string_view() : trimmed(part.substr(equals + 1)));
    if (!seconds) {
        return bad_request("", "Cache-Control: " + name + " takes a whole number of seconds, like " + name +
                                   "=60; not '" + std::string(part.substr(0, kShownBytesMax)) + "'")
            .value();
    }
    (name == "max-age" ? ask.max_age_s : ask.stale_if_error_s) = *seconds;
    return std::nullopt;
}

}  // namespace

ApiResult<std::shared_ptr<CacheAsk>> read_cache_ask(const RequestHead& head) {
    auto ask = std::make_shared<CacheAsk>();
    std::optional<ApiError> error;
    for (const auto& [name, value] : head.fields) {
        if (name == "cache-control") {
            for_each_part(value, [&](std::string_view part) {
                if (auto problem = take_directive(part, *ask); problem && !error) { error = std::move(problem); }
            });
        } else if (name == "x-cache-tags") {
            for_each_part(value, [&](std::string_view part) {
                if (!is_tag(part) || ask->tags.size() >= kTagsMax) {
                    error = bad_request("", "x-cache-tags takes up to " + std::to_string(kTagsMax) +
                                                " names in commas, each of 1 to " + std::to_string(kTagBytesMax) +
                                                " of the characters A-Z a-z 0-9 . _ : - /")
                                .value();
                    return;
                }
                ask->tags.emplace_back(part);
            });
        }
    }
    if (error) { return pass_on(std::move(*error)); }
    return ask;
}

std::string_view CacheAsk::word() const {
    switch (outcome) {
        case CacheOutcome::none:
            return {};
        case CacheOutcome::hit:
            return "HIT";
        case CacheOutcome::miss:
            return "MISS";
        case CacheOutcome::bypass:
            return "BYPASS";
        case CacheOutcome::stale:
            return "STALE";
        case CacheOutcome::coalesced:
            return "COALESCED";
    }
    return {};
}

HttpFields CacheAsk::fields() const {
    HttpFields result;
    if (outcome == CacheOutcome::none) { return result; }
    result.emplace_back("x-cache", word());
    if (outcome == CacheOutcome::bypass) { result.emplace_back("x-cache-reason", refused); }
    if (!kind.empty()) { result.emplace_back("x-cache-kind", kind); }
    if (!entry.empty()) { result.emplace_back("x-cache-entry", entry); }
    if (age_s) { result.emplace_back("age", std::to_string(*age_s)); }
    if (similarity) {
        char text[32];
        std::snprintf(text, sizeof text, "%.4f", *similarity);
        result.emplace_back("x-cache-similarity", text);
    }
    return result;
}

}  // namespace gateway
