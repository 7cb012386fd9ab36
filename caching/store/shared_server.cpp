#include "caching/store/shared_server.h"

#include <hiredis/hiredis.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <random>
#include <utility>

namespace caching {
namespace {

using base::ErrorCode;

constexpr std::size_t kPasswordBytesMax = 4096;
constexpr std::string_view kScanPage = "64";                   // names; their documents are read all at once
constexpr std::size_t kOtherBytesMax = std::size_t{64} << 20;  // of an exchange, besides documents: the log, names

timeval timeval_of(base::Duration duration) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
    return {.tv_sec = static_cast<time_t>(us / 1'000'000), .tv_usec = static_cast<suseconds_t>(us % 1'000'000)};
}

std::string_view text_of(const redisReply& reply) {
    return reply.str == nullptr ? std::string_view() : std::string_view(reply.str, reply.len);
}

bool is_text(const redisReply& reply) {
    return reply.type == REDIS_REPLY_STRING || reply.type == REDIS_REPLY_STATUS;
}

/// Somewhere in the middle of what a counter can hold.
std::string any_start() {
    std::random_device device;
    const std::uint64_t high = device() & 0x0fffffffU;
    return std::to_string((high << 32U) | device());
}

template <class Number>
std::optional<Number> whole_number(std::string_view text) {
    Number number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) { return std::nullopt; }
    return number;
}

std::optional<base::BlockHash> hash_of(std::string_view hex) {
    if (hex.size() != 32) { return std::nullopt; }
    base::BlockHash hash;
    for (std::uint64_t* half : {&hash.high, &hash.low}) {
        const std::string_view digits = hex.substr(half == &hash.high ? 0 : 16, 16);
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *half, 16);
        if (error != std::errc() || end != digits.data() + digits.size()) { return std::nullopt; }
    }
    return hash;
}

base::Result<std::string> read_password(const std::string& path) {
    std::ifstream file(path);
    std::string text(kPasswordBytesMax, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) {
        text.pop_back();
    }
    if (text.empty()) {
        return base::fail(ErrorCode::invalid_argument,
                          "caching.shared.password_file: " + path + " cannot be read or is empty");
    }
    return text;
}

}  // namespace

base::Result<ServerAddress> ServerAddress::parse(std::string_view text) {
    ServerAddress address;
    if (text.starts_with("unix:")) {
        address.path = text.substr(5);
        if (!address.path.empty()) { return address; }
    } else {
        const auto bracket = text.starts_with('[') ? text.find(']') : std::string_view::npos;
        const bool is_bracketed = bracket != std::string_view::npos;
        const std::string_view rest = is_bracketed ? text.substr(bracket + 1) : text;
        const auto colon = rest.rfind(':');
        address.host = is_bracketed ? text.substr(1, bracket - 1) : rest.substr(0, colon);
        const bool is_one = !address.host.empty() && address.host.find_first_of("/@[] ") == std::string::npos &&
                            (is_bracketed || address.host.find(':') == std::string::npos);
        if (is_one && colon == std::string_view::npos && (!is_bracketed || rest.empty())) { return address; }
        if (is_one && colon != std::string_view::npos && (!is_bracketed || colon == 0)) {
            const auto port = whole_number<std::uint16_t>(rest.substr(colon + 1));
            if (port && *port > 0) {
                address.port = *port;
                return address;
            }
        }
    }
    return base::fail(ErrorCode::invalid_argument,
                      "is HOST:PORT, [IPv6]:PORT or unix:PATH of a Valkey or Redis server, not '" +
                          std::string(text.substr(0, 200)) + "'");
}

