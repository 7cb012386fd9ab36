#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

#include "gateway/http/gate.h"

namespace gateway {

/// Reads the body of one request that passed the gate: by Content-Length, or chunked. No sockets: bytes are handed in.
/// Framing is Boost.Beast's (its only use); forms of chunk lines that it lets pass are refused here.
class BodyReader {
public:
    /// `head_text` is the head as it came.
    BodyReader(std::string_view head_text, const RequestHead& head, const HttpLimits& limits);
    ~BodyReader();
    BodyReader(const BodyReader&) = delete;
    BodyReader& operator=(const BodyReader&) = delete;

    /// Takes what has arrived since the head (or since the last call) and says how much of it belongs to this request;
    /// the rest is to be handed in again with what follows. Refusal: 400 malformed chunk, 413 too large.
    tl::expected<std::size_t, HttpRefusal> feed(std::string_view received);
    bool done() const;
    /// The body, once done.
    std::string take();

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace gateway
