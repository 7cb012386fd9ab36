#include "gateway/http/connection.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <ctime>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace gateway {
namespace {

constexpr std::size_t kReadBytes = 64 * 1024;
constexpr std::size_t kPipelinedBytesMax = 256 * 1024;  // read ahead while a request is in work
constexpr std::uint64_t kSendBufferHardFactor = 16;     // one echoed prompt with logprobs may be larger than the limit
constexpr std::size_t kLingerBytesMax = 8 * 1024 * 1024;  // then the connection is closed all the same
constexpr base::Duration kSlowAfter = std::chrono::seconds(1);

std::string_view reason_phrase(unsigned status) {
    switch (status) {
        case 200:
            return "OK";
        case 204:
            return "No Content";
        case 400:
            return "Bad Request";
        case 401:
            return "Unauthorized";
        case 403:
            return "Forbidden";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 408:
            return "Request Timeout";
        case 413:
            return "Content Too Large";
        case 414:
            return "URI Too Long";
        case 415:
            return "Unsupported Media Type";
        case 417:
            return "Expectation Failed";
        case 429:
            return "Too Many Requests";
        case 431:
            return "Request Header Fields Too Large";
        case 500:
            return "Internal Server Error";
        case 503:
            return "Service Unavailable";
        case 504:
            return "Gateway Timeout";
        case 505:
            return "HTTP Version Not Supported";
        default:
            return "Status";
    }
}

std::string head_text(unsigned status, std::string_view content_type, const HttpFields& fields, bool close) {
    std::string text = "HTTP/1.1 " + std::to_string(status) + " " + std::string(reason_phrase(status)) + "\r\n";
    char date[64];
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    if (std::strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &parts) > 0) {
        text += "Date: " + std::string(date) + "\r\n";
    }
    text += "Server: sluice\r\n";
    if (!content_type.empty()) { text += "Content-Type: " + std::string(content_type) + "\r\n"; }
    for (const auto& [name, value] : fields) {
        text += name + ": " + value + "\r\n";
    }
    if (close) { text += "Connection: close\r\n"; }
    return text;
}

}  // namespace

/// The exchange of one request over a Connection. Outlives it when the handler keeps it.
class ConnectionExchange final : public Exchange {
public:
    ConnectionExchange(const std::shared_ptr<Connection>& connection, const RequestHead& head)
        : connection_(connection), is_head_(head.method == "HEAD"), http_1_0_(head.http_1_0) {}

    void respond(HttpResponse response) override {
        const auto connection = usable();
        if (!connection || started_) { return; }
        const bool no_body = response.status == 204;
        std::string text = head_text(response.status, no_body ? "" : response.content_type, response.fields,
                                     connection->close_after_answer_);
        if (!no_body) { text += "Content-Length: " + std::to_string(response.body.size()) + "\r\n"; }
        if (http_1_0_ && !connection->close_after_answer_) { text += "Connection: keep-alive\r\n"; }
        text += "\r\n";
        if (!is_head_ && !no_body) { text += response.body; }
        started_ = true;
        finish(*connection, text);
    }

    void start_stream(std::string_view content_type, const HttpFields& fields) override {
        const auto connection = usable();
        if (!connection || started_) { return; }
        started_ = true;
        if (http_1_0_) {
            connection->close_after_answer_ = true;
        }  // the end of the stream is the end of the connection
        std::string text = head_text(200, content_type, fields, connection->close_after_answer_);
        if (!http_1_0_) { text += "Transfer-Encoding: chunked\r\n"; }
        connection->write(text + "\r\n");
    }

    void send(std::string_view data) override {
        const auto connection = usable();
        if (!connection || !started_ || data.empty()) { return; }
        connection->write(http_1_0_ ? std::string(data) : chunk(data));
    }

    void end_stream() override {
        const auto connection = usable();
        if (!connection || !started_) { return; }
        finish(*connection, http_1_0_ ? "" : "0\r\n\r\n");
    }

