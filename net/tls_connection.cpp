#include "net/tls_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "base/check.h"
#include "net/tls_transport.h"

namespace net {

using base::Error;
using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr std::size_t kTurnBytes = std::size_t{1} << 20;  // read at once, before others have their turn
constexpr int kUnsentBytesMax = 256 << 10;                // in the system, of what it has not put on the network

/// Where bytes go that nobody wants.
std::span<std::byte> no_target() {
    static thread_local std::array<std::byte, TlsSession::kRecordBytes> bytes;
    return bytes;
}

}  // namespace

TlsConnection::TlsConnection(TlsOwner& owner, Tcp::socket socket, PeerId peer, base::TimePoint deadline)
    : owner_(owner),
      socket_(std::move(socket)),
      peer_(peer),
      is_ours_(raw(peer) != 0),
      deadline_(deadline),
      heard_(owner.clock().now()) {
    header_.reserve(std::max(kHelloBytesMax, owner.options().limits.header_bytes_max));
}

void TlsConnection::connect(const Tcp::endpoint& endpoint, std::string hello) {
    where_ = write_endpoint({endpoint.address().to_string(), endpoint.port()});
    hello_ = std::move(hello);
    owner_.wake_at(deadline_);
    socket_.async_connect(endpoint, [self = shared_from_this()](const boost::system::error_code& error) {
        if (self->has_ended()) { return; }
        if (error) {
            self->end("connecting: " + error.message(), false);
            return;
        }
        self->begin_tls(TlsSession::Side::client);
    });
}

void TlsConnection::accept(const Tcp::endpoint& from) {
    where_ = write_endpoint({from.address().to_string(), from.port()});
    owner_.wake_at(deadline_);
    begin_tls(TlsSession::Side::server);
}

void TlsConnection::configure_socket() {
    const int descriptor = socket_.native_handle();
    const auto set = [descriptor](int level, int name, int value) {
        // Without one of them the connection is slower to send or to be found dead, no more.
        static_cast<void>(setsockopt(descriptor, level, name, &value, sizeof value));
    };
    const auto silence = std::chrono::duration_cast<std::chrono::milliseconds>(owner_.options().silence_timeout);
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(std::min<std::int64_t>(silence.count(), 1 << 30)));
    set(IPPROTO_TCP, TCP_NOTSENT_LOWAT, kUnsentBytesMax);
}

void TlsConnection::begin_tls(TlsSession::Side side) {
    configure_socket();
    auto session = TlsSession::make(owner_.context(), socket_.native_handle(), side, owner_.options().records_per_key);
    if (!session) {
        end(session.error().message, false);
        return;
    }
    session_ = std::move(*session);
    phase_ = Phase::handshake;
    continue_handshake();
}

void TlsConnection::continue_handshake() {
    const TlsSession::Step step = session_->handshake();
    const TlsSession::Step flushed = session_->flush();  // alerts, too
    if (step == TlsSession::Step::failed || step == TlsSession::Step::closed || flushed == TlsSession::Step::failed) {
        end(session_->failure().empty() ? "TLS handshake: the other side has gone" : session_->failure(), false);
        return;
    }
    if (flushed == TlsSession::Step::wants_write) { wait_writable(); }
    if (step != TlsSession::Step::done) {
        wait_readable();
        return;
    }
    phase_ = Phase::greeting;
    heard_ = owner_.clock().now();
    if (is_ours_) { say({.type = TlsFrame::Type::hello, .header_bytes = static_cast<std::uint32_t>(hello_.size())}); }
    read_turn();  // the first bytes may have come with the end of the handshake
}

void TlsConnection::wait_readable() {
    if (has_ended() || is_waiting_to_read_) { return; }
    is_waiting_to_read_ = true;
    socket_.async_wait(Tcp::socket::wait_read, [self = shared_from_this()](const boost::system::error_code& error) {
        self->is_waiting_to_read_ = false;
        if (self->has_ended() || error) { return; }
        self->phase_ == Phase::handshake ? self->continue_handshake() : self->read_turn();
    });
}

void TlsConnection::read_turn() {
    std::size_t bytes = 0;
    while (!has_ended() && bytes < kTurnBytes) {
        const TlsSession::Read read = session_->read(wanted_bytes());
        switch (read.step) {
            case TlsSession::Step::done:
                bytes += read.bytes;
                heard_ = owner_.clock().now();
                asked_.reset();
                if (!advance(read.bytes)) { return; }
                continue;
            case TlsSession::Step::wants_read:
                wait_readable();
                return;
            case TlsSession::Step::wants_write:
                reads_after_write_ = true;
                wait_writable();
                return;
            case TlsSession::Step::closed:
                end("the other side closed the connection", false);
                return;
            case TlsSession::Step::failed:
                end(session_->failure(), false);
                return;
        }
    }
    if (has_ended()) { return; }
    // OpenSSL may hold what the socket does not tell of any more.
    boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
        if (!self->has_ended()) { self->read_turn(); }
    });
}

