#include "gateway/http/connection_book.h"

#include "base/check.h"

namespace gateway {

ConnectionBook::Room ConnectionBook::room_for(const std::string& client) const {
    const auto held = clients_.find(client);
    if (!client.empty() && held != clients_.end() && held->second >= options_.connections_per_client_max) {
        for (Connection* const one : idle_) {
            if (records_.at(one).client == client) { return {.close_first = one}; }
        }
        return {.is_there = false, .client_is_full = true};
    }
    if (records_.size() < options_.connections_max) { return {}; }
    if (idle_.empty()) { return {.is_there = false}; }
    return {.close_first = idle_.front()};
}

void ConnectionBook::opened(Connection& connection, const std::string& client) {
    const bool is_new = records_.try_emplace(&connection, Record{client, std::nullopt}).second;
    CHECK(is_new);
    if (!client.empty()) { ++clients_[client]; }
}

void ConnectionBook::set_idle(Connection& connection, bool idle) {
    const auto at = records_.find(&connection);
    if (at == records_.end() || at->second.idle.has_value() == idle) { return; }
    if (idle) {
        at->second.idle = idle_.insert(idle_.end(), &connection);
    } else {
        idle_.erase(*at->second.idle);
        at->second.idle.reset();
    }
}

void ConnectionBook::closed(Connection& connection) {
    set_idle(connection, false);
    const auto at = records_.find(&connection);
    if (at == records_.end()) { return; }
    if (const auto client = clients_.find(at->second.client); client != clients_.end() && --client->second == 0) {
        clients_.erase(client);
    }
    records_.erase(at);
}

}  // namespace gateway
