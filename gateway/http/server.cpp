#include "gateway/http/server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/log_limit.h"
#include "gateway/http/answer_head.h"
#include "gateway/http/connection.h"

namespace gateway {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr base::Duration kAcceptPause = std::chrono::milliseconds(100);  // out of file descriptors

/// One send that fits every socket buffer, then closed: a full server spends nothing more on it, and no handshake.
void turn_away(HttpServer::Shared& shared, tcp::socket& socket, const HttpRefusal& refusal) {
    const std::string body = shared.setup.refusal_body(refusal);
    const std::string text = head_text(refusal.status, "application/json", {{"Retry-After", "1"}}, true) +
                             "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    boost::system::error_code ignored;
    socket.non_blocking(true, ignored);
    if (!shared.setup.certificate) { socket.write_some(asio::buffer(text), ignored); }
    socket.shutdown(tcp::socket::shutdown_send, ignored);
    shared.setup.refused(refusal);
}

void take_in(const std::shared_ptr<HttpServer::Shared>& shared, tcp::socket socket) {
    boost::system::error_code error;
    const tcp::endpoint peer = socket.remote_endpoint(error);
    if (error) { return; }  // gone already
    const std::string client = shared->proxies.trusts(peer.address()) ? "" : client_name(peer.address());
    const ConnectionBook::Room room = shared->book.room_for(client);
    if (!room.is_there) {
        turn_away(*shared, socket,
                  room.client_is_full ? HttpRefusal{429, "too many connections of this client"}
                                      : HttpRefusal{503, "too many connections"});
        return;
    }
    if (room.close_first != nullptr) { room.close_first->close("idle"); }
    const auto connection = std::make_shared<Connection>(std::move(socket), peer.address(), shared);
    shared->connections.insert(connection);
    shared->book.opened(*connection, client);
    connection->start();
}

void accept(const std::shared_ptr<HttpServer::Shared>& shared) {
    if (shared->stopped) { return; }
    shared->acceptor.async_accept([shared](const boost::system::error_code& error, tcp::socket socket) {
        if (shared->stopped) { return; }
        if (error) {
            if (error == asio::error::operation_aborted) { return; }
            base::warn_limited("accept", "accepting a connection failed: {}", error.message());
            // Out of file descriptors, the longest idle one is of more use to who comes.
            if (Connection* const idle = shared->book.longest_idle()) { idle->close("idle"); }
            auto timer = std::make_shared<asio::steady_timer>(shared->acceptor.get_executor(), kAcceptPause);
            timer->async_wait([shared, timer](const boost::system::error_code&) { accept(shared); });
            return;
        }
        take_in(shared, std::move(socket));
        accept(shared);
    });
}

}  // namespace

std::optional<base::TimePoint> HttpServer::Shared::sweep(base::TimePoint now) {
    std::optional<base::TimePoint> next;
    const std::vector<std::shared_ptr<Connection>> all(connections.begin(), connections.end());
    for (const auto& connection : all) {
        connection->sweep(now);
        const auto at = connection->next_sweep();
        if (at && (!next || *at < *next)) { next = at; }
    }
    return next;
}

base::Result<std::unique_ptr<HttpServer>> HttpServer::start(asio::io_context& io, Setup setup) {
    boost::system::error_code error;
    const std::string host = setup.options.host == "localhost" ? "127.0.0.1" : setup.options.host;
    const auto address = asio::ip::make_address(host, error);
    if (error) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "the gateway's host must be an address, got '" + host + "'");
    }
    if (!address.is_loopback() && !setup.options.allow_public) {
        return base::fail(
            base::ErrorCode::permission_denied,
            "refusing to listen on " + host +
                ": beyond loopback it listens only with --listen-public, or with API keys (gateway.keys_file) "
                "and TLS (gateway.tls_certificate_file) together");
    }
    auto site = SiteCheck::make(setup.options.hosts, address.is_loopback(), setup.cors);
    if (!site) { return base::pass_on(site); }
    auto proxies = TrustedProxies::make(setup.options.trusted_proxies, setup.options.forwarded_field);
    if (!proxies) { return base::pass_on(proxies); }
    const tcp::endpoint endpoint(address, setup.options.port);
    auto shared = std::make_shared<Shared>(io, std::move(setup), std::move(*site), std::move(*proxies));
    shared->acceptor.open(endpoint.protocol(), error);
    if (!error) { shared->acceptor.set_option(tcp::acceptor::reuse_address(true), error); }
    if (!error) { shared->acceptor.bind(endpoint, error); }
    if (!error) { shared->acceptor.listen(asio::socket_base::max_listen_connections, error); }
    if (error) {
        return base::fail(
            base::ErrorCode::unavailable,
            "cannot listen on " + host + ":" + std::to_string(shared->setup.options.port) + ": " + error.message());
    }
    accept(shared);
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(shared)));
}

HttpServer::HttpServer(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

HttpServer::~HttpServer() {
    shared_->stopped = true;
    shared_->drain_progress = nullptr;
    cut_all();
    shared_->connections.clear();
    shared_->to_flush.clear();
    boost::system::error_code ignored;
    shared_->acceptor.close(ignored);
    shared_->timers.stop();
}

std::uint16_t HttpServer::port() const {
    boost::system::error_code error;
    const auto endpoint = shared_->acceptor.local_endpoint(error);
    return error ? std::uint16_t{0} : endpoint.port();
}

HttpServer::Load HttpServer::load() const {
    Load load;
    const base::TimePoint now = shared_->setup.clock.now();
    load.connections = shared_->connections.size();
    for (const auto& connection : shared_->connections) {
        load.unanswered += connection->answered_and_closing() || connection->is_idle() ? 0 : 1;
        load.send_buffer_bytes += connection->buffered();
        load.slow_clients += connection->is_slow(now) ? 1 : 0;
    }
    return load;
}

void HttpServer::set_cors(const Cors& cors) {
    shared_->setup.cors = cors;
    shared_->site.set_cors(cors);
}

void HttpServer::drain(std::function<void()> progress) {
    shared_->draining = true;
    shared_->drain_progress = std::move(progress);
    const std::vector<std::shared_ptr<Connection>> all(shared_->connections.begin(), shared_->connections.end());
    for (const auto& connection : all) {
        connection->drain();
    }
}

bool HttpServer::draining() const {
    return shared_->draining;
}

void HttpServer::cut_all() {
    const std::vector<std::shared_ptr<Connection>> all(shared_->connections.begin(), shared_->connections.end());
    for (const auto& connection : all) {
        connection->close("drain");
    }
}

}  // namespace gateway
