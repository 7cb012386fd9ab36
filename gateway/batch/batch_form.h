#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/batch/batch_records.h"
#include "gateway/openai/endpoint.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// What a client asks of POST /v1/batches.
struct BatchForm {
    std::string input_file;
    std::string endpoint;  // one of those that batches may have
    std::string window;
    std::int64_t window_s = 0;
    std::string metadata;  // a JSON object, or empty
};
/// Errors: 400 with param: an endpoint that batches have not, a window that is not 1h to 168h or 1d to 7d, metadata
/// beyond OpenAI's bounds (16 pairs, keys of 64 and values of 512 characters).
ApiResult<BatchForm> read_batch_form(std::string_view body);

/// The endpoint of a path as batches name it ("/v1/chat/completions"); nothing where batches have it not.
std::optional<Endpoint> batch_endpoint(std::string_view path);

/// The requests of an input file, or what is wrong with it (at most kBatchProblemsMax problems, and then no request).
/// Every line is an object with a `custom_id` of its own, `method` POST, `url` the batch's endpoint, and a `body`
/// without `stream` and `slo`. Empty lines are passed over.
struct BatchInput {
    std::vector<BatchLine> lines;
    std::vector<BatchProblem> problems;
};
inline constexpr std::size_t kBatchProblemsMax = 100;
BatchInput read_batch_input(std::string_view content, std::string_view endpoint, std::size_t requests_max);
/// The body of one of them, as text.
std::string body_of_line(std::string_view line);

/// Objects as OpenAI writes them.
std::string file_json(const FileRecord& file);
std::string batch_json(const BatchRecord& batch);
std::string_view name_of(BatchStatus status);
std::optional<BatchStatus> batch_status(std::string_view name);

/// One line of an output or error file. `body` is JSON.
std::string outcome_line(std::string_view id, std::string_view custom_id, unsigned status, std::string_view request_id,
                         std::string_view body);
/// One that was not sent: `code` batch_expired or batch_cancelled.
std::string unsent_line(std::string_view id, std::string_view custom_id, std::string_view code,
                        std::string_view message);

}  // namespace gateway
