#pragma once

#include <poll.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/seal.h"
#include "net/tls_session.h"
#include "net/tls_wire.h"
#include "tests/net/carriers_tls.h"
#include "tests/net/recorder.h"
#include "tests/net/sockets.h"

namespace net_test {

/// One started TLS transport of this process.
struct TlsNode {
    explicit TlsNode(net::TlsOptions options = tls_options()) {
        auto made = net::make_tls_transport(options, clock);
        CHECK(made.has_value(), made.error().message);
        transport = std::move(*made);
        CHECK(transport->start(heard).has_value());
    }
    ~TlsNode() { transport->stop(); }
    std::uint16_t port() const { return port_of(transport->address()); }

    base::SystemClock clock;
    Recorder heard;
    std::unique_ptr<net::Transport> transport;
};

/// Who has the cluster's key and speaks TLS, but says in frames what it likes.
class Insider {
public:
    /// Goes to `port`, with TLS as `options` have it. Blocks until the handshake is over on this side.
    explicit Insider(std::uint16_t port, const net::TlsOptions& options = tls_options())
        : context_(*net::make_ssl_context(options)), socket_(port) {
        auto made = net::TlsSession::make(*context_, socket_.descriptor(), net::TlsSession::Side::client, 1u << 20);
        CHECK(made.has_value());
        session_ = std::move(*made);
        net::TlsSession::Step step{};
        do {
            step = session_->handshake();
            session_->flush();
            if (step == net::TlsSession::Step::wants_read) { wait(); }
        } while (step == net::TlsSession::Step::wants_read);
        is_in_ = step == net::TlsSession::Step::done;
    }

    bool is_in() const { return is_in_; }
    Socket& socket() { return socket_; }
    void say(const net::TlsFrame& frame, const std::string& rest = {}) {
        const auto bytes = net::write_frame(frame);
        say_bytes(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) + rest);
    }
    void say_bytes(const std::string& bytes) {
        const auto all = std::as_bytes(std::span(bytes));
        for (std::size_t begin = 0; begin < all.size(); begin += net::TlsSession::kRecordBytes) {
            const auto left = all.subspan(begin);
            const auto step = session_->write(left.first(std::min(left.size(), net::TlsSession::kRecordBytes)));
            CHECK(step == net::TlsSession::Step::done);
            while (session_->flush() == net::TlsSession::Step::wants_write) {}
        }
    }
    /// As the transport of `life` would, with the number of the connection.
    void greet(const std::string& whom, std::uint64_t life, std::uint64_t connection = 1) {
        const auto opened = base::open_address({}, whom, base::AddressKind::tls);
        const std::string own = base::seal_address({}, base::Incarnation{life}, "127.0.0.1:1", base::AddressKind::tls);
        const std::string hello = net::write_hello({base::raw(opened->life), connection, own});
        say({.type = net::TlsFrame::Type::hello, .header_bytes = static_cast<std::uint32_t>(hello.size())}, hello);
    }
    /// The next frame without what follows it; type 0 when the connection was closed.
    net::TlsFrame hear() {
        std::array<std::byte, net::kFrameBytes> bytes{};
        for (std::size_t have = 0; have < bytes.size();) {
            const auto read = session_->read(std::span(bytes).subspan(have));
            if (read.step == net::TlsSession::Step::wants_read) {
                wait();
                continue;
            }
            if (read.step != net::TlsSession::Step::done) { return {}; }
            have += read.bytes;
        }
        return net::read_frame(bytes, net::Limits{}).value_or(net::TlsFrame{});
    }
    /// Whether the other side closes the connection.
    bool is_thrown_out() {
        while (hear().type != net::TlsFrame::Type{}) {}
        return true;  // hear() fails the test when nothing comes
    }

private:
    void wait() {
        pollfd readable{socket_.descriptor(), POLLIN, 0};
        CHECK(poll(&readable, 1, 60'000) == 1, "nothing comes, and it is not closed");
    }

    net::SslContext context_;
    Socket socket_;
    std::unique_ptr<net::TlsSession> session_;
    bool is_in_ = false;
};

}  // namespace net_test
