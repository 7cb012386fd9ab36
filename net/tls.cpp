#include "net/tls.h"

#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/log_limit.h"
#include "base/seal.h"
#include "net/tls_transport.h"
#include "net/tls_wire.h"

namespace net {

using base::AddressKind;
using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr int kBacklog = 128;

std::uint64_t random_life() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) | device();
}

}  // namespace

Result<std::unique_ptr<Transport>> make_tls_transport(const TlsOptions& options, const base::Clock& clock) {
    if (options.certificates) {
        const base::PeerName self = options.certificates->current()->self();
        if (!base::may_call(self.role, base::PeerCall::kv)) {
            return fail(ErrorCode::invalid_argument, base::peer_uri(self) + " is of a role that exchanges no KV");
        }
    }
    auto context = make_ssl_context(options);
    if (!context) { return base::pass_on(context); }
    auto transport = std::make_unique<TlsTransport>(options, clock, std::move(*context));
    if (auto listening = transport->listen(); !listening) { return base::pass_on(listening); }
    return transport;
}

TlsTransport::TlsTransport(TlsOptions options, const base::Clock& clock, SslContext context)
    : options_(std::move(options)),
      clock_(clock),
      context_(std::move(context)),
      self_(base::raw(options_.life) == 0 ? random_life() : base::raw(options_.life)),
      work_(io_.get_executor()),
      acceptor_(io_),
      accept_timer_(io_),
      check_timer_(io_) {}

/// Of a new connection: with the certificates that are current. Those that stand keep theirs.
SSL_CTX& TlsTransport::context() {
    const std::uint64_t generation = options_.certificates ? options_.certificates->generation() : 0;
    if (generation != context_generation_) {
        if (auto fresh = make_ssl_context(options_)) {
            context_ = std::move(*fresh);
            context_generation_ = generation;
        } else {
            base::warn_limited("kv certificate", "net: the new certificate cannot be used: {}", fresh.error().message);
        }
    }
    return *context_;
}

Result<void> TlsTransport::listen() {
    boost::system::error_code error;
    Tcp::resolver resolver(io_);
    const auto found = resolver.resolve(options_.host, "", Tcp::resolver::passive, error);
    if (error || found.empty()) {
        return fail(ErrorCode::invalid_argument, "cannot listen for KV on " + options_.host + ": " + error.message());
    }
    const boost::asio::ip::address host = found.begin()->endpoint().address();
    for (std::uint32_t port = options_.port_first; port <= options_.port_last; ++port) {
        const Tcp::endpoint endpoint(host, static_cast<std::uint16_t>(port));
        acceptor_.close(error);
        acceptor_.open(endpoint.protocol(), error);
        if (!error) { acceptor_.set_option(Tcp::acceptor::reuse_address(true), error); }
        if (!error) { acceptor_.bind(endpoint, error); }
        if (!error) { acceptor_.listen(kBacklog, error); }
        if (!error) { break; }
    }
    if (error || !acceptor_.is_open()) {
        return fail(ErrorCode::unavailable, "cannot listen for KV on " + options_.host + ", ports " +
                                                std::to_string(options_.port_first) + " to " +
                                                std::to_string(options_.port_last) + ": " + error.message());
    }
    const Tcp::endpoint bound = acceptor_.local_endpoint(error);
    boost::asio::ip::address advertised = bound.address();
    if (!options_.advertised_host.empty()) {
        advertised = boost::asio::ip::make_address(options_.advertised_host, error);
        if (error) {
            return fail(ErrorCode::invalid_argument, options_.advertised_host + " is no address (numbers, no name)");
        }
    }
    if (advertised.is_unspecified()) {
        return fail(ErrorCode::invalid_argument, "KV is listened for on " + options_.host +
                                                     ", which is no address that others could connect to: one has to "
                                                     "be named");
    }
    const std::string endpoint = write_endpoint({advertised.to_string(), bound.port()});
    address_ = base::seal_address(options_.key, base::Incarnation{self_}, endpoint, AddressKind::tls);
    return {};
}

