#include "gateway/keys/api_key.h"

#include <openssl/evp.h>
#include <sys/random.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>

#include "base/check.h"

namespace gateway {
namespace {

constexpr std::string_view kAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kKeyPrefix = "sk-sluice-";
constexpr std::size_t kSecretCharacters = 43;  // log2(62) * 43 = 256.03 bits
constexpr std::size_t kIdCharacters = 8;

bool has(const std::vector<std::string>& list, std::string_view name) {
    return std::find(list.begin(), list.end(), name) != list.end();
}

/// Each character as likely as any other: bytes beyond the last whole alphabet are drawn again.
std::string random_characters(std::size_t count) {
    constexpr std::size_t kFair = 256 / kAlphabet.size() * kAlphabet.size();
    std::string text;
    while (text.size() < count) {
        std::array<unsigned char, 64> bytes;
        CHECK(getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
        for (const unsigned char byte : bytes) {
            if (byte < kFair && text.size() < count) { text += kAlphabet[byte % kAlphabet.size()]; }
        }
    }
    return text;
}

std::optional<int> number(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || text.empty()) { return std::nullopt; }
    return value;
}

}  // namespace

KeyDigest digest_of_key(std::string_view key) {
    KeyDigest digest;
    unsigned bytes = 0;
    const int made = EVP_Digest(key.data(), key.size(), reinterpret_cast<unsigned char*>(digest.data()), &bytes,
                                EVP_sha256(), nullptr);
    CHECK(made == 1 && bytes == digest.size(), "SHA-256 gave " << bytes << " bytes");
    return digest;
}

bool ApiKey::allows(std::string_view scope) const {
    return scopes.empty() ? scope != "admin" : has(scopes, scope);
}

bool ApiKey::allows_model(std::string_view served_name) const {
    return models.empty() || has(models, served_name);
}

bool ApiKey::allows_slo_class(std::string_view slo_class) const {
    return slo_classes.empty() || has(slo_classes, slo_class);
}

std::string random_api_key() {
    return std::string(kKeyPrefix) + random_characters(kSecretCharacters);
}

std::string random_key_id() {
    return random_characters(kIdCharacters);
}

base::Result<std::int64_t> parse_expiry(std::string_view text, std::int64_t now_unix_s) {
    const auto invalid = [&] {
        return base::fail(base::ErrorCode::invalid_argument,
                          "'" + std::string(text) +
                              "' is no end: give a day (2027-01-31), a time (2027-01-31T12:00:00Z), or how long from "
                              "now (30d, 12h)");
    };
    if (text.size() >= 2 && (text.back() == 'd' || text.back() == 'h')) {
        const auto count = number(text.substr(0, text.size() - 1));
        if (!count || *count < 1 || *count > 1'000'000) { return invalid(); }
        return now_unix_s + std::int64_t{*count} * (text.back() == 'd' ? 86'400 : 3'600);
    }
    const bool has_time = text.size() == 20 && text[10] == 'T' && text[13] == ':' && text[16] == ':' && text[19] == 'Z';
    if (!(text.size() == 10 || has_time) || text[4] != '-' || text[7] != '-') { return invalid(); }
    const auto year = number(text.substr(0, 4));
    const auto month = number(text.substr(5, 2));
    const auto day = number(text.substr(8, 2));
    const auto hour = has_time ? number(text.substr(11, 2)) : 0;
    const auto minute = has_time ? number(text.substr(14, 2)) : 0;
    const auto second = has_time ? number(text.substr(17, 2)) : 0;
    if (!year || !month || !day || !hour || !minute || !second) { return invalid(); }
    const std::chrono::year_month_day date{std::chrono::year(*year), std::chrono::month(static_cast<unsigned>(*month)),
                                           std::chrono::day(static_cast<unsigned>(*day))};
    const bool is_time = *hour >= 0 && *hour < 24 && *minute >= 0 && *minute < 60 && *second >= 0 && *second < 60;
    if (!date.ok() || !is_time || *month < 1 || *day < 1) { return invalid(); }
    const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
    return ((days * 24 + *hour) * 60 + *minute) * 60 + *second;
}

std::string format_time(std::int64_t unix_s) {
    const std::int64_t days = unix_s >= 0 ? unix_s / 86'400 : (unix_s - 86'399) / 86'400;
    const std::int64_t in_day = unix_s - days * 86'400;
    const std::chrono::year_month_day date{std::chrono::sys_days{std::chrono::days{days}}};
    char text[96];
    std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02lld:%02lld:%02lldZ", static_cast<int>(date.year()),
                  static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                  static_cast<long long>(in_day / 3600), static_cast<long long>(in_day / 60 % 60),
                  static_cast<long long>(in_day % 60));
    return text;
}

}  // namespace gateway
