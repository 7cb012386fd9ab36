#include "gateway/http/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <ctime>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "gateway/http/connection_exchange.h"

namespace gateway {
namespace {

constexpr std::size_t kKeptBytesMax = 4 * 1024;         // of each buffer, by a connection that is idle
constexpr std::size_t kPipelinedBytesMax = 256 * 1024;  // read ahead while a request is in work
constexpr std::uint64_t kSendBufferHardFactor = 16;     // one echoed prompt with logprobs may be larger than the limit
constexpr std::size_t kLingerBytesMax = 8 * 1024 * 1024;            // then the connection is closed all the same
constexpr base::Duration kProbePauseMin = std::chrono::seconds(1);  // between probes of a half-closed client; doubles
constexpr base::Duration kSlowAfter = std::chrono::seconds(1);

}  // namespace

Connection::Connection(boost::asio::ip::tcp::socket socket, const boost::asio::ip::address& peer,
                       std::shared_ptr<HttpServer::Shared> server)
    : socket_(std::move(socket)), server_(std::move(server)), peer_(peer) {
    if (server_->setup.certificate) { tls_ = std::make_unique<TlsSession>(server_->setup.certificate()); }
}

Connection::~Connection() = default;

void Connection::start() {
    boost::system::error_code ignored;
    socket_.set_option(boost::asio::ip::tcp::no_delay(true), ignored);
    socket_.non_blocking(true, ignored);
    if (server_->setup.options.socket_send_bytes > 0) {
        socket_.set_option(
            boost::asio::socket_base::send_buffer_size(static_cast<int>(server_->setup.options.socket_send_bytes)),
            ignored);
    }
    set_read_deadline(server_->setup.options.header_timeout);
    note_idle();
    read();
}

void Connection::read() {
    if (reading_ || read_ended_ || state_ == State::closed) { return; }
    if (state_ == State::handling && input_.size() > kPipelinedBytesMax) { return; }
    reading_ = true;
    // Until there is something to read no buffer is held for it: idle connections are many.
    socket_.async_wait(boost::asio::ip::tcp::socket::wait_read,
                       [self = shared_from_this()](const boost::system::error_code& error) {
                           self->reading_ = false;
                           if (self->state_ == State::closed) { return; }
                           error ? self->on_read_end(false) : self->take();
                       });
}

void Connection::take() {
    std::string& buffer = server_->read_buffer;
    boost::system::error_code error;
    const std::size_t bytes = socket_.read_some(boost::asio::buffer(buffer), error);
    if (error == boost::asio::error::would_block) {
        read();
    } else if (error) {
        on_read_end(error == boost::asio::error::eof);
    } else if (tls_) {
        on_cipher(std::string_view(buffer).substr(0, bytes));
    } else {
        on_read(std::string_view(buffer).substr(0, bytes));
    }
}

void Connection::note_idle() {
    const bool idle = is_idle();
    if (std::exchange(is_noted_idle_, idle) != idle) { server_->book.set_idle(*this, idle); }
    if (!idle) { return; }
    for (std::string* buffer : {&input_, &output_, &writing_, &handshake_}) {
        if (buffer->empty() && buffer->capacity() > kKeptBytesMax) { std::string().swap(*buffer); }
    }
}

void Connection::on_cipher(std::string_view received) {
    if (state_ == State::lingering) {
        on_read(received);  // counted and thrown away
        return;
    }
    std::string plain;
    const TlsSession::State state = tls_->receive(received, plain);
    if (state == TlsSession::State::spoke_http) {
        tls_.reset();
        refuse({400, "this port speaks TLS: the address begins with https://"});
        read();
        return;
    }
    std::string said;
    tls_->take_output(said);
    if (!said.empty() && state_ != State::closed) {
        // Records of its own, between those of an answer: behind what was made into records already.
        handshake_ += said;
        begin_writing();
    }
    if (state == TlsSession::State::broken) {
        end_after_write();  // with the alert that says why
        read();
        return;
    }
    if (plain.empty()) {
        read();
    } else {
        on_read(plain);
    }
    if (state == TlsSession::State::peer_ended && state_ != State::closed && !read_ended_) { on_read_end(true); }
}

void Connection::on_read(std::string_view received) {
    if (state_ != State::lingering) {
        if (input_.empty() && state_ == State::head && requests_ > 0) {
            set_read_deadline(server_->setup.options.header_timeout);  // a next request begins
        }
        input_.append(received);
        note_idle();
        process();
        note_idle();
    } else if ((discarded_bytes_ += received.size()) > kLingerBytesMax) {
        close("client_gone");
    }
    read();
}

void Connection::on_read_end(bool in_order) {
    read_ended_ = true;
    if (!in_order || (state_ == State::lingering && !is_writing_)) {
        close("client_gone");
    } else if (state_ == State::handling) {
        begin_half_closed();
    } else if (state_ != State::lingering) {
        go_on();
    }
}

void Connection::go_on() {
    process();
    note_idle();
    read();
    // Of a half-closed client that finished no further request. Its last answer may still be on its way.
    if (read_ended_ && (state_ == State::head || state_ == State::body)) { linger(); }
}

void Connection::begin_half_closed() {
    // The client's FIN says that no more requests come, or that nobody is there any more: which of the two shows when
    // something is sent, since a kernel answers what nobody can read with a reset. So the answer is begun: its first
    // bytes are the same whatever comes of it.
    if (input_.empty()) { close_after_answer_ = true; }
    if (!std::exchange(watches_for_reset_, true)) {
        const auto patience =
            std::chrono::duration_cast<std::chrono::milliseconds>(server_->setup.options.write_timeout).count();
        const int patience_ms = static_cast<int>(std::clamp<std::int64_t>(patience, 1, 1 << 30));
        ::setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, sizeof patience_ms);
        socket_.async_wait(
            boost::asio::ip::tcp::socket::wait_error,
            [self = shared_from_this()](const boost::system::error_code&) { self->close("client_gone"); });
    }
    probe_pause_ = kProbePauseMin;
    probe(server_->setup.clock.now());
}

