#include <algorithm>
#include <array>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "base/log_limit.h"
#include "base/seal.h"
#include "net/tls_transport.h"

namespace net {

using base::AddressKind;
using base::Error;
using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

/// What of an address one owner may have all of: an IPv4 address, the /64 of an IPv6 address.
std::string owner_of(boost::asio::ip::address address) {
    if (address.is_v6() && address.to_v6().is_v4_mapped()) {
        address = boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6());
    }
    if (address.is_v4()) { return address.to_string(); }
    auto bytes = address.to_v6().to_bytes();
    std::fill(bytes.begin() + 8, bytes.end(), std::uint8_t{0});
    return boost::asio::ip::address_v6(bytes).to_string();
}

}  // namespace

void TlsTransport::drain_commands() {
    std::vector<Command> commands;
    {
        const std::scoped_lock lock(mutex_);
        commands.swap(commands_);
        is_woken_ = false;
    }
    for (Command& command : commands) {
        std::visit([this](auto& value) { apply(value); }, command);
    }
}

void TlsTransport::apply(Connect& command) {
    auto connection = std::make_shared<TlsConnection>(as_owner(), Tcp::socket(io_), command.peer,
                                                      clock_.now() + options_.connect_timeout);
    connection->address = std::move(command.address);
    connections_[command.peer] = connection;
    connection->connect(command.endpoint, write_hello({command.life, raw(command.peer), address_}));
}

void TlsTransport::apply(Post& command) {
    const auto found = connections_.find(command.peer);
    if (found == connections_.end()) {
        finish(std::move(command.send), fail(ErrorCode::unavailable, "the connection is gone"));
        return;
    }
    found->second->post(std::move(command.send));
}

void TlsTransport::apply(Close& command) {
    const auto found = connections_.find(command.peer);
    if (found != connections_.end()) { Pointer(found->second)->end("connection was closed here", true); }
}

void TlsTransport::accept_next() {
    acceptor_.async_accept([this](const boost::system::error_code& error, Tcp::socket socket) {
        if (!acceptor_.is_open() || error == boost::asio::error::operation_aborted) { return; }
        if (!error) {
            take_in(std::move(socket));
            accept_next();
            return;
        }
        // Too many open files, say: that passes, and asking at once would only burn time.
        base::warn_limited("net accept", "net: a connection cannot be accepted: {}", error.message());
        accept_timer_.expires_after(kAcceptRetry);
        accept_timer_.async_wait([this](const boost::system::error_code& cancelled) {
            if (!cancelled && acceptor_.is_open()) { accept_next(); }
        });
    });
}

void TlsTransport::take_in(Tcp::socket socket) {
    boost::system::error_code error;
    const Tcp::endpoint from = socket.remote_endpoint(error);
    if (error) { return; }  // gone already
    const std::string stranger = owner_of(from.address());
    make_room(stranger);
    auto connection = std::make_shared<TlsConnection>(as_owner(), std::move(socket), PeerId{},
                                                      clock_.now() + options_.handshake_timeout);
    connection->stranger = stranger;
    strangers_.push_back(connection);
    connection->accept(from);
}

/// Room for one more stranger of this address, at the cost of the oldest of an address that has most.
void TlsTransport::make_room(const std::string& stranger) {
    std::map<std::string, std::size_t> counts;
    for (const Pointer& connection : strangers_) {
        ++counts[connection->stranger];
    }
    std::string victim;
    if (const auto own = counts.find(stranger);
        own != counts.end() && own->second >= options_.strangers_per_address_max) {
        victim = stranger;
    } else if (strangers_.size() >= options_.strangers_max) {
        victim = std::max_element(counts.begin(), counts.end(), [](const auto& left, const auto& right) {
                     return left.second < right.second;
                 })->first;
    } else {
        return;
    }
    const auto oldest = std::find_if(strangers_.begin(), strangers_.end(),
                                     [&](const Pointer& connection) { return connection->stranger == victim; });
    Pointer(*oldest)->end("others wait to say who they are", false);
}

