#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace gateway {

using KeyDigest = std::array<std::byte, 32>;

/// SHA-256: what is kept of a key. Keys are made of 256 random bits, so a digest need not be slow.
KeyDigest digest_of_key(std::string_view key);

/// What the holder of one key may do. Names in lists; an empty list does not restrict, but for `scopes`.
struct ApiKey {
    std::string id;    // public; in logs and lists
    std::string name;  // for people
    KeyDigest digest{};
    std::string tenant;                     // whom its requests are counted for
    std::vector<std::string> models;        // served names
    std::vector<std::string> scopes;        // of kKeyScopes; empty: all but admin
    std::vector<std::string> slo_classes;   // that a request may be of
    std::uint64_t requests_per_minute = 0;  // 0, here and below: no bound
    std::uint64_t tokens_per_minute = 0;    // of prompts and answers
    std::uint32_t concurrent = 0;           // requests in work
    std::int64_t created_unix_s = 0;
    std::optional<std::int64_t> expires_unix_s;

    bool expired(std::int64_t now_unix_s) const { return expires_unix_s && now_unix_s >= *expires_unix_s; }
    /// `scope` is of kKeyScopes.
    bool allows(std::string_view scope) const;
    bool allows_model(std::string_view served_name) const;
    bool allows_slo_class(std::string_view name) const;
};

/// What a key can be for: the endpoints that make sequences; batches (files, too); texts and tokens of a model
/// (tokenize, templates); lists of models; and admin: metrics, server_info, explain, reset_prefix_cache.
inline constexpr std::array<std::string_view, 9> kKeyScopes = {
    "chat", "completions", "responses", "messages", "embeddings", "batches", "text", "models", "admin"};

/// "sk-sluice-" and 43 characters that stand for 256 bits of the operating system's random source.
std::string random_api_key();
/// 8 random characters.
std::string random_key_id();

/// The file of a gateway's keys: {"keys":[{"id":..,"sha256":..,...}]}. Nothing in it opens a door: keys are not in it.
/// Errors: invalid_argument with the number of the key and the field (also two keys with one id or one digest),
/// not_found, permission_denied (others could write it), resource_exhausted (more than kKeysMax).
inline constexpr std::size_t kKeysMax = 10'000;
base::Result<std::vector<ApiKey>> parse_keys(std::string_view json);
base::Result<std::vector<ApiKey>> read_key_list(const std::string& path);
std::string keys_json(const std::vector<ApiKey>& keys);
/// Whole or not at all, mode 0600: a gateway that reads meanwhile sees the old file or the new one.
/// Error: unavailable, with the system's words.
base::Result<void> write_key_list(const std::string& path, const std::vector<ApiKey>& keys);

/// "2027-01-31", "2027-01-31T12:00:00Z" or "30d", "12h" from now. Error: invalid_argument.
base::Result<std::int64_t> parse_expiry(std::string_view text, std::int64_t now_unix_s);
/// "2027-01-31T12:00:00Z".
std::string format_time(std::int64_t unix_s);

}  // namespace gateway
