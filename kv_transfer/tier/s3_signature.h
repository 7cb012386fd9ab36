#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// AWS Signature Version 4 in the Authorization header, as stores that speak S3 want it. Pure. Internal to this folder.
// Source: AWS, "Signature Version 4 signing process" and "Authenticating Requests: Using the Authorization Header (AWS
// Signature Version 4)" of the S3 API reference, whose examples are the tests.
namespace kv_transfer {

/// Who asks a store. Never in a message or a log.
struct S3Credentials {
    std::string access_key_id;
    std::string secret_access_key;
    std::string session_token = {};  // empty: none
};

/// What is signed of a request. All of it as it goes over the wire.
struct S3SignedParts {
    std::string_view method;  // "GET"
    std::string_view path;    // encoded, as it stands in the request line: "/bucket/a/b"
    std::string_view query;   // encoded, `name=value` by name, without the question mark; empty: none
    std::vector<std::pair<std::string, std::string>> headers;  // names in lower case and in order; values trimmed
    std::string_view payload_sha256;                           // of the body, sha256_hex()
};

/// Where and when a signature holds.
struct S3SigningScope {
    std::string region;
    std::string service;  // "s3"
    std::string time;     // s3_time()
};

/// 64 hexadecimal digits in lower case.
std::string sha256_hex(std::span<const std::byte> data);
/// "20130524T000000Z".
std::string s3_time(std::int64_t unix_seconds);
/// All but letters, digits and -._~ as %XX; a slash stays where `keeps_slash`.
std::string uri_encode(std::string_view text, bool keeps_slash);
/// The value of the Authorization header.
std::string s3_authorization(const S3SignedParts& parts, const S3Credentials& credentials, const S3SigningScope& scope);

}  // namespace kv_transfer
