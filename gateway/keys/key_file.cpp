#include "gateway/keys/api_key.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <set>
#include <string>
#include <utility>

namespace gateway {
namespace {

namespace json = boost::json;
using base::ErrorCode;

constexpr std::size_t kFileBytesMax = 16u << 20;
constexpr std::size_t kNameBytesMax = 256;
constexpr std::size_t kListMax = 256;

constexpr std::string_view kDigits = "0123456789abcdef";

std::string hex_of(const KeyDigest& digest) {
    std::string text;
    for (const std::byte byte : digest) {
        text += kDigits[std::to_integer<unsigned>(byte) >> 4];
        text += kDigits[std::to_integer<unsigned>(byte) & 15];
    }
    return text;
}

bool read_hex(std::string_view text, KeyDigest& digest) {
    if (text.size() != 2 * digest.size()) { return false; }
    for (std::size_t at = 0; at < text.size(); ++at) {
        const auto digit = kDigits.find(text[at]);
        if (digit == std::string_view::npos) { return false; }
        digest[at / 2] = static_cast<std::byte>(std::to_integer<unsigned>(digest[at / 2]) * 16 + digit);
    }
    return true;
}

bool is_plain(std::string_view text) {
    return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("._:-").find(c) != std::string_view::npos;
    });
}

/// One key of the file, field by field; `problem` gets the first thing that is wrong.
class Reader {
public:
    explicit Reader(const json::object& object) : object_(object) {}

    ApiKey read() {
        ApiKey key;
        key.id = text("id");
        if (problem.empty() && !is_plain(key.id)) { wrong("id", "must be 1 to 64 of A-Z a-z 0-9 . _ : -"); }
        if (!read_hex(text("sha256"), key.digest)) {
            wrong("sha256", "must be the 64 hexadecimal digits of the key's SHA-256, in lower case");
        }
        key.name = text("name", false);
        key.tenant = text("tenant", false);
        if (key.tenant.empty()) { key.tenant = key.id; }
        if (!is_plain(key.tenant)) { wrong("tenant", "must be 1 to 64 of A-Z a-z 0-9 . _ : -"); }
        key.models = list("models");
        key.scopes = list("scopes");
        for (const std::string& scope : key.scopes) {
            if (std::find(kKeyScopes.begin(), kKeyScopes.end(), scope) == kKeyScopes.end()) {
                wrong("scopes",
                      "knows no '" + scope +
                          "'; there are chat, completions, responses, messages, embeddings, text, models, admin");
            }
        }
        key.slo_classes = list("slo_classes");
        key.requests_per_minute = count("requests_per_minute", 1'000'000'000);
        key.tokens_per_minute = count("tokens_per_minute", 1'000'000'000'000);
        key.concurrent = static_cast<std::uint32_t>(count("concurrent", 1'000'000));
        key.created_unix_s = time("created").value_or(0);
        key.expires_unix_s = time("expires");
        for (const auto& field : object_) {
            if (!known_.contains(std::string(field.key()))) { wrong(field.key(), "is not known"); }
        }
        return key;
    }

    std::string problem;

private:
    void wrong(std::string_view field, const std::string& what) {
        if (problem.empty()) { problem = "'" + std::string(field) + "' " + what; }
    }
    const json::value* field(const char* name) {
        known_.insert(name);
        return object_.if_contains(name);
    }
    std::string text(const char* name, bool is_needed = true) {
        const json::value* value = field(name);
        if (value == nullptr) {
            if (is_needed) { wrong(name, "is missing"); }
            return {};
        }
        const json::string* said = value->if_string();
        if (said == nullptr || said->size() > kNameBytesMax) {
            wrong(name, "must be a string of at most 256 bytes");
            return {};
        }
        return std::string(*said);
    }
    std::vector<std::string> list(const char* name) {
        const json::value* value = field(name);
        std::vector<std::string> result;
        if (value == nullptr) { return result; }
        const json::array* said = value->if_array();
        if (said == nullptr || said->size() > kListMax) {
            wrong(name, "must be a list of at most 256 names");
            return result;
        }
        for (const json::value& one : *said) {
            const json::string* entry = one.if_string();
            if (entry == nullptr || entry->empty() || entry->size() > kNameBytesMax) {
                wrong(name, "must be a list of names");
                return result;
            }
            result.emplace_back(*entry);
        }
        if (result.empty()) { wrong(name, "is an empty list: leave it out where nothing is restricted"); }
        return result;
    }
    std::uint64_t count(const char* name, std::int64_t high) {
        const json::value* value = field(name);
        if (value == nullptr) { return 0; }
        const std::int64_t* said = value->if_int64();
        if (said == nullptr || *said < 1 || *said > high) {
            wrong(name, "must be a whole number from 1 to " + std::to_string(high));
            return 0;
        }
        return static_cast<std::uint64_t>(*said);
    }
    std::optional<std::int64_t> time(const char* name) {
        if (field(name) == nullptr) { return std::nullopt; }
        const std::string said = text(name);
        const auto parsed = said.size() == 20 || said.size() == 10
                                ? parse_expiry(said, 0)
                                : base::Result<std::int64_t>(base::fail(ErrorCode::invalid_argument, ""));
        if (!parsed) {
            wrong(name, "must be a time such as 2027-01-31T12:00:00Z");
            return std::nullopt;
        }
        return *parsed;
    }

    const json::object& object_;
    std::set<std::string> known_;
};

}  // namespace

