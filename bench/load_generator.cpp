#include "bench/load_generator.h"

#include <algorithm>
#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include "bench/sse_parser.h"

namespace bench {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using SteadyTime = std::chrono::steady_clock::time_point;
using Request = http::request<http::string_body>;

constexpr std::size_t kBodyBytesMax = std::size_t{8} << 20;

asio::redirect_error_t<asio::use_awaitable_t<>> into(beast::error_code& error) {
    return asio::redirect_error(asio::use_awaitable, error);
}

std::chrono::steady_clock::duration to_duration(Seconds value) {
    return std::chrono::duration_cast<std::chrono::steady_clock::duration>(value);
}

Request make_request(const Target& target, http::verb verb, std::string_view path) {
    Request request{verb, target.base_path + std::string(path), 11};
    const bool is_ipv6 = target.host.find(':') != std::string::npos;
    request.set(http::field::host, (is_ipv6 ? "[" + target.host + "]" : target.host) + ":" + target.port);
    request.set(http::field::user_agent, "sluice-bench");
    if (!target.api_key.empty()) { request.set(http::field::authorization, "Bearer " + target.api_key); }
    return request;
}

/// One open connection with what has been read from it ahead.
struct Connection {
    explicit Connection(asio::io_context& io) : stream(io) {}
    beast::tcp_stream stream;
    beast::flat_buffer buffer;
};

base::Result<tcp::resolver::results_type> resolve(asio::io_context& io, const Target& target) {
    tcp::resolver resolver(io);
    beast::error_code error;
    auto endpoints = resolver.resolve(target.host, target.port, error);
    if (error) {
        return base::fail(base::ErrorCode::unavailable,
                          "no address for " + target.host + ":" + target.port + ": " + error.message());
    }
    return endpoints;
}

/// One run: plan in, records out. Everything happens on the thread that calls run().
class LoadRun {
public:
    LoadRun(const Target& target, std::span<const LoadRequest> requests, const LoadOptions& options)
        : target_(target), requests_(requests), options_(options), slot_free_(io_), signals_(io_, SIGINT) {}

    base::Result<std::vector<RequestRecord>> run() {
        auto endpoints = resolve(io_, target_);
        if (!endpoints) { return base::pass_on(endpoints); }
        endpoints_ = *endpoints;
        records_.resize(requests_.size());
        has_ended_.assign(requests_.size(), false);
        was_sent_.assign(requests_.size(), false);
        followers_.resize(requests_.size());
        for (std::size_t i = 0; i < requests_.size(); ++i) {
            if (const auto after = requests_[i].plan.after) { followers_[*after].push_back(i); }
        }
        if (options_.follow) { answers_.resize(requests_.size()); }
        slot_free_.expires_at(SteadyTime::max());
        start_ = std::chrono::steady_clock::now();
        signals_.async_wait([this](beast::error_code error, int) {
            if (!error) { io_.stop(); }
        });
        asio::co_spawn(io_, send_all(), asio::detached);
        if (options_.progress) { asio::co_spawn(io_, tell_progress(), asio::detached); }
        io_.run();

        std::vector<RequestRecord> records;
        for (std::size_t i = 0; i < records_.size(); ++i) {
            if (!was_sent_[i]) { continue; }
            if (!has_ended_[i]) {
                records_[i].error_kind = "interrupted";
                records_[i].end = elapsed();
            }
            records.push_back(std::move(records_[i]));
        }
        if (options_.progress) { options_.progress(progress()); }
        return records;
    }

private:
    Seconds elapsed() const { return std::chrono::steady_clock::now() - start_; }

    LoadProgress progress() const {
        return {.elapsed = elapsed(), .total = requests_.size(), .sent = sent_, .ended = ended_, .failed = failed_};
    }

    asio::awaitable<void> send_all() {
        asio::steady_timer timer(io_);
        for (std::size_t i = 0; i < requests_.size(); ++i) {
            if (requests_[i].plan.after) { continue; }
            beast::error_code error;
            timer.expires_at(start_ + to_duration(requests_[i].plan.due));
            co_await timer.async_wait(into(error));
            co_await wait_for_slot();
            begin(i, requests_[i].plan.due);
            asio::co_spawn(io_, serve_one(i), asio::detached);
        }
        if (requests_.empty()) { finish(); }
    }

    asio::awaitable<void> wait_for_slot() {
        while (options_.in_flight_max > 0 && sent_ - ended_ >= options_.in_flight_max) {
            beast::error_code error;
            co_await slot_free_.async_wait(into(error));  // cancelled by the next request that ends
        }
    }

