#include "gateway/keys/key_keeper.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"

namespace gateway {
namespace {

constexpr std::string_view kBearer = "bearer ";
constexpr std::uint32_t kRetryMax = 60;  // seconds; ApiError::retry_after_s

std::optional<std::string_view> bearer_of(std::string_view field) {
    if (field.size() <= kBearer.size()) { return std::nullopt; }
    const bool is_bearer = std::equal(kBearer.begin(), kBearer.end(), field.begin(), [](char word, char said) {
        return word == (said >= 'A' && said <= 'Z' ? static_cast<char>(said - 'A' + 'a') : said);
    });
    if (!is_bearer) { return std::nullopt; }
    field.remove_prefix(kBearer.size());
    while (field.starts_with(' ')) {
        field.remove_prefix(1);
    }
    return field;
}

ApiError unauthorized(std::string message) {
    ApiError error{.status = 401, .message = std::move(message)};
    error.code = "invalid_api_key";
    return error;
}

/// What everybody may ask.
bool is_open(const RequestHead& head) {
    if (head.method == "OPTIONS") { return true; }
    if (head.method != "GET" && head.method != "HEAD") { return false; }
    std::string_view path = head.path;
    if (path.starts_with("/v1/")) { path.remove_prefix(3); }
    return path == "/live" || path == "/health" || path == "/ready";
}

}  // namespace

std::size_t KeyKeeper::DigestHash::operator()(const KeyDigest& digest) const {
    std::size_t hash = 0;
    std::memcpy(&hash, digest.data(), sizeof hash);
    return hash;
}

KeyKeeper::KeyKeeper(Setup setup) : setup_(std::move(setup)), file_(setup_.path) {}

base::Result<std::unique_ptr<KeyKeeper>> KeyKeeper::open(Setup setup) {
    auto keeper = std::unique_ptr<KeyKeeper>(new KeyKeeper(std::move(setup)));
    auto keys = read_key_list(keeper->setup_.path);
    if (!keys) { return base::fail(base::ErrorCode::invalid_argument, keys.error().message); }
    keeper->take(std::move(*keys));
    keeper->next_look_ = keeper->setup_.clock.now() + keeper->setup_.look_interval;
    return keeper;
}

std::unique_ptr<KeyKeeper> KeyKeeper::of(std::vector<ApiKey> keys, const base::Clock& clock, base::Metrics& metrics) {
    auto keeper = std::unique_ptr<KeyKeeper>(new KeyKeeper({.path = "", .clock = clock, .metrics = metrics}));
    keeper->take(std::move(keys));
    keeper->next_look_ = base::TimePoint::max();
    return keeper;
}

void KeyKeeper::take(std::vector<ApiKey> keys) {
    book_->forget_others(keys);
    keys_.clear();
    std::set<std::string> tenants;
    for (ApiKey& key : keys) {
        const KeyDigest digest = key.digest;
        tenants.insert(key.tenant);
        keys_.emplace(digest, std::make_shared<const ApiKey>(std::move(key)));
    }
    tenants_ = std::make_shared<const std::set<std::string>>(std::move(tenants));
    setup_.metrics.gauge("sluice_gateway_keys", "API keys that were read").Set(static_cast<double>(keys_.size()));
    setup_.metrics
        .gauge("sluice_gateway_keys_file_valid", "Whether the file of API keys could be read when it changed last")
        .Set(1);
}

base::TimePoint KeyKeeper::tick(base::TimePoint now) {
    if (now < next_look_) { return next_look_; }
    next_look_ = now + setup_.look_interval;
    if (!file_.changed()) { return next_look_; }
    auto keys = read_key_list(setup_.path);
    if (!keys) {
        base::warn_limited("keys file", "{}: the {} keys read before stay in force", keys.error().message,
                           keys_.size());
        setup_.metrics
            .gauge("sluice_gateway_keys_file_valid", "Whether the file of API keys could be read when it changed last")
            .Set(0);
        return next_look_;
    }
    take(std::move(*keys));
    spdlog::info("{} API keys read from {}", keys_.size(), setup_.path);
    return next_look_;
}

KeyKeeper::Found KeyKeeper::look_for(const RequestHead& head) const {
    std::optional<std::string_view> shown;
    for (const auto& [name, value] : head.fields) {
        std::optional<std::string_view> here;
        if (name == "authorization") { here = bearer_of(value); }
        if (name == "x-api-key") { here = value; }
        if (!here || here->empty()) { continue; }
        if (shown && *shown != *here) { return {nullptr, "ambiguous"}; }
        shown = here;
    }
    if (!shown) { return {nullptr, "missing"}; }
    const auto at = keys_.find(digest_of_key(*shown));
    if (at == keys_.end()) { return {nullptr, "unknown"}; }
    const bool has_expired = at->second->expired(setup_.clock.unix_us() / 1'000'000);
    return {at->second, has_expired ? "expired" : ""};
}

KeyKeeper::Key KeyKeeper::find(const RequestHead& head) const {
    Found found = look_for(head);
    return found.problem.empty() ? std::move(found.key) : nullptr;
}

ApiResult<KeyKeeper::Key> KeyKeeper::who(const RequestHead& head) const {
    Found found = look_for(head);
    if (found.problem.empty()) { return std::move(found.key); }
    setup_.metrics
        .counter("sluice_gateway_auth_failures_total", "Requests without a valid API key",
                 {{"reason", std::string(found.problem)}})
        .Increment();
    if (found.key) {
        return pass_on(unauthorized("the API key has expired (" + format_time(*found.key->expires_unix_s) + ")"));
    }
    return pass_on(
        unauthorized(found.problem == "ambiguous"
                         ? "the request shows two different API keys: send one, as 'Authorization: Bearer KEY'"
                     : found.problem == "missing"
                         ? "no API key was given: send one as 'Authorization: Bearer KEY' (or 'x-api-key: KEY')"
                         : "the API key is not valid"));
}

KeyKeeper::Key KeyKeeper::of_id(std::string_view id) const {
    const auto at = std::find_if(keys_.begin(), keys_.end(), [&](const auto& one) { return one.second->id == id; });
    const bool is_there = at != keys_.end() && !at->second->expired(setup_.clock.unix_us() / 1'000'000);
    return is_there ? at->second : nullptr;
}

std::optional<HttpRefusal> KeyKeeper::refusal(const RequestHead& head) const {
    if (is_open(head)) { return std::nullopt; }
    const auto key = who(head);
    if (key) { return std::nullopt; }
    return HttpRefusal{.status = key.error().status, .message = key.error().message, .code = *key.error().code};
}

ApiResult<std::shared_ptr<QuotaBook::Hold>> KeyKeeper::open_request(const ApiKey& key) {
    auto hold = book_->open(key, setup_.clock.now());
    if (!hold) { return pass_on(quota_error(hold.error())); }
    return std::move(*hold);
}

ApiError KeyKeeper::quota_error(const QuotaBook::Refusal& refusal) const {
    const std::string bound(bound_name(refusal.bound));
    setup_.metrics
        .counter("sluice_gateway_quota_refusals_total", "Requests beyond what their API key may use",
                 {{"bound", bound}})
        .Increment();
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(refusal.wait).count();
    ApiError error{.status = 429};
    error.code = "rate_limit_exceeded";
    error.is_quota = true;
    error.message = refusal.bound == QuotaBook::Bound::concurrent
                        ? "this API key has as many requests in work as it may"
                        : "this API key has used its " + bound + " per minute";
    error.message += "; try again in " + std::to_string(std::max<std::int64_t>(seconds, 1)) + " s";
    error.retry_after_s = static_cast<std::uint32_t>(std::clamp<std::int64_t>(seconds, 1, kRetryMax));
    return error;
}

}  // namespace gateway