bool Connection::probes() const {
    return state_ == State::handling && read_ended_ && exchange_ && !exchange_->started() &&
           probes_sent_ < kAnswerStart.size();
}

void Connection::probe(base::TimePoint now) {
    if (!probes()) { return; }
    write(kAnswerStart.substr(probes_sent_++, 1));
    probe_at_ = now + probe_pause_;
    probe_pause_ *= 2;
    sweep_in_time();
}

std::string_view Connection::without_probes(std::string_view answer) {
    answer.remove_prefix(std::exchange(probes_sent_, 0));
    return answer;
}

HttpFields Connection::cors_fields(const RequestHead& head) const {
    const std::string* origin = head.only_field("origin");
    return server_->setup.cors.answer_fields(origin == nullptr ? std::string_view() : *origin);
}

void Connection::process() {
    bool progress = true;
    while (progress) {
        switch (state_) {
            case State::head:
                progress = process_head();
                break;
            case State::body:
                progress = process_body();
                break;
            default:
                progress = false;
        }
    }
}

bool Connection::process_head() {
    if (input_.empty()) { return false; }
    // One empty line before a request is tolerated (RFC 9112, 2.2): old clients send one after a body.
    if (input_.starts_with("\r\n")) { input_.erase(0, 2); }
    if (input_.empty() || input_ == "\r") { return false; }
    const HttpLimits& limits = server_->setup.options.limits;
    const auto end = find_head_end(input_, limits);
    if (!end) {
        refuse(end.error());
        return false;
    }
    if (!*end) { return false; }
    auto head = check_head(std::string_view(input_).substr(0, **end), limits);
    if (!head) {
        refuse(head.error());
        return false;
    }
    begin_body(std::move(*head), **end);
    return state_ != State::lingering && state_ != State::closed;
}

void Connection::begin_body(RequestHead head, std::size_t head_bytes) {
    const HttpServerOptions& options = server_->setup.options;
    if (!head.keep_alive || server_->draining) { close_after_answer_ = true; }
    body_ = std::make_unique<BodyReader>(std::string_view(input_).substr(0, head_bytes), head, options.limits);
    input_.erase(0, head_bytes);
    head_ = std::move(head);
    state_ = State::body;
    if (auto refusal = admit()) {
        refuse(std::move(*refusal));
        return;
    }
    set_read_deadline(options.body_timeout);
    if (head_->expects_continue && head_->has_body() && input_.empty()) { write("HTTP/1.1 100 Continue\r\n\r\n"); }
}

std::optional<HttpRefusal> Connection::admit() {
    if (auto refusal = server_->site.refusal(*head_)) { return refusal; }
    if (server_->setup.door) {
        if (auto refusal = server_->setup.door(*head_)) { return refusal; }
    }
    client_ = client_name(server_->proxies.client_of(peer_, *head_));
    body_bytes_ = server_->bodies->open(server_->setup.payer ? server_->setup.payer(*head_, client_) : client_);
    if (!server_->proxies.trusts(peer_)) { return std::nullopt; }  // else its connections are not the client's
    std::size_t& in_work = server_->proxied[client_];
    if (in_work >= server_->setup.options.connections_per_client_max) {
        return HttpRefusal{429, "too many requests of this client are in work"};
    }
    ++in_work;
    proxied_ = client_;
    return std::nullopt;
}

