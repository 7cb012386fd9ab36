#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/openai_wire.h"
#include "bench/record.h"
#include "bench/workload.h"

namespace bench {

/// Where the server is. Only plain HTTP.
struct Target {
    std::string host;
    std::string port;
    std::string base_path;  // in front of every route, e.g. "/v1"; does not end in a slash
    std::string api_key;    // sent as a bearer token when not empty
};

/// `http://host[:port][/base]`; without a base it is "/v1". Error: invalid_argument.
base::Result<Target> parse_url(std::string_view url);

struct HttpAnswer {
    int status = 0;
    std::string body;  // at most 8 MiB
};

/// One GET of `path` (below the base). Blocks at most `timeout`.
/// Error: unavailable when there is no answer, deadline_exceeded.
base::Result<HttpAnswer> http_get(const Target& target, std::string_view path, Seconds timeout);

/// The same with a POST of JSON.
base::Result<HttpAnswer> http_post(const Target& target, std::string_view path, std::string_view json, Seconds timeout);

/// One request of a run, ready to be sent.
struct LoadRequest {
    PlannedRequest plan;
    std::string body;  // of request_body()
};

struct LoadProgress {
    Seconds elapsed{};
    std::size_t total = 0;
    std::size_t sent = 0;
    std::size_t ended = 0;
    std::size_t failed = 0;
};

struct LoadOptions {
    Endpoint endpoint = Endpoint::chat;
    Seconds timeout{600};           // for one request, from when it was sent
    std::size_t in_flight_max = 0;  // 0: no bound; otherwise a due request waits, and its latency counts the wait
    bool check_length = true;       // an answer that is shorter or longer than asked is an error ("wrong_length")
    Seconds progress_interval{1};
    std::function<void(const LoadProgress&)> progress;  // called on the calling thread; may be empty
    /// The body of a request that follows another one (PlannedRequest::after), made when it is sent. Empty: its own.
    std::function<std::string(std::size_t index, const std::string& answer_before)> follow;
};

/// Sends each request when it falls due, whatever became of the earlier ones, and waits for all answers. A request that
/// follows another falls due when that one has ended and the think time has passed; where that one failed it is not
/// sent, which is its error ("not_sent"). Blocks; uses the calling thread for everything. One record for each request,
/// in the order of `requests`. SIGINT ends the run early: what was in flight then has the error "interrupted", what was
/// not sent has no record. Kinds of error: http_NNN, connect, read, timeout, stream_error, bad_stream,
/// truncated_stream, wrong_length, interrupted. Error: unavailable when the host's name cannot be resolved.
base::Result<std::vector<RequestRecord>> run_load(const Target& target, std::span<const LoadRequest> requests,
                                                  const LoadOptions& options);

}  // namespace bench