    void cut() override {
        const auto connection = usable();
        if (!connection) { return; }
        connection->close_after_answer_ = true;
        started_ = true;
        finish(*connection, "");
    }

    void on_gone(std::function<void(std::string_view)> callback) override {
        if (!gone_cause_.empty()) {
            tell(std::move(callback));
        } else {
            gone_ = std::move(callback);
        }
    }
    bool is_gone() const override { return !gone_cause_.empty() || connection_.expired(); }
    void close_after() override {
        if (const auto connection = usable()) { connection->close_after_answer_ = true; }
    }

    /// Called by the connection when it closes before the answer is complete.
    void client_gone(std::string_view cause) {
        if (finished_ || !gone_cause_.empty()) { return; }
        gone_cause_ = cause;
        if (gone_) { tell(std::exchange(gone_, nullptr)); }
    }

private:
    std::shared_ptr<Connection> usable() const {
        return finished_ || !gone_cause_.empty() ? nullptr : connection_.lock();
    }
    static std::string chunk(std::string_view data) {
        char size[20];
        const int digits = std::snprintf(size, sizeof size, "%zx\r\n", data.size());
        std::string text(size, static_cast<std::size_t>(digits));
        text += data;
        text += "\r\n";
        return text;
    }
    void finish(Connection& connection, std::string_view last) {
        finished_ = true;
        gone_ = nullptr;
        if (!last.empty()) { connection.write(last); }
        connection.answered();
    }
    void tell(std::function<void(std::string_view)> callback) const {
        // Never from inside a call of the handler's.
        if (const auto connection = connection_.lock()) {
            boost::asio::post(connection->socket_.get_executor(),
                              [callback = std::move(callback), cause = gone_cause_] { callback(cause); });
        }
    }

    std::weak_ptr<Connection> connection_;
    bool is_head_;
    bool http_1_0_;
    bool started_ = false;
    bool finished_ = false;
    std::string gone_cause_;
    std::function<void(std::string_view)> gone_;
};

Connection::Connection(boost::asio::ip::tcp::socket socket, std::shared_ptr<HttpServer::Shared> server)
    : socket_(std::move(socket)), server_(std::move(server)), read_buffer_(kReadBytes, '\0') {}

Connection::~Connection() {
    free_body_bytes();
}

void Connection::start() {
    boost::system::error_code ignored;
    socket_.set_option(boost::asio::ip::tcp::no_delay(true), ignored);
    if (server_->setup.options.socket_send_bytes > 0) {
        socket_.set_option(
            boost::asio::socket_base::send_buffer_size(static_cast<int>(server_->setup.options.socket_send_bytes)),
            ignored);
    }
    set_read_deadline(server_->setup.options.header_timeout);
    read();
}

void Connection::read() {
    if (reading_ || read_ended_ || state_ == State::closed) { return; }
    if (state_ == State::handling && input_.size() > kPipelinedBytesMax) { return; }
    reading_ = true;
    socket_.async_read_some(boost::asio::buffer(read_buffer_),
                            [self = shared_from_this()](const boost::system::error_code& error, std::size_t bytes) {
                                self->reading_ = false;
                                if (self->state_ == State::closed) { return; }
                                if (error) {
                                    self->on_read_end();
                                } else {
                                    self->on_read(bytes);
                                }
                            });
}

void Connection::on_read(std::size_t bytes) {
    if (state_ != State::lingering) {
        if (input_.empty() && state_ == State::head && requests_ > 0) {
            set_read_deadline(server_->setup.options.header_timeout);  // a next request begins
        }
        input_.append(read_buffer_, 0, bytes);
        process();
    } else if ((discarded_bytes_ += bytes) > kLingerBytesMax) {
        close("client_gone");
    }
    read();
}

