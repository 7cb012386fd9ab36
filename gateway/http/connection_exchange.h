#pragma once

#include <boost/asio/post.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "gateway/http/answer_head.h"
#include "gateway/http/connection.h"
#include "gateway/http/exchange.h"

namespace gateway {

/// The exchange of one request over a Connection. Outlives it when the handler keeps it.
class ConnectionExchange final : public Exchange, public std::enable_shared_from_this<ConnectionExchange> {
public:
    ConnectionExchange(const std::shared_ptr<Connection>& connection, const RequestHead& head)
        : connection_(connection),
          cors_fields_(connection->cors_fields(head)),
          is_head_(head.method == "HEAD"),
          http_1_0_(head.http_1_0) {}

    void respond(HttpResponse response) override {
        const auto connection = usable();
        if (!connection || started_) { return; }
        const bool no_body = response.status == 204;
        response.fields.insert(response.fields.end(), cors_fields_.begin(), cors_fields_.end());
        std::string text = head_text(response.status, no_body ? "" : response.content_type, response.fields,
                                     connection->close_after_answer_);
        const std::uint64_t bytes = response.source ? response.source_bytes : response.body.size();
        if (!no_body) { text += "Content-Length: " + std::to_string(bytes) + "\r\n"; }
        if (http_1_0_ && !connection->close_after_answer_) { text += "Connection: keep-alive\r\n"; }
        text += "\r\n";
        if (!is_head_ && !no_body) { text += response.body; }
        started_ = true;
        if (!response.source || is_head_ || no_body) {
            finish(*connection, connection->without_probes(text));
            return;
        }
        source_ = std::move(response.source);
        source_bytes_left_ = bytes;
        connection->write(connection->without_probes(text));
        ask_source();
    }

    void start_stream(std::string_view content_type, const HttpFields& fields) override {
        const auto connection = usable();
        if (!connection || started_) { return; }
        started_ = true;
        if (http_1_0_) {
            connection->close_after_answer_ = true;
        }  // the end of the stream is the end of the connection
        HttpFields all = fields;
        all.insert(all.end(), cors_fields_.begin(), cors_fields_.end());
        std::string text = head_text(200, content_type, all, connection->close_after_answer_);
        if (!http_1_0_) { text += "Transfer-Encoding: chunked\r\n"; }
        text += "\r\n";
        connection->write(connection->without_probes(text));
    }

    void send(std::string_view data) override {
        const auto connection = usable();
        if (!connection || !started_ || data.empty()) { return; }
        http_1_0_ ? connection->write(data) : connection->write_chunk(data);
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

    bool started() const { return started_; }
    /// What it has to send is bounded: more comes only when that has gone.
    bool waits_for_client() const { return source_ != nullptr; }
    /// Called by the connection, from the event loop, when everything was handed to the socket.
    void drained() {
        if (source_ && !asks_source_) { ask_source(); }
    }
    /// Called by the connection when it closes before the answer is complete.
    void client_gone(std::string_view cause) {
        source_.reset();
        if (finished_ || !gone_cause_.empty()) { return; }
        gone_cause_ = cause;
        if (gone_) { tell(std::exchange(gone_, nullptr)); }
    }

private:
    std::shared_ptr<Connection> usable() const {
        return finished_ || !gone_cause_.empty() ? nullptr : connection_.lock();
    }
    /// The piece goes out behind what was written; the next one is asked for when the socket has taken it.
    void ask_source() {
        asks_source_ = true;
        source_->next([self = shared_from_this()](base::Result<std::string> piece) { self->take(std::move(piece)); });
    }
    void take(base::Result<std::string> piece) {
        asks_source_ = false;
        const auto connection = usable();
        if (!connection || !source_) { return; }
        const std::uint64_t bytes = piece ? piece->size() : 0;
        if (bytes > source_bytes_left_ || (bytes == 0 && source_bytes_left_ > 0)) {
            source_.reset();
            cut();  // it was promised otherwise
            return;
        }
        source_bytes_left_ -= bytes;
        if (source_bytes_left_ == 0) {
            source_.reset();
            finish(*connection, piece ? *piece : "");
        } else {
            connection->write(*piece);
        }
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
    HttpFields cors_fields_;
    bool is_head_;
    bool http_1_0_;
    bool started_ = false;
    bool finished_ = false;
    std::shared_ptr<BodySource> source_;  // of an answer in pieces, until the last one is there
    std::uint64_t source_bytes_left_ = 0;
    bool asks_source_ = false;
    std::string gone_cause_;
    std::function<void(std::string_view)> gone_;
};

}  // namespace gateway
