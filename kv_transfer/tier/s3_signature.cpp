#include "kv_transfer/tier/s3_signature.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include <array>
#include <ctime>

#include "base/check.h"

namespace kv_transfer {
namespace {

using Digest = std::array<std::byte, SHA256_DIGEST_LENGTH>;

constexpr std::string_view kAlgorithm = "AWS4-HMAC-SHA256";
constexpr std::string_view kUnreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text));
}

std::string hex_of(const Digest& digest) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    std::string text;
    for (const std::byte byte : digest) {
        text += kDigits[std::to_integer<unsigned>(byte) >> 4];
        text += kDigits[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

Digest hmac(std::span<const std::byte> key, std::string_view text) {
    Digest made;
    unsigned bytes = 0;
    const auto* done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                            reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                            reinterpret_cast<unsigned char*>(made.data()), &bytes);
    CHECK(done != nullptr && bytes == made.size(), "HMAC-SHA256 gave " << bytes << " bytes");
    return made;
}

}  // namespace

std::string sha256_hex(std::span<const std::byte> data) {
    Digest made;
    unsigned bytes = 0;
    const int done = EVP_Digest(data.data(), data.size(), reinterpret_cast<unsigned char*>(made.data()), &bytes,
                                EVP_sha256(), nullptr);
    CHECK(done == 1 && bytes == made.size(), "SHA-256 gave " << bytes << " bytes");
    return hex_of(made);
}

std::string s3_time(std::int64_t unix_seconds) {
    const auto seconds = static_cast<std::time_t>(unix_seconds);
    std::tm time{};
    CHECK(::gmtime_r(&seconds, &time) != nullptr);
    return fmt::format("{:%Y%m%dT%H%M%SZ}", time);
}

std::string uri_encode(std::string_view text, bool keeps_slash) {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    std::string encoded;
    for (const char c : text) {
        if (kUnreserved.find(c) != std::string_view::npos || (c == '/' && keeps_slash)) {
            encoded += c;
        } else {
            const auto byte = static_cast<unsigned char>(c);
            encoded += '%';
            encoded += kDigits[byte >> 4];
            encoded += kDigits[byte & 15];
        }
    }
    return encoded;
}

std::string s3_authorization(const S3SignedParts& parts, const S3Credentials& credentials,
                             const S3SigningScope& scope) {
    std::string headers;
    std::string names;
    for (const auto& [name, value] : parts.headers) {
        headers += name + ":" + value + "\n";
        names += (names.empty() ? "" : ";") + name;
    }
    const std::string canonical = fmt::format("{}\n{}\n{}\n{}\n{}\n{}", parts.method, parts.path, parts.query, headers,
                                              names, parts.payload_sha256);
    const std::string day = scope.time.substr(0, 8);
    const std::string where = day + "/" + scope.region + "/" + scope.service + "/aws4_request";
    const std::string to_sign =
        fmt::format("{}\n{}\n{}\n{}", kAlgorithm, scope.time, where, sha256_hex(bytes_of(canonical)));
    Digest key = hmac(bytes_of("AWS4" + credentials.secret_access_key), day);
    for (const std::string_view part :
         {std::string_view(scope.region), std::string_view(scope.service), std::string_view("aws4_request")}) {
        key = hmac(key, part);
    }
    return fmt::format("{} Credential={}/{}, SignedHeaders={}, Signature={}", kAlgorithm, credentials.access_key_id,
                       where, names, hex_of(hmac(key, to_sign)));
}

}  // namespace kv_transfer
