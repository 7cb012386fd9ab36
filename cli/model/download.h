#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "cli/model/http.h"
#include "cli/model/progress.h"
#include "cli/model/retry.h"

namespace cli::model {

/// What every way to fetch something needs. Borrowed for the time of one pull.
struct Fetch {
    HttpClient& http;
    Progress& progress;
    const StopAsked& stop_asked;
    RetryPolicy retry;
    /// Error: resource_exhausted when the disk has no room for so many more bytes.
    std::function<base::Result<void>(std::uint64_t)> check_room;
};

/// Turns an answer that is no success into an error that says what to do.
using ExplainStatus = std::function<base::Error(const HttpAnswer&)>;

struct Download {
    std::string url{};
    std::string token{};
    std::optional<std::uint64_t> bytes{};  // how long the file must be
    std::string sha256{};                  // that it must have; empty: not known
    ExplainStatus explain{};
};

/// Fetches one file into `part`, going on behind what is there; a server that ignores that begins again. Tries again
/// what may pass, as long as the policy says. A file of another hash than wanted is removed; if it had been put
/// together from two tries it is fetched once more. `done_before`: bytes of the same progress that other files have
/// made. Gives the SHA-256. Error: that of `explain`, of HttpClient::get(), data_loss for another length or hash.
base::Result<std::string> download(const Download& wanted, const std::filesystem::path& part, std::uint64_t done_before,
                                   Fetch& fetch);

/// A small answer as text, with the same patience. Error: as download(); resource_exhausted above `bytes_max`.
base::Result<std::string> get_text(const std::string& url, const std::string& token, std::size_t bytes_max,
                                   const ExplainStatus& explain, Fetch& fetch);

/// "HTTP 503", and what the server said about it in a line.
std::string describe_status(const HttpAnswer& answer);

}  // namespace cli::model
