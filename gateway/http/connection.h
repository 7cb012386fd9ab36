#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "gateway/http/body_reader.h"
#include "gateway/http/connection_book.h"
#include "gateway/http/server.h"
#include "gateway/http/site_check.h"
#include "gateway/http/tls_session.h"
#include "gateway/wake_timer.h"

namespace gateway {

class Connection;

/// What the connections of one server share.
struct HttpServer::Shared {
    Shared(boost::asio::io_context& io, Setup setup_, SiteCheck site_, TrustedProxies proxies_)
        : setup(std::move(setup_)),
          site(std::move(site_)),
          proxies(std::move(proxies_)),
          bodies(std::make_shared<ByteAccount>(
              ByteAccount::Options{.bytes_max = setup.options.bodies_bytes_max,
                                   .bytes_per_payer_max = setup.options.bodies_bytes_per_client_max})),
          book({.connections_max = setup.options.connections_max,
                .connections_per_client_max = setup.options.connections_per_client_max}),
          acceptor(io),
          timers(io, setup.clock, [this](base::TimePoint now) { return sweep(now); }) {}

    /// Checks the deadlines of all connections; when the next one is.
    std::optional<base::TimePoint> sweep(base::TimePoint now);

    Setup setup;
    SiteCheck site;
    const TrustedProxies proxies;
    const std::shared_ptr<ByteAccount> bodies;
    ConnectionBook book;
    std::unordered_map<std::string, std::size_t> proxied;  // requests in work, by client, that came by a trusted proxy
    boost::asio::ip::tcp::acceptor acceptor;
    WakeTimer timers;
    std::unordered_set<std::shared_ptr<Connection>> connections;
    std::vector<std::shared_ptr<Connection>> to_flush;       // have something to write; each once
    std::string read_buffer = std::string(64 * 1024, '\0');  // of whichever connection has something to read
    bool draining = false;
    std::function<void()> drain_progress;  // while it drains

    /// A connection may have nothing left to answer.
    void note_progress() const {
        if (drain_progress) { drain_progress(); }
    }
    bool stopped = false;
};

/// One client connection: reads requests, hands them over one at a time, writes answers, notices that the client has
/// gone. A read is always pending, also while a request is in work; one write is. A client that only closes its sending
/// side gets its answers. Times are checked by the server's timers, on the server's clock.
class Connection : public std::enable_shared_from_this<Connection> {
public:
    /// `peer`: the address at the other end.
    Connection(boost::asio::ip::tcp::socket socket, const boost::asio::ip::address& peer,
               std::shared_ptr<HttpServer::Shared> server);
    ~Connection();

    void start();
    /// Checks the deadlines.
    void sweep(base::TimePoint now);
    /// When there is one to check; it may come later by then, but no earlier one.
    std::optional<base::TimePoint> next_sweep() const;
    /// Server drains: closes when idle, after the answer otherwise.
    void drain();
    void close(std::string_view cause);

    /// Nothing of a request has come, nothing of an answer is left.
    bool is_idle() const { return state_ == State::head && input_.empty() && !is_writing_; }
    /// Everything was written; only the client's end is waited for.
    bool answered_and_closing() const { return state_ == State::lingering && !is_writing_; }
    /// Bytes that wait for the client.
    std::uint64_t buffered() const { return output_.size() + writing_.size(); }
    bool is_slow(base::TimePoint now) const;

private:
    friend class ConnectionExchange;
    enum class State { head, body, handling, lingering, closed };

    void read();
    void on_read(std::string_view received);
    /// What TLS makes of it.
    void on_cipher(std::string_view received);
    /// `in_order`: the client closed its sending side; else the connection broke.
    void on_read_end(bool in_order);
    /// Looks for a next request in what has come, and reads on.
    void go_on();
    /// The client sends nothing more, and the request in work is answered all the same, unless it turns out that nobody
    /// is there to read it.
    void begin_half_closed();
    /// Bytes that any answer begins with may still go out before it.
    bool probes() const;
    /// Sends the next of them.
    void probe(base::TimePoint now);
    /// An answer without the bytes of it that went out as probes.
    std::string_view without_probes(std::string_view answer);
    HttpFields cors_fields(const RequestHead& head) const;
    void process();
    /// True when it made progress.
    bool process_head();
    bool process_body();
    void begin_body(RequestHead head, std::size_t head_bytes);
    /// Why the request whose head has come is not taken, if it is not.
    std::optional<HttpRefusal> admit();
    void hand_over();
    void refuse(HttpRefusal refusal);

    void write(std::string_view data);
    /// As one chunk of an answer in the chunked coding; not empty.
    void write_chunk(std::string_view data);
    void note_output();
    void flush();
    /// With what is to go out next, if anything is.
    void fill_writing();
    /// Goes on when the socket takes something again.
    void wait_to_write();
    void on_all_written();
    /// The answer is complete: next request, or close.
    void answered();
    void linger();
    void end_after_write();
    /// Nothing of the request is counted any more by us.
    void free_request();
    /// Reads what has come.
    void take();
    /// Tells the book whether we are idle, and keeps little if so.
    void note_idle();
    void begin_writing();
    /// The read deadline counts. A client that takes its last answer may do so slowly; the write timeout watches it.
    bool reads_in_time() const;
    void set_read_deadline(base::Duration from_now);
    /// What next_sweep() says may have come nearer.
    void sweep_in_time();

    boost::asio::ip::tcp::socket socket_;
    std::shared_ptr<HttpServer::Shared> server_;
    State state_ = State::head;
    std::unique_ptr<TlsSession> tls_;  // null: in the clear
    std::string input_;                // received, not yet used
    bool reading_ = false;
    bool read_ended_ = false;  // the client closed its side
    bool watches_for_reset_ = false;
    std::size_t probes_sent_ = 0;
    base::TimePoint probe_at_{};
    base::Duration probe_pause_{};

    std::optional<RequestHead> head_;
    std::unique_ptr<BodyReader> body_;
    const boost::asio::ip::address peer_;
    std::string client_;   // of the request
    std::string proxied_;  // likewise, while it is counted in Shared::proxied; else empty
    std::shared_ptr<ByteAccount::Hold> body_bytes_;

    std::string output_;     // waits for the running write
    std::string handshake_;  // what TLS itself has to say; goes before it
    std::string writing_;    // handed to the socket; in TLS as records
    std::size_t written_ = 0;
    bool is_writing_ = false;
    bool is_noted_idle_ = false;
    base::TimePoint write_progress_at_{};

    std::optional<base::TimePoint> read_deadline_;
    bool has_answered_ = false;  // any request
    bool close_after_answer_ = false;
    bool close_after_write_ = false;
    std::size_t requests_ = 0;
    std::size_t discarded_bytes_ = 0;  // lingering
    std::shared_ptr<class ConnectionExchange> exchange_;
};

}  // namespace gateway
