#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "gateway/http/byte_account.h"
#include "gateway/http/gate.h"

namespace gateway {

/// A request that is whole.
struct HttpRequest {
    RequestHead head;
    std::string body;
    base::TimePoint received_at;  // last byte
    std::string client = {};      // name of the address that it comes from (client_address.h)
    /// Counts the body for as long as anybody keeps it: until the request's sequences start. Null: nobody counts.
    std::shared_ptr<ByteAccount::Hold> bytes = {};

    /// Whom its work is counted for.
    std::string payer() const { return bytes ? bytes->payer() : client; }
};

using HttpFields = std::vector<std::pair<std::string, std::string>>;
inline void add_fields(HttpFields& fields, HttpFields more) {
    for (auto& field : more) {
        fields.push_back(std::move(field));
    }
}

/// The body of an answer, in pieces. I/O thread only.
class BodySource {
public:
    virtual ~BodySource() = default;
    /// Gives the next piece to `done`, later and from the event loop; a piece without bytes is the end. Not called
    /// again before `done` was. Whoever asks may be gone by then.
    virtual void next(std::function<void(base::Result<std::string> piece)> done) = 0;
};

/// An answer that is whole. Content-Length, Date and Connection are added.
struct HttpResponse {
    unsigned status = 200;
    std::string content_type = "application/json";
    HttpFields fields = {};
    std::string body = {};
    /// In place of `body`: `source_bytes` bytes in pieces, each asked for when the client has taken the one before. A
    /// source that fails, or gives fewer or more, cuts the connection.
    std::shared_ptr<BodySource> source = {};
    std::uint64_t source_bytes = 0;
};

/// The client's side of one request: answer it once, whole or as a stream. I/O thread only. Calls after the client has
/// gone, or after the end, have no effect.
class Exchange {
public:
    virtual ~Exchange() = default;

    /// The whole answer.
    virtual void respond(HttpResponse response) = 0;
    /// Status 200 and head of a stream; then `send` and one `end_stream`. What is sent before the socket is ready again
    /// goes out together.
    virtual void start_stream(std::string_view content_type, const HttpFields& fields) = 0;
    virtual void send(std::string_view data) = 0;
    virtual void end_stream() = 0;
    /// Cuts the connection after what was sent: the client shall see that the answer is not whole.
    virtual void cut() = 0;

    /// Called once, from the event loop and never from inside a call above, when the client goes away before the end.
    /// `cause`: client_gone, slow_client (its buffer is full or it took nothing for too long), drain.
    virtual void on_gone(std::function<void(std::string_view cause)> callback) = 0;
    virtual bool is_gone() const = 0;
    /// This connection will not serve another request (the answer says so).
    virtual void close_after() = 0;
};

}  // namespace gateway
