#pragma once

// The inside of the TLS transport: tls_transport.h has what belongs to all connections, this is one of them: TCP, then
// TLS (tls_session.h), then frames (tls_wire.h). Everything on the transport's thread.

#include <boost/asio/ip/tcp.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "net/tls_session.h"
#include "net/tls_wire.h"
#include "net/transport.h"

namespace net {

class TlsConnection;

/// One message that goes out. Lives until its completion was called.
struct TlsSend {
    Message message;
    base::TimePoint deadline;
    Completion done;
};

/// What a connection asks of its transport.
class TlsOwner {
public:
    virtual ~TlsOwner() = default;
    virtual const TlsOptions& options() const = 0;
    virtual const base::Clock& clock() const = 0;
    virtual SSL_CTX& context() = 0;
    virtual Handler& handler() = 0;
    /// Who connected to us says who it is. Its peer id, or why it is not taken in.
    virtual base::Result<PeerId> admit(TlsConnection& connection, const TlsHello& hello) = 0;
    /// Calls the completion.
    virtual void finish(std::unique_ptr<TlsSend> send, base::Result<void> outcome) = 0;
    /// `check` is to be called then, or before.
    virtual void wake_at(base::TimePoint time) = 0;
    /// The connection has ended, and so has all that was under way on it. Tells the handler where it had a peer.
    virtual void ended(TlsConnection& connection, const base::Error& why) = 0;
};

class TlsConnection final : public std::enable_shared_from_this<TlsConnection> {
public:
    using Tcp = boost::asio::ip::tcp;

    /// `peer`: 0 until it is known. `deadline`: for the other side to be known.
    TlsConnection(TlsOwner& owner, Tcp::socket socket, PeerId peer, base::TimePoint deadline);

    /// Begins one of ours: goes to `endpoint` and says `hello` there.
    void connect(const Tcp::endpoint& endpoint, std::string hello);
    /// Begins one that was accepted.
    void accept(const Tcp::endpoint& from);
    void post(std::unique_ptr<TlsSend> send);
    /// Ends what is due. The next time at which something is.
    base::TimePoint check(base::TimePoint now);
    /// Closes by force; everything under way ends. `say_bye`: the other side is told if nothing stands in the way.
    void end(const std::string& why, bool say_bye);

    PeerId peer() const { return peer_; }
    bool is_ours() const { return is_ours_; }
    bool has_ended() const { return phase_ == Phase::ended; }

    // What the transport notes about it.
    std::string address;           // of the other side, sealed; empty: not known
    std::uint64_t life = 0;        // of who connected to us
    std::uint64_t connection = 0;  // as it numbers it
    std::string stranger;          // the address it came from, without its port

private:
    enum class Phase { connecting, handshake, greeting, open, ended };
    enum class Part { frame, header, payload };

    /// A payload that comes in. Refused: it is read and forgotten.
    struct Receive {
        Target target;
        std::size_t bytes = 0;
        std::size_t have = 0;
        bool is_refused = false;
    };
    /// The frame that is being written.
    struct Out {
        TlsFrame::Type type{};
        std::array<std::byte, kFrameBytes> frame{};
        std::span<const std::byte> header;
        std::span<const std::byte> payload;
        std::size_t have = 0;  // of all three, one after the other

        std::size_t bytes() const { return frame.size() + header.size() + payload.size(); }
        bool is_done() const { return have == bytes(); }
        std::size_t take(std::span<std::byte> to);
    };

    /// Who is connected to answers the hello first; who connects need not wait for that.
    bool may_send() const { return phase_ == Phase::open || (is_ours_ && phase_ == Phase::greeting); }
    void configure_socket();
    void begin_tls(TlsSession::Side side);
    void continue_handshake();
    void end_with(base::Error why, bool say_bye);

    // tls_connection.cpp: reading.
    void wait_readable();
    void read_turn();
    std::span<std::byte> wanted_bytes();
    bool advance(std::size_t bytes);
    void take_frame();
    base::Result<void> check_frame() const;
    void take_header();
    void take_hello();
    void take_message();
    void take_payload();

    // tls_connection_out.cpp: writing.
    void wait_writable();
    void write_turn();
    bool begin_frame();
    void begin_frame(const TlsFrame& frame, std::span<const std::byte> header, std::span<const std::byte> payload);
    void end_frame();
    std::span<const std::byte> next_record(std::span<std::byte> scratch);
    void say(TlsFrame frame);
    base::TimePoint check_sends(base::TimePoint now, bool& is_stuck);

    TlsOwner& owner_;
    Tcp::socket socket_;
    std::unique_ptr<TlsSession> session_;
    PeerId peer_;
    bool is_ours_ = false;
    std::string where_;  // the other end, for the log
    Phase phase_ = Phase::connecting;
    base::TimePoint deadline_;  // of the phases before open
    base::TimePoint heard_;
    std::optional<base::TimePoint> asked_;  // a ping, since we have heard from it
    bool is_waiting_to_read_ = false;
    bool is_waiting_to_write_ = false;
    bool reads_after_write_ = false;

    // In.
    Part part_ = Part::frame;
    std::size_t part_have_ = 0;
    std::array<std::byte, kFrameBytes> frame_bytes_{};
    TlsFrame frame_;
    std::string header_;
    std::optional<Receive> inline_in_;
    std::optional<Receive> bulk_in_;
    std::uint32_t bulks_in_ = 0;

    // Out.
    std::string hello_;
    std::deque<TlsFrame> control_;
    bool owes_pong_ = false;
    std::deque<std::unique_ptr<TlsSend>> small_;
    std::deque<std::unique_ptr<TlsSend>> bulk_;
    std::optional<Out> out_;
    std::unique_ptr<TlsSend> small_out_;  // in out_
    std::unique_ptr<TlsSend> bulk_out_;   // begun, not done
    std::size_t bulk_sent_ = 0;
    std::uint32_t bulks_out_ = 0;
    bool bulk_is_refused_ = false;
    int small_in_a_row_ = 0;
};

}  // namespace net