std::string ServerAddress::text() const {
    if (!path.empty()) { return "unix:" + path; }
    const bool is_six = host.find(':') != std::string::npos;
    return (is_six ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

void SharedServer::FreeReply::operator()(redisReply* reply) const {
    freeReplyObject(reply);
}

SharedServer::~SharedServer() {
    redisFree(context_);
}

base::Error SharedServer::failed(std::string_view words) const {
    base::Error error;
    error.code = ErrorCode::unavailable;
    error.message = "the cache's shared server " + options_.address.text() + ": " + std::string(words);
    return error;
}

base::Result<std::unique_ptr<SharedServer>> SharedServer::connect(const Options& options) {
    const ServerAddress& at = options.address;
    const timeval patience = timeval_of(options.connect_timeout);
    redisContext* context = at.path.empty() ? redisConnectWithTimeout(at.host.c_str(), at.port, patience)
                                            : redisConnectUnixWithTimeout(at.path.c_str(), patience);
    if (context == nullptr) { return base::fail(ErrorCode::resource_exhausted, "no memory for a connection"); }
    auto server = std::unique_ptr<SharedServer>(new SharedServer(context, options));
    if (context->err != 0) { return tl::unexpected(server->failed(context->errstr)); }
    if (redisSetTimeout(context, timeval_of(options.answer_timeout)) != REDIS_OK) {
        return tl::unexpected(server->failed(context->errstr));
    }
    if (auto begun = server->begin_session(); !begun) { return base::pass_on(begun); }
    return server;
}

base::Result<void> SharedServer::begin_session() {
    if (!options_.password_file.empty()) {
        const auto password = read_password(options_.password_file);
        if (!password) { return base::pass_on(password); }
        Words words{"AUTH"};
        if (!options_.user.empty()) { words.push_back(options_.user); }
        words.push_back(*password);
        if (const auto taken = ask(words); !taken) { return base::pass_on(taken); }
    }
    if (options_.database != 0) {
        const std::string number = std::to_string(options_.database);
        if (const auto taken = ask({"SELECT", number}); !taken) { return base::pass_on(taken); }
    }
    const auto info = ask({"INFO", "server"});
    if (!info) { return base::pass_on(info); }
    const std::string_view text = text_of(**info);
    constexpr std::string_view kField = "run_id:";
    const auto field = text.find(kField);
    if (field == std::string_view::npos) { return tl::unexpected(failed("INFO does not tell its run_id")); }
    const std::string_view value = text.substr(field + kField.size());
    life_ = value.substr(0, value.find_first_of("\r\n"));
    const std::string count = key("count");
    const auto known = ask({"GET", count});
    if (!known) { return base::pass_on(known); }
    if ((*known)->type != REDIS_REPLY_NIL) { return {}; }  // a server that is full takes no other one, and needs none
    const std::string start = any_start();
    if (const auto set = ask({"SET", count, start, "NX"}); !set) { return base::pass_on(set); }
    return {};
}

void SharedServer::begin(std::size_t documents) {
    deadline_ = std::chrono::steady_clock::now() + options_.answer_timeout;
    bytes_left_ = kOtherBytesMax + documents * options_.document_bytes_max;
}

void SharedServer::send(const Words& words) {
    std::vector<const char*> starts;
    std::vector<std::size_t> sizes;
    for (const std::string_view word : words) {
        starts.push_back(word.data());
        sizes.push_back(word.size());
    }
    // Without memory it sets the context's error, which receive() tells.
    redisAppendCommandArgv(context_, static_cast<int>(words.size()), starts.data(), sizes.data());
}

/// hiredis's own loop has no end where a server says a byte now and then.
base::Result<SharedServer::Reply> SharedServer::receive() {
    const auto is_late = [this] { return std::chrono::steady_clock::now() >= deadline_; };
    for (int done = 0; done == 0;) {
        if (context_->err != 0 || redisBufferWrite(context_, &done) != REDIS_OK) {
            return tl::unexpected(failed(context_->errstr));
        }
        if (done == 0 && is_late()) { return tl::unexpected(failed("takes too long to take a command")); }
    }
    for (;;) {
        void* raw = nullptr;
        if (redisGetReplyFromReader(context_, &raw) != REDIS_OK) { return tl::unexpected(failed(context_->errstr)); }
        if (raw != nullptr) { return Reply(static_cast<redisReply*>(raw)); }
        if (is_late()) { return tl::unexpected(failed("takes too long to answer")); }
        const std::size_t before = context_->reader->len;
        if (redisBufferRead(context_) != REDIS_OK) { return tl::unexpected(failed(context_->errstr)); }
        const std::size_t bytes = context_->reader->len - std::min(before, context_->reader->len);
        if (bytes > bytes_left_) { return tl::unexpected(failed("says more than it was asked for")); }
        bytes_left_ -= bytes;
    }
}

base::Result<SharedServer::Reply> SharedServer::ask(const Words& words, std::size_t documents) {
    begin(documents);
    send(words);
    auto reply = receive();
    if (reply && (*reply)->type == REDIS_REPLY_ERROR) { return tl::unexpected(failed(text_of(**reply))); }
    return reply;
}

std::string SharedServer::document_key(const base::BlockHash& name) const {
    char hex[33];
    std::snprintf(hex, sizeof hex, "%016llx%016llx", static_cast<unsigned long long>(name.high),
                  static_cast<unsigned long long>(name.low));
    return key("a:") + hex;
}

base::Result<std::uint64_t> SharedServer::number_of(const redisReply& reply) const {
    if (reply.type == REDIS_REPLY_INTEGER && reply.integer > 0) { return static_cast<std::uint64_t>(reply.integer); }
    if (is_text(reply)) {
        if (const auto number = whole_number<std::uint64_t>(text_of(reply)); number && *number > 0) { return *number; }
    }
    return tl::unexpected(failed("has lost the count of purges"));
}

base::Result<SharedServer::Documents> SharedServer::get(std::span<const base::BlockHash> names) {
    std::vector<std::string> keys{key("count")};
    for (const base::BlockHash& name : names) {
        keys.push_back(document_key(name));
    }
    Words words{"MGET"};
    words.insert(words.end(), keys.begin(), keys.end());
    const auto reply = ask(words, names.size());
    if (!reply) { return base::pass_on(reply); }
    const redisReply& all = **reply;
    if (all.type != REDIS_REPLY_ARRAY || all.elements != keys.size()) {
        return tl::unexpected(failed("answers MGET with something else"));
    }
    const auto purges = number_of(*all.element[0]);
    if (!purges) { return base::pass_on(purges); }
    Documents documents{.purges = *purges, .found = {}};
    for (std::size_t i = 1; i < all.elements; ++i) {
        const redisReply& one = *all.element[i];
        documents.found.push_back(is_text(one) ? std::optional(std::string(text_of(one))) : std::nullopt);
    }
    return documents;
}

base::Result<std::size_t> SharedServer::put(std::span<const Put> documents) {
    begin();
    for (const Put& one : documents) {
        const std::string name = document_key(one.name);
        const std::string lives_ms = std::to_string(one.lives_ms);
        send({"SET", name, one.bytes, "PX", lives_ms});
    }
    std::size_t taken = 0;
    for (std::size_t i = 0; i < documents.size(); ++i) {
        const auto reply = receive();
        if (!reply) { return base::pass_on(reply); }
        taken += (*reply)->type == REDIS_REPLY_ERROR ? 0 : 1;
    }
    return taken;
}

base::Result<void> SharedServer::erase(std::span<const base::BlockHash> names) {
    if (names.empty()) { return {}; }
    std::vector<std::string> keys;
    for (const base::BlockHash& name : names) {
        keys.push_back(document_key(name));
    }
    Words words{"UNLINK"};
    words.insert(words.end(), keys.begin(), keys.end());
    if (const auto reply = ask(words); !reply) { return base::pass_on(reply); }
    return {};
}

base::Result<std::uint64_t> SharedServer::purge(std::string_view record) {
    const std::string log = key("purges");
    const std::string count = key("count");
    const std::string first = std::to_string(-static_cast<std::int64_t>(kLogMost));
    begin();
    send({"MULTI"});
    send({"RPUSH", log, record});
    send({"LTRIM", log, first, "-1"});
    send({"INCR", count});
    send({"EXEC"});
    std::optional<base::Error> refused;
    Reply last;
    for (int i = 0; i < 5; ++i) {
        auto reply = receive();
        if (!reply) { return base::pass_on(reply); }
        if ((*reply)->type == REDIS_REPLY_ERROR && !refused) { refused = failed(text_of(**reply)); }
        last = std::move(*reply);
    }
    if (refused) { return tl::unexpected(*refused); }
    if (last->type != REDIS_REPLY_ARRAY || last->elements != 3) {
        return tl::unexpected(failed("answers EXEC with something else"));
    }
    for (std::size_t i = 0; i < last->elements; ++i) {
        if (last->element[i]->type == REDIS_REPLY_ERROR) { return tl::unexpected(failed(text_of(*last->element[i]))); }
    }
    return number_of(*last->element[2]);
}

base::Result<SharedServer::Log> SharedServer::log() {
    const std::string log = key("purges");
    const std::string count = key("count");
    begin();
    send({"MULTI"});
    send({"GET", count});
    send({"LRANGE", log, "0", "-1"});
    send({"EXEC"});
    Reply last;
    for (int i = 0; i < 4; ++i) {
        auto reply = receive();
        if (!reply) { return base::pass_on(reply); }
        last = std::move(*reply);
    }
    if (last->type != REDIS_REPLY_ARRAY || last->elements != 2 || last->element[1]->type != REDIS_REPLY_ARRAY) {
        return tl::unexpected(failed(last->type == REDIS_REPLY_ERROR ? text_of(*last) : "has a log that is none"));
    }
    const auto purges = number_of(*last->element[0]);
    if (!purges) { return base::pass_on(purges); }
    Log result{.purges = *purges, .latest = {}};
    const redisReply& records = *last->element[1];
    for (std::size_t i = 0; i < records.elements; ++i) {
        result.latest.emplace_back(text_of(*records.element[i]));
    }
    return result;
}

base::Result<std::string> SharedServer::scan(
    const std::string& cursor,
    const std::function<void(const base::BlockHash& name, const std::string& bytes)>& visit) {
    const std::string prefix = key("a:");
    const std::string pattern = prefix + "*";
    const auto page = ask({"SCAN", cursor, "MATCH", pattern, "COUNT", kScanPage});
    if (!page) { return base::pass_on(page); }
    if ((*page)->type != REDIS_REPLY_ARRAY || (*page)->elements != 2 ||
        (*page)->element[1]->type != REDIS_REPLY_ARRAY) {
        return tl::unexpected(failed("answers SCAN with something else"));
    }
    std::vector<base::BlockHash> names;
    const redisReply& keys = *(*page)->element[1];
    for (std::size_t i = 0; i < keys.elements; ++i) {
        const std::string_view one = text_of(*keys.element[i]);
        if (const auto name = one.starts_with(prefix) ? hash_of(one.substr(prefix.size())) : std::nullopt) {
            names.push_back(*name);
        }
    }
    std::string next(text_of(*(*page)->element[0]));
    if (names.empty()) { return next; }
    const auto documents = get(names);
    if (!documents) { return base::pass_on(documents); }
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (documents->found[i]) { visit(names[i], *documents->found[i]); }
    }
    return next;
}

}  // namespace caching