    void begin(std::size_t index, Seconds due) {
        RequestRecord& record = records_[index];
        const PlannedRequest& plan = requests_[index].plan;
        record.index = index;
        record.session = plan.session;
        record.due = due;
        record.prompt_tokens_asked = plan.prompt_tokens;
        record.output_tokens_asked = plan.output_tokens;
        was_sent_[index] = true;
        ++sent_;
    }

    /// The next turn of a conversation.
    asio::awaitable<void> follow(std::size_t index) {
        const Seconds due = records_[*requests_[index].plan.after].end + requests_[index].plan.think;
        asio::steady_timer timer(io_);
        beast::error_code error;
        timer.expires_at(start_ + to_duration(due));
        co_await timer.async_wait(into(error));
        co_await wait_for_slot();
        begin(index, due);
        co_await serve_one(index);
    }

    /// What follows a failed turn is not sent, and counts as failed.
    void give_up_followers(std::size_t index) {
        std::vector<std::size_t> open = followers_[index];
        while (!open.empty()) {
            const std::size_t next = open.back();
            open.pop_back();
            begin(next, elapsed());
            records_[next].sent = records_[next].end = records_[next].due;
            fail(records_[next], "not_sent", "the turn before it failed");
            has_ended_[next] = true;
            ++ended_;
            ++failed_;
            open.insert(open.end(), followers_[next].begin(), followers_[next].end());
        }
    }

    asio::awaitable<void> serve_one(std::size_t index) {
        RequestRecord& record = records_[index];
        if (requests_[index].plan.after && options_.follow) {
            std::string& before = answers_[*requests_[index].plan.after];
            followed_body_[index] = options_.follow(index, before);
            before.clear();
        }
        record.sent = elapsed();
        const SteadyTime deadline = start_ + to_duration(record.sent + options_.timeout);
        // A kept connection may have been closed by the server meanwhile: then the request is sent once more on a new
        // one.
        while (co_await attempt(index, deadline) == Attempt::stale_connection) {}
        record.end = elapsed();
        has_ended_[index] = true;
        ++ended_;
        followed_body_.erase(index);
        if (record.is_ok()) {
            for (const std::size_t next : followers_[index]) {
                asio::co_spawn(io_, follow(next), asio::detached);
            }
        } else {
            ++failed_;
            give_up_followers(index);
        }
        slot_free_.cancel();
        if (ended_ == requests_.size()) { finish(); }
    }

    enum class Attempt { ended, stale_connection };

    asio::awaitable<Attempt> attempt(std::size_t index, SteadyTime deadline) {
        RequestRecord& record = records_[index];
        beast::error_code error;
        std::unique_ptr<Connection> connection;
        const bool is_kept = !idle_.empty();
        if (is_kept) {
            connection = std::move(idle_.back());
            idle_.pop_back();
            connection->stream.expires_at(deadline);
        } else {
            connection = std::make_unique<Connection>(io_);
            connection->stream.expires_at(deadline);
            co_await connection->stream.async_connect(endpoints_, into(error));
            if (error) {
                set_error(record, error, "connect");
                co_return Attempt::ended;
            }
            beast::error_code ignored;
            connection->stream.socket().set_option(tcp::no_delay(true), ignored);
        }

        Request request = make_request(target_, http::verb::post, endpoint_path(options_.endpoint));
        request.set(http::field::content_type, "application/json");
        request.set(http::field::accept, "text/event-stream");
        const auto followed = followed_body_.find(index);
        request.body() = followed == followed_body_.end() ? requests_[index].body : followed->second;
        if (const std::uint64_t session = requests_[index].plan.session; session != 0) {
            request.set("x-session-id", "bench-" + std::to_string(session));
        }
        request.prepare_payload();
        co_await http::async_write(connection->stream, request, into(error));

        http::response_parser<http::buffer_body> parser;
        parser.body_limit(boost::none);
        if (!error) { co_await http::async_read_header(connection->stream, connection->buffer, parser, into(error)); }
        if (error) {
            if (is_kept && !parser.got_some() && error != beast::error::timeout) {
                co_return Attempt::stale_connection;
            }
            set_error(record, error, "read");
            co_return Attempt::ended;
        }
        record.http_status = static_cast<int>(parser.get().result_int());
        if (record.http_status == 200) {
            co_await read_stream(record, *connection, parser);
        } else {
            const std::string body = co_await read_body(*connection, parser);
            record.error_kind = "http_" + std::to_string(record.http_status);
            record.error_message = error_message_of(body);
        }
        if (parser.is_done() && parser.keep_alive()) { idle_.push_back(std::move(connection)); }
        co_return Attempt::ended;
    }

