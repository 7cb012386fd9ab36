#pragma once

// The inside of the TLS transport: tls.cpp has set-up and the calls from other threads, tls_loop.cpp what its thread
// does for all connections, tls_connection*.cpp each one of them.

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "net/tls.h"
#include "net/tls_connection.h"
#include "net/tls_session.h"
#include "net/transport.h"

namespace net {

class TlsTransport final : public Transport, private TlsOwner {
public:
    using Tcp = boost::asio::ip::tcp;

    TlsTransport(TlsOptions options, const base::Clock& clock, SslContext context);
    ~TlsTransport() override;

    /// Listens, and knows its address then. Errors as make_tls_transport.
    base::Result<void> listen();

    std::string_view name() const override { return "tls"; }
    const std::string& address() const override { return address_; }
    Limits limits() const override { return options_.limits; }
    base::Result<void> start(Handler& handler) override;
    base::Result<PeerId> connect(const std::string& address) override;
    base::Result<void> send(PeerId peer, Message message, base::TimePoint deadline, Completion done) override;
    void disconnect(PeerId peer) override;
    void stop() override;

private:
    struct Connect {
        PeerId peer;
        std::string address;
        std::uint64_t life;
        Tcp::endpoint endpoint;
    };
    struct Post {
        PeerId peer;
        std::unique_ptr<TlsSend> send;
    };
    struct Close {
        PeerId peer;
    };
    using Command = std::variant<Connect, Post, Close>;
    using Pointer = std::shared_ptr<TlsConnection>;

    bool push(Command command);  // with mutex_
    void drain_commands();
    void apply(Connect& command);
    void apply(Post& command);
    void apply(Close& command);

    void accept_next();
    void take_in(Tcp::socket socket);
    void make_room(const std::string& stranger);
    void check_all();
    void arm();
    void close_all();

    // TlsOwner
    TlsOwner& as_owner() { return *this; }
    const TlsOptions& options() const override { return options_; }
    const base::Clock& clock() const override { return clock_; }
    SSL_CTX& context() override;
    Handler& handler() override { return *handler_; }
    base::Result<PeerId> admit(TlsConnection& connection, const TlsHello& hello) override;
    void finish(std::unique_ptr<TlsSend> send, base::Result<void> outcome) override;
    void wake_at(base::TimePoint time) override;
    void ended(TlsConnection& connection, const base::Error& why) override;

    const TlsOptions options_;
    const base::Clock& clock_;
    SslContext context_;                    // of the own thread, once it runs
    std::uint64_t context_generation_ = 0;  // of options_.certificates
    const std::uint64_t self_;              // the life
    std::string address_;

    boost::asio::io_context io_{1};
    boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;

    std::mutex mutex_;  // guards what follows
    std::vector<Command> commands_;
    bool is_woken_ = false;                     // drain_commands() is on its way
    std::map<std::string, PeerId> by_address_;  // live
    std::set<PeerId> live_;
    std::size_t posted_ = 0;  // sends whose completion was not called yet
    std::uint64_t peers_minted_ = 0;
    bool is_running_ = false;
    bool stop_requested_ = false;

    // Of the own thread.
    Handler* handler_ = nullptr;
    Tcp::acceptor acceptor_;
    boost::asio::steady_timer accept_timer_;
    boost::asio::steady_timer check_timer_;
    base::TimePoint check_at_ = base::TimePoint::max();
    bool is_checking_ = false;
    std::map<PeerId, Pointer> connections_;
    std::list<Pointer> strangers_;              // oldest first
    std::map<std::uint64_t, Pointer> by_life_;  // of who connected to us

    std::jthread thread_;
};

}  // namespace net