/// Where the next bytes go.
std::span<std::byte> TlsConnection::wanted_bytes() {
    switch (part_) {
        case Part::frame:
            return std::span(frame_bytes_).subspan(part_have_);
        case Part::header:
            return std::as_writable_bytes(std::span(header_)).subspan(part_have_);
        case Part::payload:
            break;
    }
    Receive& receive = frame_.type == TlsFrame::Type::message ? *inline_in_ : *bulk_in_;
    const std::size_t left = frame_.payload_bytes - part_have_;
    if (receive.is_refused) { return no_target().first(std::min(left, no_target().size())); }
    return receive.target.bytes.subspan(receive.have, left);
}

/// So many bytes have come. False when the connection has ended.
bool TlsConnection::advance(std::size_t bytes) {
    part_have_ += bytes;
    if (part_ == Part::payload) {
        (frame_.type == TlsFrame::Type::message ? *inline_in_ : *bulk_in_).have += bytes;
        if (part_have_ == frame_.payload_bytes) { take_payload(); }
    } else if (part_ == Part::header) {
        if (part_have_ == frame_.header_bytes) { take_header(); }
    } else if (part_have_ == kFrameBytes) {
        take_frame();
    }
    return !has_ended();
}

void TlsConnection::take_frame() {
    const auto frame = read_frame(frame_bytes_, owner_.options().limits);
    if (!frame) {
        end(frame.error().message, true);
        return;
    }
    frame_ = *frame;
    if (const auto fits = check_frame(); !fits) {
        end(fits.error().message, true);
        return;
    }
    part_ = Part::header;
    part_have_ = 0;
    header_.resize(frame_.header_bytes);  // within what was reserved
    if (frame_.header_bytes == 0) { take_header(); }
}

/// Whether the frame may come now.
Result<void> TlsConnection::check_frame() const {
    using Type = TlsFrame::Type;
    bool fits = true;
    switch (frame_.type) {
        case Type::hello:
            fits = phase_ == Phase::greeting && !is_ours_;
            break;
        case Type::hello_ack:
            fits = phase_ == Phase::greeting && is_ours_;
            break;
        case Type::bye:
            break;
        case Type::bulk:
            fits = phase_ == Phase::open && !bulk_in_ && frame_.number == bulks_in_ + 1;
            break;
        case Type::data:
            fits = bulk_in_ && frame_.payload_bytes <= bulk_in_->bytes - bulk_in_->have;
            break;
        case Type::abort:
            fits = bulk_in_ && bulk_in_->is_refused;
            break;
        case Type::message:
        case Type::refuse:
        case Type::ping:
        case Type::pong:
            fits = phase_ == Phase::open;
            break;
    }
    if (fits) { return {}; }
    return fail(ErrorCode::invalid_argument,
                "a frame of type " + std::to_string(static_cast<int>(frame_.type)) + " has no place here");
}

void TlsConnection::take_header() {
    using Type = TlsFrame::Type;
    switch (frame_.type) {
        case Type::hello:
            take_hello();
            break;
        case Type::hello_ack:
            phase_ = Phase::open;
            owner_.wake_at(heard_ + owner_.options().silence_timeout / 3);
            break;
        case Type::message:
        case Type::bulk:
            take_message();
            break;
        case Type::refuse:
            if (bulk_out_ != nullptr && frame_.number == bulks_out_) {
                bulk_is_refused_ = true;
                write_turn();
            }
            break;
        case Type::abort:
            bulk_in_.reset();
            break;
        case Type::bye:
            end("the other side closed the connection", false);
            return;
        case Type::ping:
            owes_pong_ = true;
            write_turn();
            break;
        case Type::data:
        case Type::pong:
            break;
    }
    if (has_ended()) { return; }
    part_have_ = 0;
    part_ = payload_bytes_with(frame_) == 0 ? Part::frame : Part::payload;
}

void TlsConnection::take_hello() {
    const auto hello = read_hello(header_);
    if (!hello) {
        end(hello.error().message, true);
        return;
    }
    const auto peer = owner_.admit(*this, *hello);
    if (!peer) {
        end(peer.error().message, true);
        return;
    }
    peer_ = *peer;
    phase_ = Phase::open;
    owner_.wake_at(heard_ + owner_.options().silence_timeout / 3);
    say({.type = TlsFrame::Type::hello_ack});
}

