#pragma once

#include <functional>
#include <string_view>
#include <utility>

#include "gateway/http/exchange.h"

namespace gateway {

/// The client's side of a batch's request: nobody's socket. I/O thread only.
class BatchExchange final : public Exchange {
public:
    /// `answered` is called once, and may be called from inside the call that handed the exchange on; never after
    /// leave().
    explicit BatchExchange(std::function<void(HttpResponse)> answered) : answered_(std::move(answered)) {}

    /// The answer is not wanted any more. From the event loop, like every client that goes.
    void leave() {
        if (std::exchange(is_over_, true)) { return; }
        if (gone_) { std::exchange(gone_, {})("client_gone"); }
    }

    void respond(HttpResponse response) override {
        if (!std::exchange(is_over_, true)) { answered_(std::move(response)); }
    }
    // The reader of input refuses what would be streamed.
    void start_stream(std::string_view, const HttpFields&) override { cut(); }
    void send(std::string_view) override {}
    void end_stream() override {}
    void cut() override { respond({.status = 500, .body = R"({"error":{"message":"the answer was cut"}})"}); }

    void on_gone(std::function<void(std::string_view cause)> callback) override { gone_ = std::move(callback); }
    bool is_gone() const override { return is_over_; }
    void close_after() override {}

private:
    std::function<void(HttpResponse)> answered_;
    std::function<void(std::string_view)> gone_;
    bool is_over_ = false;
};

}  // namespace gateway