    /// Reads events until the answer ends; fills times, counts and, where something is wrong, the error.
    asio::awaitable<void> read_stream(RequestRecord& record, Connection& connection,
                                      http::response_parser<http::buffer_body>& parser) {
        SseParser events;
        bool is_done = false;
        bool is_finished = false;
        bool has_usage = false;
        std::array<char, 16384> bytes;
        while (!parser.is_done()) {
            beast::error_code error;
            const std::size_t count = co_await read_some(connection, parser, bytes, error);
            const Seconds now = elapsed();
            if (error) {
                set_error(record, error, is_finished ? "truncated_stream" : "read");
                co_return;
            }
            const auto complete = events.feed(std::string_view(bytes.data(), count));
            if (!complete) {
                fail(record, "bad_stream", complete.error().message);
                co_return;
            }
            for (const std::string& data : *complete) {
                const auto event = parse_stream_event(data);
                if (!event) {
                    fail(record, "bad_stream", event.error().message);
                    co_return;
                }
                if (event->error) { fail(record, "stream_error", *event->error); }
                if (event->has_text) { record.token_times.push_back(now); }
                if (!answers_.empty() && !followers_[record.index].empty()) { answers_[record.index] += event->text; }
                is_done = is_done || event->is_done;
                is_finished = is_finished || event->is_finish;
                if (event->usage) {
                    has_usage = true;
                    record.prompt_tokens = event->usage->prompt_tokens;
                    record.cached_tokens = event->usage->cached_tokens;
                    record.output_tokens = event->usage->output_tokens;
                }
            }
        }
        if (!has_usage) { record.output_tokens = static_cast<std::uint32_t>(record.token_times.size()); }
        if (!record.is_ok()) { co_return; }
        if (!is_done || !is_finished) {
            fail(record, "truncated_stream",
                 is_done ? "the stream has no finish_reason" : "the stream ended without [DONE]");
        } else if (options_.check_length && has_usage && record.output_tokens != record.output_tokens_asked) {
            fail(record, "wrong_length",
                 std::to_string(record.output_tokens) + " tokens instead of " +
                     std::to_string(record.output_tokens_asked));
        }
    }

    asio::awaitable<std::string> read_body(Connection& connection, http::response_parser<http::buffer_body>& parser) {
        std::string body;
        std::array<char, 16384> bytes;
        while (!parser.is_done() && body.size() < kBodyBytesMax) {
            beast::error_code error;
            const std::size_t count = co_await read_some(connection, parser, bytes, error);
            body.append(bytes.data(), count);
            if (error) { break; }
        }
        co_return body;
    }

    static asio::awaitable<std::size_t> read_some(Connection& connection,
                                                  http::response_parser<http::buffer_body>& parser,
                                                  std::array<char, 16384>& bytes, beast::error_code& error) {
        parser.get().body().data = bytes.data();
        parser.get().body().size = bytes.size();
        co_await http::async_read_some(connection.stream, connection.buffer, parser, into(error));
        if (error == http::error::need_buffer) { error = {}; }
        co_return bytes.size() - parser.get().body().size;
    }

    static void fail(RequestRecord& record, std::string kind, std::string message) {
        if (!record.is_ok()) { return; }  // the first one tells what went wrong
        record.error_kind = std::move(kind);
        record.error_message = std::move(message);
    }

    static void set_error(RequestRecord& record, const beast::error_code& error, std::string kind) {
        fail(record, error == beast::error::timeout ? "timeout" : std::move(kind), error.message());
    }

    asio::awaitable<void> tell_progress() {
        asio::steady_timer& timer = progress_timer_.emplace(io_);
        while (!is_finished_) {
            beast::error_code error;
            timer.expires_after(to_duration(options_.progress_interval));
            co_await timer.async_wait(into(error));
            if (!is_finished_) { options_.progress(progress()); }
        }
    }

    /// Everything has been answered: nothing may keep the loop alive.
    void finish() {
        is_finished_ = true;
        beast::error_code ignored;
        signals_.cancel(ignored);
        if (progress_timer_) { progress_timer_->cancel(); }
    }

    const Target& target_;
    const std::span<const LoadRequest> requests_;
    const LoadOptions& options_;

