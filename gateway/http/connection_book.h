#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>

namespace gateway {

class Connection;

/// Who has the connections of a server, and which of them are idle. Decides about a new one; closes none. Connections
/// are borrowed and never looked into. Not thread-safe: the I/O thread's.
class ConnectionBook {
public:
    struct Options {
        std::size_t connections_max = 1024;            // > 0
        std::size_t connections_per_client_max = 512;  // > 0
    };
    /// What a new connection needs.
    struct Room {
        bool is_there = true;
        Connection* close_first = nullptr;  // an idle one, which has to go for it; may be null
        bool client_is_full = false;        // not there: the client has its share; else the server is full
    };
    explicit ConnectionBook(Options options) : options_(options) {}

    /// `client`: who it is from; empty: a proxy of ours, which has no bound of its own. A client that has its share
    /// gives up the connection of its that has been idle longest, and a full server the one of all; one with a request
    /// in work never goes.
    Room room_for(const std::string& client) const;
    void opened(Connection& connection, const std::string& client);
    /// Likewise where it is said twice.
    void set_idle(Connection& connection, bool idle);
    /// Likewise.
    void closed(Connection& connection);
    /// The connection that has been idle longest; null: none is.
    Connection* longest_idle() const { return idle_.empty() ? nullptr : idle_.front(); }
    std::size_t size() const { return records_.size(); }

private:
    struct Record {
        std::string client;
        std::optional<std::list<Connection*>::iterator> idle;
    };
    Options options_;
    std::unordered_map<Connection*, Record> records_;
    std::unordered_map<std::string, std::size_t> clients_;  // connections of each, > 0
    std::list<Connection*> idle_;                           // longest first
};

}  // namespace gateway
