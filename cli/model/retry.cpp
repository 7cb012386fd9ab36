#include "cli/model/retry.h"

#include <algorithm>

namespace cli::model {
namespace {

bool may_pass(const Failure& failure) {
    if (failure.error) {
        return *failure.error == base::ErrorCode::unavailable || *failure.error == base::ErrorCode::deadline_exceeded ||
               *failure.error == base::ErrorCode::data_loss;
    }
    return failure.status == 408 || failure.status == 425 || failure.status == 429 || failure.status >= 500;
}

}  // namespace

std::optional<std::chrono::milliseconds> wait_before_retry(const Failure& failure, std::uint32_t tries,
                                                           const RetryPolicy& policy) {
    if (!may_pass(failure) || tries >= policy.tries_max) { return std::nullopt; }
    if (failure.retry_after) {
        if (*failure.retry_after > policy.told_longest) { return std::nullopt; }
        return std::chrono::milliseconds(*failure.retry_after);
    }
    std::chrono::milliseconds wait = policy.first;
    for (std::uint32_t i = 1; i < tries && wait < policy.longest; ++i) {
        wait *= 2;
    }
    return std::min(wait, policy.longest);
}

}  // namespace cli::model
