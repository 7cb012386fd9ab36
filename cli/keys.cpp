#include "cli/keys.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <utility>

#include "base/clock.h"
#include "cli/process.h"
#include "gateway/keys/api_key.h"

namespace cli {
namespace {

using base::ErrorCode;
using gateway::ApiKey;

constexpr std::size_t kOwnKeyBytesMin = 16;
constexpr std::size_t kOwnKeyBytesMax = 512;

std::int64_t now_unix_s() {
    return base::SystemClock().unix_us() / 1'000'000;
}

/// One at a time changes the file: two that read it at once would each lose what the other wrote.
class Lock {
public:
    explicit Lock(const std::string& path)
        : file_(::open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
        if (file_ >= 0) { held_ = ::flock(file_, LOCK_EX) == 0; }
    }
    ~Lock() {
        if (file_ >= 0) { ::close(file_); }
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    bool is_held() const { return held_; }

private:
    int file_;
    bool held_ = false;
};

base::Result<std::vector<ApiKey>> read_or_none(const std::string& path) {
    auto keys = gateway::read_key_list(path);
    if (!keys && keys.error().code == ErrorCode::not_found) { return std::vector<ApiKey>(); }
    return keys;
}

/// A key that somebody else made: one line of standard input.
base::Result<std::string> key_of_input() {
    std::string key;
    std::getline(std::cin, key);
    while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) {
        key.pop_back();
    }
    const bool is_printable = std::all_of(key.begin(), key.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (key.size() < kOwnKeyBytesMin || key.size() > kOwnKeyBytesMax || !is_printable) {
        return base::fail(ErrorCode::invalid_argument,
                          "a key of your own is one line of 16 to 512 printable characters without spaces, and should "
                          "come from a random source (openssl rand -hex 32)");
    }
    return key;
}

base::Result<void> add(const KeysCommand& command) {
    const Lock lock(command.file);
    if (!lock.is_held()) {
        return base::fail(ErrorCode::unavailable, command.file + ".lock cannot be locked: " + std::strerror(errno));
    }
    auto keys = read_or_none(command.file);
    if (!keys) { return base::pass_on(keys); }
    auto secret = command.reads_key ? key_of_input() : base::Result<std::string>(gateway::random_api_key());
    if (!secret) { return base::pass_on(secret); }
    ApiKey key{.id = gateway::random_key_id(),
               .name = command.name,
               .digest = gateway::digest_of_key(*secret),
               .tenant = command.tenant,
               .models = command.models,
               .scopes = command.scopes,
               .slo_classes = command.slo_classes,
               .requests_per_minute = command.requests_per_minute,
               .tokens_per_minute = command.tokens_per_minute,
               .concurrent = command.concurrent,
               .created_unix_s = now_unix_s(),
               .expires_unix_s = std::nullopt};
    if (key.tenant.empty()) { key.tenant = key.id; }
    if (!command.expires.empty()) {
        const auto until = gateway::parse_expiry(command.expires, key.created_unix_s);
        if (!until) { return base::pass_on(until); }
        key.expires_unix_s = *until;
    }
    const std::string id = key.id;
    keys->push_back(std::move(key));
    // What could not be read again is not written.
    if (const auto checked = gateway::parse_keys(gateway::keys_json(*keys)); !checked) {
        return base::fail(checked.error().code, checked.error().message);
    }
    if (auto written = gateway::write_key_list(command.file, *keys); !written) { return written; }
    std::fprintf(stderr, "added %s; the key is shown this once, the file keeps its SHA-256:\n", id.c_str());
    std::printf("%s\n", command.reads_key ? id.c_str() : secret->c_str());
    return {};
}

std::string joined(const std::vector<std::string>& words, const char* none) {
    if (words.empty()) { return none; }
    std::string text;
    for (const std::string& word : words) {
        text += (text.empty() ? "" : ",") + word;
    }
    return text;
}

std::string bound(std::uint64_t count) {
    return count == 0 ? "-" : std::to_string(count);
}

base::Result<void> list(const KeysCommand& command) {
    const auto keys = gateway::read_key_list(command.file);
    if (!keys) { return base::pass_on(keys); }
    if (command.json) {
        std::printf("%s", gateway::keys_json(*keys).c_str());
        return {};
    }
    std::printf("%-10s %-20s %-12s %-28s %-16s %9s %10s %10s  %s\n", "id", "name", "tenant", "scopes", "models",
                "req/min", "tokens/min", "concurrent", "expires");
    for (const ApiKey& key : *keys) {
        const std::string until = !key.expires_unix_s ? "never" : gateway::format_time(*key.expires_unix_s);
        std::printf("%-10s %-20s %-12s %-28s %-16s %9s %10s %10s  %s%s\n", key.id.c_str(), key.name.c_str(),
                    key.tenant.c_str(), joined(key.scopes, "all but admin").c_str(), joined(key.models, "all").c_str(),
                    bound(key.requests_per_minute).c_str(), bound(key.tokens_per_minute).c_str(),
                    bound(key.concurrent).c_str(), until.c_str(), key.expired(now_unix_s()) ? " (expired)" : "");
    }
    return {};
}

base::Result<void> revoke(const KeysCommand& command) {
    const Lock lock(command.file);
    if (!lock.is_held()) {
        return base::fail(ErrorCode::unavailable, command.file + ".lock cannot be locked: " + std::strerror(errno));
    }
    auto keys = gateway::read_key_list(command.file);
    if (!keys) { return base::pass_on(keys); }
    if (std::erase_if(*keys, [&](const ApiKey& key) { return key.id == command.id; }) == 0) {
        return base::fail(ErrorCode::not_found,
                          "no key has the id '" + command.id + "' (sluice keys list --file " + command.file + ")");
    }
    if (auto written = gateway::write_key_list(command.file, *keys); !written) { return written; }
    std::printf("revoked %s\n", command.id.c_str());
    return {};
}

int status_of(const base::Result<void>& done) {
    return done ? 0 : report(done.error());
}

void add_file(CLI::App& app, KeysCommand& command) {
    app.add_option("--file", command.file, "as the gateway's setting gateway.keys_file")->required();
}

}  // namespace

void add_keys_add(CLI::App& app, KeysCommand& command) {
    add_file(app, command);
    app.add_option("--name", command.name, "for people");
    app.add_option("--tenant", command.tenant, "whom its requests are counted for; default: the key's own id");
    app.add_option("--models", command.models, "served names that it may use; default: all")->delimiter(',');
    app.add_option("--scopes", command.scopes,
                   "of chat, completions, responses, messages, embeddings, text, models, admin; default: all but admin")
        ->delimiter(',');
    app.add_option("--slo-classes", command.slo_classes, "that its requests may be of; default: all")->delimiter(',');
    app.add_option("--requests-per-minute", command.requests_per_minute, "default: no bound");
    app.add_option("--tokens-per-minute", command.tokens_per_minute, "of prompts and answers; default: no bound");
    app.add_option("--concurrent", command.concurrent, "requests in work; default: no bound");
    app.add_option("--expires", command.expires,
                   "2027-01-31, 2027-01-31T12:00:00Z, or from now 30d, 12h; default: never");
    app.add_flag("--stdin", command.reads_key, "take the key from the first line of standard input, and print its id");
}

void add_keys_list(CLI::App& app, KeysCommand& command) {
    add_file(app, command);
    app.add_flag("--json", command.json, "the file as it is read");
}

void add_keys_revoke(CLI::App& app, KeysCommand& command) {
    app.add_option("ID", command.id, "of the key")->required();
    add_file(app, command);
}

int keys_add_main(const KeysCommand& command) {
    return status_of(add(command));
}

int keys_list_main(const KeysCommand& command) {
    return status_of(list(command));
}

int keys_revoke_main(const KeysCommand& command) {
    return status_of(revoke(command));
}

}  // namespace cli
