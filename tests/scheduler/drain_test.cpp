// A worker that is told to take nothing new.
#include "scheduler/scheduler.h"

#include "tests/scheduler/builders.h"
#include "tests/scheduler/fixture.h"

#include "tests/support/catch.h"

using scheduler::SessionId;
using scheduler_test::Fixture;
using scheduler_test::make_header;
using scheduler_test::make_heartbeat;
using scheduler_test::make_place;

namespace {

proto::DrainRequest make_drain(std::uint64_t worker, std::uint64_t incarnation = 0) {
    proto::DrainRequest request;
    *request.mutable_header() = make_header(0, "");
    request.set_worker_id(worker);
    request.set_incarnation(incarnation);
    return request;
}

}  // namespace

TEST_CASE("a worker that is to drain is told, and gets no request from then on", "[scheduler][drain]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.attach(2, {.id = 2, .incarnation = 21});
    REQUIRE(f.placed({.request_id = 1}).decode().worker_id() == 1);
    const auto drained = f.scheduler.drain(make_drain(1, 11));
    REQUIRE(drained.has_value());
    REQUIRE(drained->session == SessionId{1});
    REQUIRE(drained->directive.drain());
    REQUIRE(drained->reply.worker().state() == "draining");
    for (std::uint64_t request = 2; request <= 9; ++request) {
        REQUIRE(f.placed({.request_id = request}).decode().worker_id() == 2);
    }
    auto heartbeat = make_heartbeat(1);  // made before the directive came
    REQUIRE(f.beat(1, heartbeat).has_value());
    REQUIRE(f.placed({.request_id = 10}).decode().worker_id() == 2);
    REQUIRE(f.scheduler.drain(make_drain(1)).has_value());  // again is no harm
    REQUIRE(f.scheduler.drain(make_drain(2)).has_value());
    REQUIRE(f.refused(make_place({.request_id = 11})).error().code() == 14);
}

TEST_CASE("a drain lasts for the life of the worker, over new streams of it", "[scheduler][drain]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    REQUIRE(f.scheduler.drain(make_drain(1)).has_value());
    const auto again = f.enroll(2, {.id = 1, .incarnation = 11});
    REQUIRE(again->directives.size() == 2);
    REQUIRE(again->directives[1].drain());
    REQUIRE(f.described().workers(0).state() == "draining");
    f.scheduler.detach(SessionId{2});
    f.attach(3, {.id = 1, .incarnation = 12});
    REQUIRE(f.described().workers(0).state() == "ready");
    f.placed({});
}

TEST_CASE("a worker that drains says so when it registers at the next scheduler", "[scheduler][drain]") {
    Fixture f;
    proto::WorkerReport report;
    *report.mutable_registration() = scheduler_test::make_registration({.id = 1, .incarnation = 11});
    report.mutable_registration()->set_draining(true);
    REQUIRE(f.scheduler.report(SessionId{1}, report).has_value());
    REQUIRE(f.described().workers(0).state() == "draining");
    REQUIRE(f.refused(make_place({})).error().code() == 14);
}

TEST_CASE("who is not there, or is another life, cannot be drained", "[scheduler][drain]") {
    Fixture f;
    REQUIRE(f.scheduler.drain(make_drain(1)).error().code == base::ErrorCode::not_found);
    f.attach(1, {.id = 1, .incarnation = 11});
    REQUIRE(f.scheduler.drain(make_drain(1, 12)).error().code == base::ErrorCode::failed_precondition);
    f.placed({});
    f.scheduler.detach(SessionId{1});
    REQUIRE(f.scheduler.drain(make_drain(1)).error().code == base::ErrorCode::not_found);
}