void Connection::on_read_end() {
    read_ended_ = true;
    if (state_ == State::handling) {
        close("client_gone");
    } else if (is_writing_ || !output_.empty()) {
        close_after_write_ =
            true;  // the last answer may still be read by a client that has only closed its sending side
        state_ = State::lingering;
        read_deadline_.reset();
    } else {
        close("client_gone");
    }
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
    set_read_deadline(options.body_timeout);
    if (head_->expects_continue && head_->has_body() && input_.empty()) { write("HTTP/1.1 100 Continue\r\n\r\n"); }
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
        body_bytes_counted_ += *taken;
        server_->bodies_bytes += *taken;
        if (server_->bodies_bytes > server_->setup.options.bodies_bytes_max) {
            refuse({503, "too many request bodies are being received"});
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
                        .received_at = server_->setup.clock.now()};
    head_.reset();
    body_.reset();
    free_body_bytes();
    read_deadline_.reset();
    state_ = State::handling;
    ++requests_;
    exchange_ = std::make_shared<ConnectionExchange>(shared_from_this(), request.head);
    const auto exchange = exchange_;  // an immediate answer drops ours
    server_->setup.handler(std::move(request), exchange);
}

void Connection::refuse(const HttpRefusal& refusal) {
    free_body_bytes();
    server_->setup.refused(refusal.status);
    const std::string body = server_->setup.refusal_body(refusal.status, refusal.message);
    HttpFields fields;
    if (refusal.status == 405) { fields.emplace_back("Allow", "GET, HEAD, POST, OPTIONS"); }
    if (refusal.status == 503) { fields.emplace_back("Retry-After", "1"); }
    write(head_text(refusal.status, "application/json", fields, true) +
          "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    linger();
}

void Connection::write(std::string_view data) {
    if (state_ == State::closed) { return; }
    output_ += data;
    begin_writing();
    if (buffered() > server_->setup.options.send_buffer_bytes_max) { sweep_in_time(); }
}

void Connection::begin_writing() {
    if (is_writing_) { return; }
    write_progress_at_ = server_->setup.clock.now();
    is_writing_ = true;
    sweep_in_time();
    // From the event loop, so that everything of this turn goes out in one piece.
    boost::asio::post(socket_.get_executor(), [self = shared_from_this()] { self->flush(); });
}

void Connection::flush() {
    if (state_ == State::closed) { return; }
    if (written_ == writing_.size()) {
        writing_.clear();
        written_ = 0;
        std::swap(writing_, output_);
    }
    if (writing_.empty()) {
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
        server_->note_progress();
        return;
    }
    socket_.async_write_some(boost::asio::buffer(writing_.data() + written_, writing_.size() - written_),
                             [self = shared_from_this()](const boost::system::error_code& error, std::size_t bytes) {
                                 if (self->state_ == State::closed) { return; }
                                 if (error) {
                                     self->close("client_gone");
                                 } else {
                                     self->on_written(bytes);
                                 }
                             });
}

void Connection::on_written(std::size_t bytes) {
    written_ += bytes;
    write_progress_at_ = server_->setup.clock.now();
    flush();
}

void Connection::answered() {
    exchange_.reset();
    has_answered_ = true;
    if (close_after_answer_ || server_->draining) {
        linger();
        return;
    }
    state_ = State::head;
    set_read_deadline(input_.empty() ? server_->setup.options.idle_timeout : server_->setup.options.header_timeout);
    // The next request may be here already. From the event loop: the handler that answered is still on the stack.
    boost::asio::post(socket_.get_executor(), [self = shared_from_this()] {
        self->process();
        self->read();
    });
}

void Connection::linger() {
    // Closing with unread input would reset the connection and could destroy the answer on its way.
    state_ = State::lingering;
    input_.clear();
    close_after_write_ = true;
    read_deadline_.reset();  // set again when everything is written
    begin_writing();
    read();
}

void Connection::sweep(base::TimePoint now) {
    const HttpServerOptions& options = server_->setup.options;
    // Over its limit and taking nothing; or far over it, however little it takes at a time.
    const std::uint64_t limit = options.send_buffer_bytes_max;
    if (state_ == State::handling &&
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
    free_body_bytes();
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

void Connection::free_body_bytes() {
    server_->bodies_bytes -= body_bytes_counted_;
    body_bytes_counted_ = 0;
}

}  // namespace gateway