bool Connection::process_body() {
    if (head_->has_body()) {
        const auto taken = body_->feed(input_);
        if (!taken) {
            refuse(taken.error());
            return false;
        }
        input_.erase(0, *taken);
        // What has come counts, not what was declared: who only declares must not keep others out.
        const auto counted = body_bytes_->add(*taken);
        if (counted != ByteAccount::Taken::yes) {
            const bool all = counted == ByteAccount::Taken::all_full;
            refuse(all ? HttpRefusal{503, "too many request bodies are being received or prepared"}
                       : HttpRefusal{429, "too many request bodies of this client are being received or prepared"});
            return false;
        }
        if (!body_->done()) { return false; }
    }
    hand_over();
    return true;
}

void Connection::hand_over() {
    HttpRequest request{.head = std::move(*head_),
                        .body = head_->has_body() ? body_->take() : std::string(),
                        .received_at = server_->setup.clock.now(),
                        .client = client_,
                        .bytes = std::move(body_bytes_)};
    head_.reset();
    body_.reset();
    read_deadline_.reset();
    state_ = State::handling;
    ++requests_;
    exchange_ = std::make_shared<ConnectionExchange>(shared_from_this(), request.head);
    const auto exchange = exchange_;           // an immediate answer drops ours
    if (read_ended_) { begin_half_closed(); }  // with several requests sent before
    server_->setup.handler(std::move(request), exchange);
}

void Connection::refuse(HttpRefusal refusal) {
    free_request();
    HttpFields fields;
    if (head_) {
        refusal.method = head_->method;
        refusal.path = head_->sent_path;
        fields = cors_fields(*head_);
    } else {
        fields = server_->setup.cors.answer_fields(refusal.origin);
    }
    server_->setup.refused(refusal);
    const std::string body = server_->setup.refusal_body(refusal);
    if (refusal.status == 401) { fields.emplace_back("WWW-Authenticate", "Bearer"); }
    if (refusal.status == 405) { fields.emplace_back("Allow", "GET, HEAD, POST, OPTIONS"); }
    if (refusal.status == 503 || refusal.status == 429) { fields.emplace_back("Retry-After", "1"); }
    write(head_text(refusal.status, "application/json", fields, true) +
          "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    linger();
}

void Connection::write(std::string_view data) {
    if (state_ == State::closed) { return; }
    output_ += data;
    note_output();
}

void Connection::write_chunk(std::string_view data) {
    if (state_ == State::closed) { return; }
    char size[20];
    char* const end = std::to_chars(size, size + sizeof size, data.size(), 16).ptr;
    output_.append(size, end).append("\r\n").append(data).append("\r\n");
    note_output();
}

void Connection::note_output() {
    begin_writing();
    if (buffered() > server_->setup.options.send_buffer_bytes_max) { sweep_in_time(); }
}

void Connection::begin_writing() {
    if (is_writing_) { return; }
    write_progress_at_ = server_->setup.clock.now();
    is_writing_ = true;
    note_idle();
    sweep_in_time();
    // From the event loop, so that everything of this turn goes out in one piece; all connections in one turn of it.
    server_->to_flush.push_back(shared_from_this());
    if (server_->to_flush.size() > 1) { return; }
    boost::asio::post(socket_.get_executor(), [server = server_] {
        for (const auto& connection : std::exchange(server->to_flush, {})) {
            connection->flush();
        }
    });
}

void Connection::flush() {
    if (state_ == State::closed) { return; }
    // Straight to the socket: a stream writes one small piece per token, and a turn through the event loop for each
    // would cost as much as its text.
    for (;;) {
        if (written_ == writing_.size()) { fill_writing(); }
        if (writing_.empty()) {
            on_all_written();
            return;
        }
        boost::system::error_code error;
        const std::size_t bytes =
            socket_.write_some(boost::asio::buffer(writing_.data() + written_, writing_.size() - written_), error);
        if (error == boost::asio::error::would_block) {
            wait_to_write();
            return;
        }
        if (error) {
            close("client_gone");
            return;
        }
        written_ += bytes;
        write_progress_at_ = server_->setup.clock.now();
    }
}

void Connection::wait_to_write() {
    socket_.async_wait(boost::asio::ip::tcp::socket::wait_write,
                       [self = shared_from_this()](const boost::system::error_code& error) {
                           if (self->state_ == State::closed) { return; }
                           error ? self->close("client_gone") : self->flush();
                       });
}

void Connection::on_all_written() {
    is_writing_ = false;
    sweep_in_time();
    if (close_after_write_) {
        boost::system::error_code ignored;
        socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_send, ignored);
        set_read_deadline(server_->setup.options.linger_timeout);
        if (read_ended_) { close("client_gone"); }
    } else if (state_ == State::head && input_.empty()) {
        set_read_deadline(server_->setup.options.idle_timeout);
    }
    note_idle();
    server_->note_progress();
    if (exchange_) { exchange_->drained(); }
}