TlsTransport::~TlsTransport() {
    stop();
}

Result<void> TlsTransport::start(Handler& handler) {
    const std::scoped_lock lock(mutex_);
    CHECK(handler_ == nullptr, "start() is called once");
    if (stop_requested_) { return fail(ErrorCode::unavailable, "transport has stopped"); }
    handler_ = &handler;
    is_running_ = true;
    boost::asio::post(io_, [this] { accept_next(); });
    thread_ = std::jthread([this] { io_.run(); });
    return {};
}

/// False when too many commands wait. Closing is bounded by the peers and always fits.
bool TlsTransport::push(Command command) {
    if (commands_.size() >= options_.commands_max && !std::holds_alternative<Close>(command)) { return false; }
    commands_.push_back(std::move(command));
    if (!std::exchange(is_woken_, true)) {
        boost::asio::post(io_, [this] { drain_commands(); });
    }
    return true;
}

Result<PeerId> TlsTransport::connect(const std::string& address) {
    const auto opened = base::open_address(options_.key, address, AddressKind::tls);
    if (!opened) { return base::pass_on(opened); }
    const auto endpoint = read_endpoint(opened->address);
    if (!endpoint) { return base::pass_on(endpoint); }
    boost::system::error_code error;
    const auto host = boost::asio::ip::make_address(endpoint->host, error);
    if (error) { return fail(ErrorCode::invalid_argument, "a KV address names no host by its numbers"); }

    const std::scoped_lock lock(mutex_);
    if (!is_running_ || stop_requested_) { return fail(ErrorCode::unavailable, "transport is not running"); }
    if (const auto known = by_address_.find(address); known != by_address_.end()) { return known->second; }
    if (live_.size() >= options_.peers_max) {
        return fail(ErrorCode::resource_exhausted, std::to_string(options_.peers_max) + " peers already");
    }
    const PeerId peer{++peers_minted_};
    if (!push(Connect{peer, address, base::raw(opened->life), Tcp::endpoint(host, endpoint->port)})) {
        return fail(ErrorCode::resource_exhausted, "too many commands wait");
    }
    live_.insert(peer);
    by_address_[address] = peer;
    return peer;
}

Result<void> TlsTransport::send(PeerId peer, Message message, base::TimePoint deadline, Completion done) {
    if (message.header.size() > options_.limits.header_bytes_max ||
        message.payload.bytes.size() > options_.limits.payload_bytes_max) {
        return fail(ErrorCode::invalid_argument, "message of " + std::to_string(message.header.size()) + " + " +
                                                     std::to_string(message.payload.bytes.size()) +
                                                     " bytes is too long");
    }
    auto send = std::make_unique<TlsSend>();
    send->message = std::move(message);
    send->deadline = deadline;
    send->done = std::move(done);

    const std::scoped_lock lock(mutex_);
    if (!is_running_ || stop_requested_ || !live_.contains(peer)) {
        return fail(ErrorCode::unavailable, "peer " + std::to_string(raw(peer)) + " is gone");
    }
    if (posted_ >= options_.sends_inflight_max) {
        return fail(ErrorCode::resource_exhausted, std::to_string(posted_) + " sends are under way");
    }
    if (!push(Post{peer, std::move(send)})) { return fail(ErrorCode::resource_exhausted, "too many commands wait"); }
    ++posted_;
    return {};
}

void TlsTransport::disconnect(PeerId peer) {
    const std::scoped_lock lock(mutex_);
    if (!live_.contains(peer)) { return; }
    push(Close{peer});
}

void TlsTransport::stop() {
    {
        const std::scoped_lock lock(mutex_);
        const bool is_first = !std::exchange(stop_requested_, true);
        if (!is_running_) { return; }
        if (is_first) {
            boost::asio::post(io_, [this] { close_all(); });
        }
    }
    if (thread_.joinable()) { thread_.join(); }
    const std::scoped_lock lock(mutex_);
    is_running_ = false;
}

}  // namespace net