    SteadyTime start_;
    std::vector<RequestRecord> records_;
    std::vector<bool> has_ended_;
    std::vector<bool> was_sent_;
    std::vector<std::vector<std::size_t>> followers_;             // by request
    std::vector<std::string> answers_;                            // texts, until the next turn has them; with `follow`
    std::unordered_map<std::size_t, std::string> followed_body_;  // of turns in flight
    std::size_t sent_ = 0;
    std::size_t ended_ = 0;
    std::size_t failed_ = 0;
    bool is_finished_ = false;

    asio::io_context io_{1};  // after the records: destroying it destroys the coroutines that refer to them
    tcp::resolver::results_type endpoints_;
    std::vector<std::unique_ptr<Connection>> idle_;
    asio::steady_timer slot_free_;
    asio::signal_set signals_;
    std::optional<asio::steady_timer> progress_timer_;
};

}  // namespace

base::Result<Target> parse_url(std::string_view url) {
    constexpr std::string_view kScheme = "http://";
    const auto bad = [url](const std::string& why) {
        return base::fail(base::ErrorCode::invalid_argument, "URL " + std::string(url) + ": " + why);
    };
    if (!url.starts_with(kScheme)) { return bad("only http:// is supported"); }
    std::string_view rest = url.substr(kScheme.size());
    Target target;
    const std::size_t slash = std::min(rest.find('/'), rest.size());
    std::string_view authority = rest.substr(0, slash);
    std::string_view path = rest.substr(slash);
    while (path.ends_with('/')) {
        path.remove_suffix(1);
    }
    target.base_path = path.empty() ? "/v1" : std::string(path);
    if (authority.starts_with('[')) {
        const std::size_t close = authority.find(']');
        if (close == std::string_view::npos) { return bad("no ] after the address"); }
        target.host = authority.substr(1, close - 1);
        authority.remove_prefix(close + 1);
    } else {
        const std::size_t colon = std::min(authority.find(':'), authority.size());
        target.host = authority.substr(0, colon);
        authority.remove_prefix(colon);
    }
    if (target.host.empty()) { return bad("no host"); }
    target.port = authority.empty() ? "80" : std::string(authority.substr(1));
    const bool is_number = !target.port.empty() && std::all_of(target.port.begin(), target.port.end(),
                                                               [](char c) { return c >= '0' && c <= '9'; });
    if (!is_number || target.port.size() > 5) { return bad("the port is not a number"); }
    return target;
}

namespace {

base::Result<HttpAnswer> http_ask(const Target& target, http::verb verb, std::string_view path, std::string_view json,
                                  Seconds timeout) {
    asio::io_context io{1};
    auto endpoints = resolve(io, target);
    if (!endpoints) { return base::pass_on(endpoints); }
    beast::error_code error;
    http::response_parser<http::string_body> parser;
    parser.body_limit(kBodyBytesMax);
    const auto exchange = [&]() -> asio::awaitable<void> {
        Connection connection(io);
        connection.stream.expires_after(to_duration(timeout));
        co_await connection.stream.async_connect(*endpoints, into(error));
        Request request = make_request(target, verb, path);
        request.keep_alive(false);
        if (verb == http::verb::post) {
            request.set(http::field::content_type, "application/json");
            request.body() = json;
            request.prepare_payload();
        }
        if (!error) { co_await http::async_write(connection.stream, request, into(error)); }
        if (!error) { co_await http::async_read(connection.stream, connection.buffer, parser, into(error)); }
    };
    asio::co_spawn(io, exchange, asio::detached);
    io.run();
    if (error) {
        const bool is_late = error == beast::error::timeout;
        return base::fail(is_late ? base::ErrorCode::deadline_exceeded : base::ErrorCode::unavailable,
                          std::string(http::to_string(verb)) + " http://" + target.host + ":" + target.port +
                              target.base_path + std::string(path) + ": " + error.message());
    }
    return HttpAnswer{.status = static_cast<int>(parser.get().result_int()), .body = std::move(parser.get().body())};
}

}  // namespace

base::Result<HttpAnswer> http_get(const Target& target, std::string_view path, Seconds timeout) {
    return http_ask(target, http::verb::get, path, {}, timeout);
}

base::Result<HttpAnswer> http_post(const Target& target, std::string_view path, std::string_view json,
                                   Seconds timeout) {
    return http_ask(target, http::verb::post, path, json, timeout);
}

base::Result<std::vector<RequestRecord>> run_load(const Target& target, std::span<const LoadRequest> requests,
                                                  const LoadOptions& options) {
    LoadRun run(target, requests, options);
    return run.run();
}

}  // namespace bench
