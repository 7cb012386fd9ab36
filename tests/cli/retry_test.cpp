#include "cli/model/retry.h"

#include "tests/support/catch.h"

using namespace cli::model;
using base::ErrorCode;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("what may pass is tried again with growing waits, so often and no more", "[cli][model]") {
    const RetryPolicy policy{.tries_max = 5, .first = milliseconds(500), .longest = milliseconds(1500)};
    const Failure busy{.status = 503};
    CHECK(wait_before_retry(busy, 1, policy) == milliseconds(500));
    CHECK(wait_before_retry(busy, 2, policy) == milliseconds(1000));
    CHECK(wait_before_retry(busy, 3, policy) == milliseconds(1500));
    CHECK(wait_before_retry(busy, 4, policy) == milliseconds(1500));
    CHECK_FALSE(wait_before_retry(busy, 5, policy));
    for (const long status : {408L, 429L, 500L, 502L, 504L}) {
        CHECK(wait_before_retry({.status = status}, 1, policy));
    }
    for (const ErrorCode error : {ErrorCode::unavailable, ErrorCode::deadline_exceeded, ErrorCode::data_loss}) {
        CHECK(wait_before_retry({.error = error}, 1, policy));
    }
}

TEST_CASE("what will not pass is not tried again", "[cli][model]") {
    for (const long status : {400L, 401L, 403L, 404L, 416L}) {
        CHECK_FALSE(wait_before_retry({.status = status}, 1, {}));
    }
    for (const ErrorCode error : {ErrorCode::cancelled, ErrorCode::failed_precondition, ErrorCode::resource_exhausted,
                                  ErrorCode::invalid_argument}) {
        CHECK_FALSE(wait_before_retry({.error = error}, 1, {}));
    }
}

TEST_CASE("a server's own wait is kept, unless it is longer than anybody waits", "[cli][model]") {
    CHECK(wait_before_retry({.status = 429, .retry_after = seconds(7)}, 1, {}) == milliseconds(7000));
    CHECK(wait_before_retry({.status = 503, .retry_after = seconds(0)}, 3, {}) == milliseconds(0));
    CHECK_FALSE(wait_before_retry({.status = 429, .retry_after = seconds(3600)}, 1, {}));
}
