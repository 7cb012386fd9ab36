#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "net/tls_connection.h"

namespace net {

using base::ErrorCode;
using base::fail;

namespace {

constexpr std::size_t kControlMax = 64;  // answers that the other side does not read
constexpr int kSmallInARowMax = 32;      // then a part of a large one, if one waits

}  // namespace

std::size_t TlsConnection::Out::take(std::span<std::byte> to) {
    std::size_t taken = 0;
    std::size_t begin = 0;  // of the piece, among all three
    for (const std::span<const std::byte> piece : {std::span<const std::byte>(frame), header, payload}) {
        const std::size_t inside = have > begin ? have - begin : 0;
        begin += piece.size();
        if (inside >= piece.size()) { continue; }
        const std::size_t bytes = std::min(piece.size() - inside, to.size() - taken);
        std::memcpy(to.data() + taken, piece.data() + inside, bytes);
        taken += bytes;
        have += bytes;
        if (taken == to.size()) { break; }
    }
    return taken;
}

void TlsConnection::post(std::unique_ptr<TlsSend> send) {
    CHECK(!has_ended());
    owner_.wake_at(send->deadline);
    (send->message.payload.bytes.size() <= kInlinePayloadMax ? small_ : bulk_).push_back(std::move(send));
    write_turn();
}

/// Adds a frame of the connection's own.
void TlsConnection::say(TlsFrame frame) {
    if (has_ended()) { return; }
    if (control_.size() >= kControlMax) {
        end("the other side does not read what it is answered", false);
        return;
    }
    control_.push_back(frame);
    write_turn();
}

void TlsConnection::wait_writable() {
    if (has_ended() || is_waiting_to_write_) { return; }
    is_waiting_to_write_ = true;
    socket_.async_wait(Tcp::socket::wait_write, [self = shared_from_this()](const boost::system::error_code& error) {
        self->is_waiting_to_write_ = false;
        if (self->has_ended() || error) { return; }
        self->write_turn();
        if (self->has_ended() || !std::exchange(self->reads_after_write_, false)) { return; }
        self->read_turn();
    });
}

/// Encrypts as much as the session's buffer takes, and hands it to the system once.
void TlsConnection::write_turn() {
    static thread_local std::array<std::byte, TlsSession::kRecordBytes> scratch;
    if (has_ended() || is_waiting_to_write_) { return; }
    bool has_more = false;
    if (phase_ == Phase::greeting || phase_ == Phase::open) {
        while (session_->has_room()) {
            const auto record = next_record(scratch);
            if (record.empty()) { break; }
            if (session_->write(record) != TlsSession::Step::done) {
                end(session_->failure(), false);
                return;
            }
            if (out_ && out_->is_done()) { end_frame(); }
        }
        has_more =
            out_ || bulk_out_ != nullptr || !control_.empty() || (may_send() && (!small_.empty() || !bulk_.empty()));
    } else if (phase_ != Phase::handshake) {
        return;
    }
    const TlsSession::Step flushed = session_->flush();
    if (flushed == TlsSession::Step::failed) {
        end(session_->failure(), false);
        return;
    }
    // Another turn also when the system has taken it all: others may be waiting for theirs.
    if (flushed == TlsSession::Step::wants_write || has_more) { wait_writable(); }
}

/// The next plain bytes: where a whole record lies in a payload, from there, else put together in `scratch`. None:
/// nothing is to be sent.
std::span<const std::byte> TlsConnection::next_record(std::span<std::byte> scratch) {
    std::size_t have = 0;
    while (have < scratch.size()) {
        if (!out_ && !begin_frame()) { break; }
        const std::size_t before = kFrameBytes + out_->header.size();
        if (have == 0 && out_->have >= before && out_->bytes() - out_->have >= scratch.size()) {
            const auto record = out_->payload.subspan(out_->have - before, scratch.size());
            out_->have += record.size();
            return record;  // the frame ends, if it does, when this is encrypted
        }
        have += out_->take(scratch.subspan(have));
        if (out_->is_done()) { end_frame(); }
    }
    return scratch.first(have);
}

void TlsConnection::begin_frame(const TlsFrame& frame, std::span<const std::byte> header,
                                std::span<const std::byte> payload) {
    out_ = Out{};
    out_->type = frame.type;
    out_->frame = write_frame(frame);
    out_->header = header;
    out_->payload = payload;
}

/// Chooses what is sent next: what the connection has to say, small messages, parts of the large one. False: nothing.
bool TlsConnection::begin_frame() {
    using Type = TlsFrame::Type;
    if (!control_.empty()) {
        const TlsFrame frame = control_.front();
        control_.pop_front();
        const bool is_hello = frame.type == Type::hello;
        begin_frame(frame, is_hello ? std::as_bytes(std::span(hello_)) : std::span<const std::byte>(), {});
        return true;
    }
    if (!may_send()) { return false; }
    if (std::exchange(owes_pong_, false)) {
        begin_frame({.type = Type::pong}, {}, {});
        return true;
    }
    if (bulk_is_refused_) {
        bulk_is_refused_ = false;
        if (bulk_out_ != nullptr) {
            begin_frame({.type = Type::abort}, {}, {});
            owner_.finish(std::move(bulk_out_), fail(ErrorCode::cancelled, "refused by the receiver"));
            return true;
        }
    }
    const bool has_bulk = bulk_out_ != nullptr || !bulk_.empty();
    if (!small_.empty() && (!has_bulk || small_in_a_row_ < kSmallInARowMax)) {
        ++small_in_a_row_;
        small_out_ = std::move(small_.front());
        small_.pop_front();
        const Message& message = small_out_->message;
        begin_frame({.type = Type::message,
                     .kind = message.kind,
                     .header_bytes = static_cast<std::uint32_t>(message.header.size()),
                     .payload_bytes = static_cast<std::uint32_t>(message.payload.bytes.size())},
                    std::as_bytes(std::span(message.header)), message.payload.bytes);
        return true;
    }
    if (!has_bulk) { return false; }
    small_in_a_row_ = 0;
    if (bulk_out_ == nullptr) {
        bulk_out_ = std::move(bulk_.front());
        bulk_.pop_front();
        bulk_sent_ = 0;
        const Message& message = bulk_out_->message;
        begin_frame({.type = Type::bulk,
                     .kind = message.kind,
                     .number = ++bulks_out_,
                     .header_bytes = static_cast<std::uint32_t>(message.header.size()),
                     .payload_bytes = static_cast<std::uint32_t>(message.payload.bytes.size())},
                    std::as_bytes(std::span(message.header)), {});
        return true;
    }
    const auto left = bulk_out_->message.payload.bytes.subspan(bulk_sent_);
    const auto part = left.first(std::min(left.size(), kDataPayloadMax));
    begin_frame({.type = Type::data, .payload_bytes = static_cast<std::uint32_t>(part.size())}, {}, part);
    return true;
}

/// The frame is encrypted, or copied to be: nobody needs what it was made of any more.
void TlsConnection::end_frame() {
    const TlsFrame::Type type = out_->type;
    const std::size_t payload_bytes = out_->payload.size();
    out_.reset();
    if (type == TlsFrame::Type::message) { owner_.finish(std::move(small_out_), {}); }
    if (type != TlsFrame::Type::data) { return; }
    bulk_sent_ += payload_bytes;
    if (bulk_sent_ < bulk_out_->message.payload.bytes.size()) { return; }
    bulk_is_refused_ = false;
    owner_.finish(std::move(bulk_out_), {});
}

/// Ends what waits too long. `is_stuck`: one that is on its way is late. The next time at which one is.
base::TimePoint TlsConnection::check_sends(base::TimePoint now, bool& is_stuck) {
    base::TimePoint next = base::TimePoint::max();
    for (std::deque<std::unique_ptr<TlsSend>>* waiting : {&small_, &bulk_}) {
        for (auto found = waiting->begin(); found != waiting->end();) {
            if (now < (*found)->deadline) {
                next = std::min(next, (*found)->deadline);
                ++found;
                continue;
            }
            std::unique_ptr<TlsSend> late = std::move(*found);
            found = waiting->erase(found);
            owner_.finish(std::move(late), fail(ErrorCode::deadline_exceeded, "not sent in time"));
        }
    }
    for (const TlsSend* send : {small_out_.get(), bulk_out_.get()}) {
        if (send == nullptr) { continue; }
        is_stuck = is_stuck || now >= send->deadline;
        next = std::min(next, send->deadline);
    }
    return next;
}

}  // namespace net