base::Result<std::vector<ApiKey>> parse_keys(std::string_view text) {
    const auto invalid = [](const std::string& what) { return base::fail(ErrorCode::invalid_argument, what); };
    json::error_code error;
    const json::value document = json::parse(text, error);
    if (error) { return invalid("is no JSON: " + error.message()); }
    const json::object* object = document.if_object();
    const json::value* list = object == nullptr ? nullptr : object->if_contains("keys");
    if (list == nullptr || !list->is_array() || object->size() != 1) {
        return invalid("must be one object {\"keys\": [...]}");
    }
    const json::array& entries = list->get_array();
    if (entries.size() > kKeysMax) {
        return base::fail(ErrorCode::resource_exhausted, "has " + std::to_string(entries.size()) + " keys; at most " +
                                                             std::to_string(kKeysMax) + " are read");
    }
    std::vector<ApiKey> keys;
    std::set<std::string> ids;
    std::set<KeyDigest> digests;
    for (std::size_t at = 0; at < entries.size(); ++at) {
        const std::string where = "key " + std::to_string(at + 1) + ": ";
        const json::object* entry = entries[at].if_object();
        if (entry == nullptr) { return invalid(where + "must be an object"); }
        Reader reader(*entry);
        ApiKey key = reader.read();
        if (!reader.problem.empty()) { return invalid(where + reader.problem); }
        if (!ids.insert(key.id).second) { return invalid(where + "another one has the id " + key.id); }
        if (!digests.insert(key.digest).second) { return invalid(where + "another one has its sha256"); }
        keys.push_back(std::move(key));
    }
    return keys;
}

base::Result<std::vector<ApiKey>> read_key_list(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        return base::fail(errno == ENOENT ? ErrorCode::not_found : ErrorCode::unavailable,
                          "the file of keys " + path + " cannot be read: " + std::strerror(errno));
    }
    const auto failure = [&](ErrorCode code, const std::string& what) {
        ::close(file);
        return base::fail(code, "the file of keys " + path + " " + what);
    };
    struct stat about{};
    if (::fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
        return failure(ErrorCode::invalid_argument, "is no file");
    }
    if ((about.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return failure(ErrorCode::permission_denied,
                       "can be changed by others, who could let themselves in: chmod 600 " + path);
    }
    if (static_cast<std::uint64_t>(about.st_size) > kFileBytesMax) {
        return failure(ErrorCode::resource_exhausted, "is larger than 16 MiB");
    }
    std::string text(static_cast<std::size_t>(about.st_size), '\0');
    std::size_t have = 0;
    while (have < text.size()) {
        const ssize_t count = ::read(file, text.data() + have, text.size() - have);
        if (count < 0 && errno == EINTR) { continue; }
        if (count <= 0) { break; }
        have += static_cast<std::size_t>(count);
    }
    if (have < text.size()) { return failure(ErrorCode::unavailable, "ended while it was read"); }
    ::close(file);
    auto keys = parse_keys(text);
    if (!keys) { return base::fail(keys.error().code, "the file of keys " + path + ": " + keys.error().message); }
    return keys;
}

std::string keys_json(const std::vector<ApiKey>& keys) {
    json::array entries;
    for (const ApiKey& key : keys) {
        json::object entry{{"id", key.id}};
        const auto names = [&](const char* field, const std::vector<std::string>& list) {
            if (!list.empty()) { entry[field] = json::array(list.begin(), list.end()); }
        };
        const auto count = [&](const char* field, std::uint64_t value) {
            if (value > 0) { entry[field] = static_cast<std::int64_t>(value); }
        };
        if (!key.name.empty()) { entry["name"] = key.name; }
        entry["sha256"] = hex_of(key.digest);
        entry["tenant"] = key.tenant;
        names("models", key.models);
        names("scopes", key.scopes);
        names("slo_classes", key.slo_classes);
        count("requests_per_minute", key.requests_per_minute);
        count("tokens_per_minute", key.tokens_per_minute);
        count("concurrent", key.concurrent);
        entry["created"] = format_time(key.created_unix_s);
        if (key.expires_unix_s) { entry["expires"] = format_time(*key.expires_unix_s); }
        entries.push_back(std::move(entry));
    }
    std::string text = "{\"keys\": [";
    for (std::size_t at = 0; at < entries.size(); ++at) {
        text += (at == 0 ? "\n  " : ",\n  ") + json::serialize(entries[at]);
    }
    return text + "\n]}\n";
}

base::Result<void> write_key_list(const std::string& path, const std::vector<ApiKey>& keys) {
    const std::string text = keys_json(keys);
    const std::string fresh = path + ".new." + std::to_string(::getpid());
    const auto failure = [&] {
        const int error = errno;
        ::unlink(fresh.c_str());
        return base::fail(ErrorCode::unavailable,
                          "the file of keys " + path + " cannot be written: " + std::strerror(error));
    };
    const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) { return failure(); }
    std::size_t done = 0;
    while (done < text.size()) {
        const ssize_t count = ::write(file, text.data() + done, text.size() - done);
        if (count < 0 && errno == EINTR) { continue; }
        if (count <= 0) { break; }
        done += static_cast<std::size_t>(count);
    }
    const bool is_written = done == text.size() && ::fsync(file) == 0;
    if (::close(file) != 0 || !is_written || ::rename(fresh.c_str(), path.c_str()) != 0) { return failure(); }
    return {};
}

}  // namespace gateway
