#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/batch/batch_runner.h"

namespace gateway {

/// OpenAI's /v1/files and /v1/batches (docs/batches.md), without the version:
///   POST /files (multipart/form-data)   GET /files   GET /files/ID   GET /files/ID/content   DELETE /files/ID
///   POST /batches   GET /batches   GET /batches/ID   POST /batches/ID/cancel
/// A tenant sees its own files and batches only. I/O thread only; what needs the store is done on the store's thread.
class BatchDesk {
public:
    struct Setup {
        BatchRunner::Setup runner;
        std::vector<BatchRecord> unfinished;  // of an earlier life
    };
    explicit BatchDesk(Setup setup);

    static bool is_route(std::string_view route);
    /// The methods that a route of ours has.
    static std::vector<std::string> methods_of(std::string_view route);

    /// Answers by `done`, now or later. `tenant`: whose request it is. The tag's key must be for the endpoint of a
    /// batch that it makes. Errors: 400, 404, 413, 415, 429 (bounds of the config).
    void answer(HttpRequest request, std::string_view route, const RequestTag& tag, const std::string& tenant,
                std::function<void(HttpResponse)> done);

    BatchRunner& runner() { return runner_; }

private:
    using Done = std::function<void(HttpResponse)>;
    /// Runs `work` on the store's thread and gives what it returns to `done`.
    void on_disk(std::function<HttpResponse()> work, Done done);
    void upload(HttpRequest request, const std::string& tenant, Done done);
    void list_files(const HttpRequest& request, const std::string& tenant, Done done);
    void file(std::string_view method, std::string_view rest, const std::string& tenant, Done done);
    void create(const HttpRequest& request, const RequestTag& tag, const std::string& tenant, Done done);
    void list_batches(const HttpRequest& request, const std::string& tenant, Done done);
    void batch(std::string_view rest, const std::string& tenant, Done done);

    BatchRunner::Setup setup_;
    BatchRunner runner_;
};

}  // namespace gateway
