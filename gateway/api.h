#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>

#include "gateway/answer.h"
#include "gateway/options.h"
#include "gateway/request/request_table.h"

namespace gateway {

/// The routes: from a whole HTTP request to its answer. I/O thread only, but for the text work it hands out.
class Api {
public:
    struct Setup {
        const GatewayOptions& options;
        RequestTable& table;
        const TextPort& text;
        GatewayMetrics& metrics;
        const base::Clock& clock;
        Post post;       // back to the I/O thread
        Post post_text;  // to a text thread
        std::function<HttpServer::Load()> load;
        std::string version;  // of the program
    };
    explicit Api(Setup setup);
    ~Api();

    void handle(HttpRequest request, std::shared_ptr<Exchange> exchange);
    void tick(base::TimePoint now);
    /// New requests and those that wait for a text thread get 503 from now on, /health too.
    void drain() { draining_ = true; }
    /// Every request still in work gets its error.
    void give_up_all();
    std::size_t in_flight() const { return in_flight_; }

private:
    struct Route;
    void get(const std::string& name, const HttpRequest& request, Exchange& exchange, const std::string& request_id);
    void generate(Endpoint endpoint, HttpRequest request, const std::shared_ptr<Exchange>& exchange,
                  const std::string& request_id);
    void prepared(ApiResult<PreparedRequest> result, Endpoint endpoint, base::TimePoint received_at,
                  const std::shared_ptr<Exchange>& exchange, const std::string& request_id);
    std::optional<ApiError> refusal(const HttpRequest& request) const;
    void respond(Exchange& exchange, std::string_view endpoint, HttpResponse response, const std::string& request_id,
                 bool known_model = true);
    void done(Answer& answer);
    std::string fingerprint() const;
    std::string random_id(std::string_view prefix);

    Setup setup_;
    std::vector<std::string> models_;
    std::int64_t started_unix_s_;
    std::mt19937_64 random_;
    std::unordered_map<Answer*, std::shared_ptr<Answer>> answers_;
    std::size_t in_flight_ = 0;
    std::uint64_t preparing_bytes_ = 0;  // bodies that wait for a text thread
    std::atomic<bool> draining_{false};  // set by the I/O thread, read by the text threads too
};

}  // namespace gateway