Result<PeerId> TlsTransport::admit(TlsConnection& connection, const TlsHello& hello) {
    if (hello.wanted_life != self_) {
        return fail(ErrorCode::not_found, "it wants another life of a worker, which was reached here before");
    }
    const auto opened = base::open_address(options_.key, hello.address, AddressKind::tls);
    if (!opened) { return base::pass_on(opened); }
    const std::uint64_t life = base::raw(opened->life);
    if (const auto former = by_life_.find(life); former != by_life_.end()) {
        if (hello.connection <= former->second->connection) {
            return fail(ErrorCode::aborted, "it has made a newer connection since");
        }
        // Whoever begins a new connection has given up the one before.
        Pointer(former->second)->end("the other side has begun a new connection", true);
    }
    const auto self =
        std::find_if(strangers_.begin(), strangers_.end(), [&](const Pointer& it) { return it.get() == &connection; });
    CHECK(self != strangers_.end());
    PeerId peer;
    {
        const std::scoped_lock lock(mutex_);
        if (live_.size() >= options_.peers_max) {
            return fail(ErrorCode::resource_exhausted, std::to_string(options_.peers_max) + " peers already");
        }
        peer = PeerId{++peers_minted_};
        live_.insert(peer);
        by_address_.try_emplace(std::string(hello.address), peer);
    }
    connection.address = hello.address;
    connection.life = life;
    connection.connection = hello.connection;
    connections_[peer] = *self;
    by_life_[life] = *self;
    strangers_.erase(self);
    return peer;
}

void TlsTransport::finish(std::unique_ptr<TlsSend> send, Result<void> outcome) {
    send->message.payload = {};
    {
        const std::scoped_lock lock(mutex_);
        --posted_;
    }
    send->done(std::move(outcome));
}

void TlsTransport::ended(TlsConnection& connection, const Error& why) {
    const PeerId peer = connection.peer();
    if (raw(peer) == 0) {
        base::warn_limited("net stranger", "net: a connection is refused: {}", why.message);
        strangers_.remove_if([&](const Pointer& it) { return it.get() == &connection; });
        return;
    }
    if (const auto named = by_life_.find(connection.life);
        named != by_life_.end() && named->second.get() == &connection) {
        by_life_.erase(named);
    }
    {
        const std::scoped_lock lock(mutex_);
        live_.erase(peer);
        const auto named = by_address_.find(connection.address);
        if (named != by_address_.end() && named->second == peer) { by_address_.erase(named); }
    }
    connections_.erase(peer);  // who ends it keeps it alive
    handler_->on_peer_lost(peer, why);
}

void TlsTransport::wake_at(base::TimePoint time) {
    if (time >= check_at_) { return; }
    check_at_ = time;
    if (!is_checking_) { arm(); }
}

void TlsTransport::arm() {
    if (check_at_ == base::TimePoint::max() || !acceptor_.is_open()) { return; }
    check_timer_.expires_after(std::max(check_at_ - clock_.now(), base::Duration::zero()));
    check_timer_.async_wait([this](const boost::system::error_code& cancelled) {
        if (!cancelled) { check_all(); }
    });
}

void TlsTransport::check_all() {
    std::vector<Pointer> all(strangers_.begin(), strangers_.end());
    for (const auto& [peer, connection] : connections_) {
        all.push_back(connection);
    }
    is_checking_ = true;
    check_at_ = base::TimePoint::max();
    const base::TimePoint now = clock_.now();
    for (const Pointer& connection : all) {
        check_at_ = std::min(check_at_, connection->check(now));
    }
    is_checking_ = false;
    arm();
}

/// Ends everything; then the thread has nothing left to do.
void TlsTransport::close_all() {
    drain_commands();
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    accept_timer_.cancel();
    check_timer_.cancel();
    std::vector<Pointer> all(strangers_.begin(), strangers_.end());
    for (const auto& [peer, connection] : connections_) {
        all.push_back(connection);
    }
    for (const Pointer& connection : all) {
        connection->end("this transport stops", true);
    }
    work_.reset();
}

}  // namespace net
