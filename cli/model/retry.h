#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "base/result.h"

namespace cli::model {

/// How often something that may pass is tried again. Pure.
struct RetryPolicy {
    std::uint32_t tries_max = 5;                      // in a row without a byte of progress
    std::chrono::milliseconds first{500};             // doubled each time
    std::chrono::milliseconds longest{8'000};         // of our own waits
    std::chrono::milliseconds told_longest{120'000};  // of one that a server asks for (Retry-After)
};

/// What went wrong with one try.
struct Failure {
    std::optional<base::ErrorCode> error{};  // there was no answer; empty: there was one
    long status = 0;                         // of the answer
    std::optional<std::chrono::seconds> retry_after{};
};

/// How long to wait before the next try, after `tries` (> 0) in a row have failed, the last one so. Empty: it will not
/// pass, or was tried often enough, or the server asks for more patience than the policy has.
std::optional<std::chrono::milliseconds> wait_before_retry(const Failure& failure, std::uint32_t tries,
                                                           const RetryPolicy& policy);

}  // namespace cli::model