void TlsConnection::take_message() {
    const bool is_bulk = frame_.type == TlsFrame::Type::bulk;
    bulks_in_ += is_bulk ? 1 : 0;
    const std::size_t bytes = frame_.payload_bytes;
    const auto target = owner_.handler().on_header(peer_, frame_.kind, std::as_bytes(std::span(header_)), bytes);
    if (bytes == 0) { return; }
    Receive receive;
    receive.bytes = bytes;
    receive.is_refused = !target;
    if (target) {
        CHECK(target->bytes.size() == bytes, target->bytes.size() << " for " << bytes);
        receive.target = *target;
        owner_.wake_at(target->deadline);
    }
    (is_bulk ? bulk_in_ : inline_in_) = receive;
    if (is_bulk && !target) { say({.type = TlsFrame::Type::refuse, .number = frame_.number}); }
}

/// The payload of a frame is here.
void TlsConnection::take_payload() {
    std::optional<Receive>& receive = frame_.type == TlsFrame::Type::message ? inline_in_ : bulk_in_;
    part_ = Part::frame;
    part_have_ = 0;
    if (receive->have < receive->bytes) { return; }
    const Receive done = *std::exchange(receive, std::nullopt);
    if (!done.is_refused) { owner_.handler().on_payload(done.target.token, {}); }
}

base::TimePoint TlsConnection::check(base::TimePoint now) {
    constexpr auto kNever = base::TimePoint::max();
    if (has_ended()) { return kNever; }
    bool is_stuck = false;
    base::TimePoint next = check_sends(now, is_stuck);
    if (is_stuck) {
        end_with({ErrorCode::unavailable, "a message was not taken in time"}, false);
        return kNever;
    }
    for (const auto* receive : {&inline_in_, &bulk_in_}) {
        if (!*receive || (*receive)->is_refused) { continue; }
        if (now >= (*receive)->target.deadline) {
            end_with({ErrorCode::unavailable, "a payload did not come in time"}, false);
            return kNever;
        }
        next = std::min(next, (*receive)->target.deadline);
    }
    if (phase_ != Phase::open) {
        if (now < deadline_) { return std::min(next, deadline_); }
        end(is_ours_ ? "nobody answers at the address" : "it did not say who it is in time", false);
        return kNever;
    }
    const base::Duration silence = owner_.options().silence_timeout;
    if (now >= heard_ + silence / 3 && !asked_) {
        asked_ = now;
        say({.type = TlsFrame::Type::ping});
    } else if (asked_ && now >= *asked_ + silence * 2 / 3) {
        read_turn();  // it was perhaps we who were asleep
        if (!has_ended() && asked_) { end("nothing was heard of the other side for too long", false); }
    }
    if (has_ended()) { return kNever; }
    return std::min(next, asked_ ? *asked_ + silence * 2 / 3 : heard_ + silence / 3);
}

void TlsConnection::end(const std::string& why, bool say_bye) {
    end_with({ErrorCode::unavailable, why}, say_bye);
}

void TlsConnection::end_with(Error why, bool say_bye) {
    if (has_ended()) { return; }
    const auto keep = shared_from_this();
    const bool is_whole = !out_;  // nothing stands half written in the way
    if (say_bye && session_ != nullptr && (phase_ == Phase::greeting || phase_ == Phase::open)) {
        if (is_whole && session_->has_room()) {
            const auto bye = write_frame({.type = TlsFrame::Type::bye});
            static_cast<void>(session_->write(bye));
        }
        session_->say_end();
        static_cast<void>(session_->flush());
    }
    phase_ = Phase::ended;
    boost::system::error_code ignored;
    socket_.close(ignored);
    session_.reset();
    out_.reset();
    const base::TimePoint now = owner_.clock().now();
    const auto outcome = [&](base::TimePoint deadline) -> Result<void> {
        return fail(now >= deadline ? ErrorCode::deadline_exceeded : ErrorCode::unavailable, why.message);
    };
    std::deque<std::unique_ptr<TlsSend>> sends = std::exchange(small_, {});
    std::move(bulk_.begin(), bulk_.end(), std::back_inserter(sends));
    bulk_.clear();
    if (small_out_ != nullptr) { sends.push_front(std::move(small_out_)); }
    if (bulk_out_ != nullptr) { sends.push_front(std::move(bulk_out_)); }
    for (std::unique_ptr<TlsSend>& send : sends) {
        auto ends_with = outcome(send->deadline);
        owner_.finish(std::move(send), std::move(ends_with));
    }
    for (std::optional<Receive>* receive : {&inline_in_, &bulk_in_}) {
        const auto under_way = std::exchange(*receive, std::nullopt);
        if (!under_way || under_way->is_refused) { continue; }
        owner_.handler().on_payload(under_way->target.token, outcome(under_way->target.deadline));
    }
    why.message = (is_ours_ ? "to " : "from ") + where_ + ": " + why.message;
    owner_.ended(*this, why);
}

}  // namespace net
