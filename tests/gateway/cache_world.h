#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "tests/gateway/api_world.h"

namespace gateway_test {

/// A gateway with a cache, whose workers say what the test says.
struct CacheWorld : World {
    explicit CacheWorld(gateway::GatewayOptions given = equal_only(),
                        gateway::Models models = make_models({"m"}, {"org/m"}))
        : World(std::move(given), std::move(models)) {
        use_cache();
    }

    /// Equal requests only; whom one is counted for is told by a header.
    static gateway::GatewayOptions equal_only() {
        gateway::GatewayOptions options;
        options.cache.enabled = true;
        options.cache.semantic.semantic = false;
        options.tenant_header = "x-tenant";
        return options;
    }

    /// A completion; without `max_tokens` in `more` an answer is cut after 16 tokens, and then it is not kept.
    std::shared_ptr<FakeExchange> ask(const std::string& more = "", const gateway::HttpFields& fields = {}) {
        return send("POST", "/v1/completions", R"({"temperature":0,"prompt":"hello")" + more + "}", fields);
    }
    /// The model answers the `number`-th request that it got.
    void answer(std::string_view text, std::size_t number = 0) {
        place(number);
        say(text, proto::SequenceOutput::FINISH_STOP, number);
        run();
    }
    std::size_t runs() const { return owner.ports.placed.size(); }
};

inline std::string text_of(const FakeExchange& exchange) {
    return std::string(body(exchange).at("choices").at(0).at("text").as_string());
}

inline std::string header(const FakeExchange& exchange, std::string_view name) {
    return field(exchange.response.value(), name);
}

}  // namespace gateway_test