void Connection::fill_writing() {
    writing_.clear();
    written_ = 0;
    if (!tls_) {
        std::swap(writing_, output_);
        return;
    }
    std::swap(writing_, handshake_);
    if (!tls_->is_established()) { return; }  // who is refused before that is told so by an alert
    tls_->send(output_, writing_);
    output_.clear();
    if (close_after_write_) { tls_->end(writing_); }
}

void Connection::answered() {
    exchange_.reset();
    free_request();
    probes_sent_ = 0;  // of an answer that was cut
    has_answered_ = true;
    if (close_after_answer_ || server_->draining) {
        linger();
        return;
    }
    state_ = State::head;
    set_read_deadline(input_.empty() ? server_->setup.options.idle_timeout : server_->setup.options.header_timeout);
    // The next request may be here already. From the event loop: the handler that answered is still on the stack.
    boost::asio::post(socket_.get_executor(), [self = shared_from_this()] { self->go_on(); });
}

void Connection::linger() {
    // Closing with unread input would reset the connection and could destroy the answer on its way.
    free_request();
    input_.clear();
    end_after_write();
    read();
}

void Connection::end_after_write() {
    state_ = State::lingering;
    close_after_write_ = true;
    read_deadline_.reset();  // set again when everything is written
    begin_writing();
}

void Connection::sweep(base::TimePoint now) {
    const HttpServerOptions& options = server_->setup.options;
    if (now >= probe_at_) { probe(now); }
    // Over its limit and taking nothing; or far over it, however little it takes at a time.
    const std::uint64_t limit = options.send_buffer_bytes_max;
    if (state_ == State::handling && !(exchange_ && exchange_->waits_for_client()) &&
        ((buffered() > limit && is_slow(now)) || buffered() > limit * kSendBufferHardFactor)) {
        close("slow_client");
        return;
    }
    if (is_writing_ && now - write_progress_at_ >= options.write_timeout) {
        close("slow_client");
        return;
    }
    if (!reads_in_time() || !read_deadline_ || now < *read_deadline_) { return; }
    read_deadline_.reset();
    if (state_ == State::body || (state_ == State::head && !input_.empty())) {
        refuse({408, "the request did not arrive in time"});
    } else if (state_ == State::head || state_ == State::lingering) {
        close("client_gone");
    }
}

std::optional<base::TimePoint> Connection::next_sweep() const {
    if (state_ == State::closed) { return std::nullopt; }
    const HttpServerOptions& options = server_->setup.options;
    std::optional<base::TimePoint> next;
    if (is_writing_) {
        const std::uint64_t limit = options.send_buffer_bytes_max;
        next = write_progress_at_ + options.write_timeout;
        if (state_ == State::handling && buffered() > limit) {
            next = std::min(*next, write_progress_at_ + kSlowAfter);
        }
        if (state_ == State::handling && buffered() > limit * kSendBufferHardFactor) { next = write_progress_at_; }
    }
    if (probes()) { next = std::min(next.value_or(probe_at_), probe_at_); }
    if (reads_in_time() && read_deadline_) { next = std::min(next.value_or(*read_deadline_), *read_deadline_); }
    return next;
}

void Connection::sweep_in_time() {
    if (const auto at = next_sweep()) { server_->timers.by(*at); }
}

void Connection::set_read_deadline(base::Duration from_now) {
    read_deadline_ = server_->setup.clock.now() + from_now;
    sweep_in_time();
}

bool Connection::reads_in_time() const {
    return !is_writing_ || (state_ != State::lingering && state_ != State::head);
}

bool Connection::is_slow(base::TimePoint now) const {
    return is_writing_ && now - write_progress_at_ >= kSlowAfter;
}

void Connection::drain() {
    if (state_ != State::head || !input_.empty() || !has_answered_) {
        close_after_answer_ = true;  // also of a connection so new that its first request is still on its way
    } else if (is_writing_) {
        linger();  // the last answer is on its way
    } else {
        close("drain");
    }
}

void Connection::close(std::string_view cause) {
    if (state_ == State::closed) { return; }
    state_ = State::closed;
    free_request();
    server_->book.closed(*this);
    if (exchange_) { exchange_->client_gone(cause); }
    exchange_.reset();
    boost::system::error_code ignored;
    socket_.shutdown(boost::asio::ip::tcp::socket::shutdown_both, ignored);
    socket_.close(ignored);
    const auto self = shared_from_this();
    boost::asio::post(socket_.get_executor(), [self] {
        self->server_->connections.erase(self);
        self->server_->note_progress();
    });
}

void Connection::free_request() {
    body_bytes_.reset();
    if (proxied_.empty()) { return; }
    const auto at = server_->proxied.find(proxied_);
    if (--at->second == 0) { server_->proxied.erase(at); }
    proxied_.clear();
}

}  // namespace gateway
