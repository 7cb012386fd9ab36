#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gateway {

/// A file of a client's, or one that a batch has written. Times in seconds since 1970.
struct FileRecord {
    std::string id = {};  // "file-.."
    std::string tenant = {};
    std::string name = {};
    std::string purpose = {};  // batch, batch_output, ..
    std::int64_t created_at = 0;
    std::uint64_t bytes = 0;
};

/// Where a batch is. The names are OpenAI's.
enum class BatchStatus { validating, in_progress, finalizing, completed, failed, expired, cancelling, cancelled };

/// What is wrong with a batch's input.
struct BatchProblem {
    std::string code = {};
    std::string message = {};
    std::string param = {};  // empty: none
    std::int64_t line = 0;   // from 1; 0: of the file
};

struct BatchRecord {
    std::string id = {};  // "batch_.."
    std::string tenant = {};
    std::string key_id = {};    // who made it; empty: no keys were asked for
    std::string endpoint = {};  // "/v1/chat/completions"
    std::string input_file = {};
    std::string window = {};    // "24h"
    std::string metadata = {};  // a JSON object, or empty
    BatchStatus status = BatchStatus::validating;
    std::int64_t created_at = 0;
    std::int64_t expires_at = 0;
    std::int64_t in_progress_at = 0;  // here and below 0: not yet
    std::int64_t finalizing_at = 0;
    std::int64_t ended_at = 0;  // completed, failed, expired or cancelled
    std::int64_t cancelling_at = 0;
    std::uint64_t total = 0;
    std::uint64_t completed = 0;
    std::uint64_t failed = 0;
    std::string output_file = {};  // empty: none
    std::string error_file = {};
    std::vector<BatchProblem> problems = {};

    bool is_over() const {
        return status == BatchStatus::completed || status == BatchStatus::failed || status == BatchStatus::expired ||
               status == BatchStatus::cancelled;
    }
};

/// One request of a batch, as a piece of its input file.
struct BatchLine {
    std::int64_t number = 0;  // from 1
    std::string custom_id = {};
    std::uint64_t begin = 0;  // of the line in the file, in bytes
    std::uint64_t bytes = 0;
};

/// One that is to be sent.
struct BatchRequest {
    std::int64_t number = 0;
    std::string custom_id = {};
    std::string line = {};  // as it stands in the input file
};

/// What became of one.
struct BatchOutcome {
    std::int64_t number = 0;
    bool is_error = false;  // its line goes into the error file
    std::string line = {};  // of the output or error file, without its end
};

}  // namespace gateway
