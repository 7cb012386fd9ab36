#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/result.h"

struct redisContext;
struct redisReply;

namespace caching {

/// Where a Valkey or Redis server is.
struct ServerAddress {
    std::string host = {};
    std::uint16_t port = 6379;
    std::string path = {};  // of a socket of this machine, in place of the two

    /// HOST, HOST:PORT, [IPv6]:PORT or unix:PATH. Error: invalid_argument.
    static base::Result<ServerAddress> parse(std::string_view text);
    std::string text() const;
};

/// A connection to a Valkey or Redis server on which gateways keep documents by name, and a log of what was purged.
/// Every call is one exchange and ends within `answer_timeout`; after an error but that of a refused write the
/// connection is of no further use; connect() besides resolves a name, which takes as long as the system lets it. One
/// thread, in a process that ignores SIGPIPE.
///
/// The log has `kLogMost` records at the most. Its records are numbered one after the other; the number begins
/// anywhere, so that one that was lost and begun anew is not taken for the old one.
class SharedServer {
public:
    struct Options {
        ServerAddress address;
        std::string user = {};           // none: the server's default
        std::string password_file = {};  // read at every connect; none: no password
        std::uint32_t database = 0;
        std::string name = "sluice";  // in front of all keys
        base::Duration connect_timeout = std::chrono::seconds(1);
        base::Duration answer_timeout = std::chrono::milliseconds(500);
        std::size_t document_bytes_max = std::size_t{1} << 20;  // of what is asked for; more is not read
    };
    static constexpr std::uint64_t kLogMost = 1024;

    /// Errors: unavailable with the server's words, invalid_argument for a password file that cannot be read.
    static base::Result<std::unique_ptr<SharedServer>> connect(const Options& options);
    ~SharedServer();
    SharedServer(const SharedServer&) = delete;
    SharedServer& operator=(const SharedServer&) = delete;

    /// Another one after every start of the server, and of every server.
    const std::string& life() const { return life_; }

    struct Documents {
        std::uint64_t purges = 0;                       // number of the latest, at the same moment
        std::vector<std::optional<std::string>> found;  // by name
    };
    base::Result<Documents> get(std::span<const base::BlockHash> names);

    struct Put {
        base::BlockHash name;
        std::string bytes;
        std::int64_t lives_ms = 0;  // > 0
    };
    /// How many it took: a server that is full takes none.
    base::Result<std::size_t> put(std::span<const Put> documents);
    base::Result<void> erase(std::span<const base::BlockHash> names);

    /// Its number. After an error nobody knows whether it was taken.
    base::Result<std::uint64_t> purge(std::string_view record);
    struct Log {
        std::uint64_t purges = 0;         // number of the last one
        std::vector<std::string> latest;  // oldest first
    };
    base::Result<Log> log();

    /// Visits a page of all documents. `cursor`: "0" to begin with, then what was returned, until that is "0".
    base::Result<std::string> scan(
        const std::string& cursor,
        const std::function<void(const base::BlockHash& name, const std::string& bytes)>& visit);

private:
    struct FreeReply {
        void operator()(redisReply* reply) const;
    };
    using Reply = std::unique_ptr<redisReply, FreeReply>;
    using Words = std::vector<std::string_view>;

    SharedServer(redisContext* context, const Options& options) : context_(context), options_(options) {}
    base::Result<void> begin_session();
    /// An exchange that asks for so many documents.
    void begin(std::size_t documents = 0);
    void send(const Words& words);
    base::Result<Reply> receive();
    /// One command; what the server refuses is an error.
    base::Result<Reply> ask(const Words& words, std::size_t documents = 0);
    std::string key(std::string_view of) const { return options_.name + ":" + std::string(of); }
    std::string document_key(const base::BlockHash& name) const;
    base::Error failed(std::string_view words) const;
    base::Result<std::uint64_t> number_of(const redisReply& reply) const;

    redisContext* context_;
    Options options_;
    std::string life_;
    std::chrono::steady_clock::time_point deadline_;  // of the exchange
    std::size_t bytes_left_ = 0;                      // that the server may say in it
};

}  // namespace caching
