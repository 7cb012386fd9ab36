#include "gateway/cluster/releases.h"

#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

gateway::Releases::Ended ended(std::uint64_t request) {
    gateway::Releases::Ended result;
    result.set_request_id(request);
    return result;
}

std::vector<std::uint64_t> requests(const proto::ReleaseRequest& batch) {
    std::vector<std::uint64_t> result;
    for (const auto& one : batch.ended()) {
        result.push_back(one.request_id());
    }
    return result;
}

}  // namespace

TEST_CASE("endings go out in bounded batches, oldest first", "[gateway][releases]") {
    gateway::Releases releases(10, 2);
    for (std::uint64_t request = 1; request <= 3; ++request) {
        releases.add(ended(request));
    }
    proto::ReleaseRequest first;
    REQUIRE(releases.take_batch(first));
    REQUIRE(requests(first) == std::vector<std::uint64_t>{1, 2});
    proto::ReleaseRequest second;
    REQUIRE(releases.take_batch(second));
    REQUIRE(requests(second) == std::vector<std::uint64_t>{3});
    proto::ReleaseRequest none;
    REQUIRE_FALSE(releases.take_batch(none));
}

TEST_CASE("a batch that comes back keeps the bound and its place before what came since", "[gateway][releases]") {
    gateway::Releases releases(4, 3);
    for (std::uint64_t request = 1; request <= 4; ++request) {
        releases.add(ended(request));
    }
    proto::ReleaseRequest failed;
    REQUIRE(releases.take_batch(failed));
    releases.add(ended(5));
    releases.give_back(failed);
    REQUIRE(releases.waiting() == 4u);  // 1 was forgotten
    REQUIRE(releases.forgotten() == 1u);
    proto::ReleaseRequest again;
    REQUIRE(releases.take_batch(again));
    REQUIRE(requests(again) == std::vector<std::uint64_t>{2, 3, 4});
}

TEST_CASE("of too many endings the oldest are forgotten", "[gateway][releases]") {
    gateway::Releases releases(100, 1000);
    for (std::uint64_t request = 1; request <= 250; ++request) {
        releases.add(ended(request));
        REQUIRE(releases.waiting() <= 100u);
    }
    REQUIRE(releases.forgotten() == 150u);
    proto::ReleaseRequest batch;
    REQUIRE(releases.take_batch(batch));
    REQUIRE(requests(batch).front() == 151u);
    REQUIRE(requests(batch).back() == 250u);
}
