// Workers that fail what is placed on them: the account by itself, and what a scheduler makes of it.
#include "scheduler/ejections.h"

#include <chrono>
#include <string>

#include "tests/scheduler/fixture.h"
#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using scheduler::Ejections;
using scheduler_test::Fixture;

constexpr base::Incarnation kLife{11};
constexpr auto kPrefill = proto::WORKER_ROLE_PREFILL;
constexpr auto kDecode = proto::WORKER_ROLE_DECODE;

bool fails(Ejections& ejections, std::uint64_t first, std::uint64_t count, base::TimePoint now = {}) {
    bool is_enough = false;
    for (std::uint64_t request = first; request < first + count; ++request) {
        is_enough = ejections.failed(kLife, base::RequestId{request}, now);
    }
    return is_enough;
}

/// Three mixed workers that report, whatever becomes of what is placed on them.
struct Cluster : Fixture {
    explicit Cluster(std::uint64_t workers = 3, scheduler::SchedulerOptions options = {})
        : Fixture(std::move(options)) {
        for (std::uint64_t id = 1; id <= workers; ++id) {
            attach(id, {.id = id, .incarnation = 10 * id + 1});
        }
        all = workers;
    }
    void report() {
        for (std::uint64_t id = 1; id <= all; ++id) {
            static_cast<void>(beat(id));
        }
    }
    /// A request that the life has failed is placed again.
    std::uint64_t fail(std::uint64_t request, std::uint64_t life) {
        return placed({.request_id = request, .epoch = 1, .avoid = {life}}).decode().incarnation();
    }
    void fail_in_a_row(std::uint64_t life, std::uint64_t first = 100, std::uint64_t count = 5) {
        for (std::uint64_t request = first; request < first + count; ++request) {
            fail(request, life);
        }
    }
    std::string state_of(std::uint64_t life) {
        const proto::ModelState state = described();
        for (const auto& worker : state.workers()) {
            if (worker.endpoint().incarnation() == life) { return worker.state(); }
        }
        return "none";
    }
    std::uint64_t all = 0;
};

}  // namespace

TEST_CASE("so many different requests in a row are enough, and each counts once", "[scheduler][ejections]") {
    Ejections ejections({.after = 3, .time = 10s, .time_max = 35s});
    REQUIRE(ejections.empty());
    REQUIRE_FALSE(fails(ejections, 1, 2));
    REQUIRE_FALSE(ejections.failed(kLife, base::RequestId{2}, {}));  // its gateway names the life again
    REQUIRE(ejections.failed(kLife, base::RequestId{3}, {}));
    REQUIRE_FALSE(ejections.is_out(kLife, base::TimePoint{}));
}

TEST_CASE("each time out is twice as long up to a bound, one failure is enough for the next, and a success ends it",
          "[scheduler][ejections]") {
    Ejections ejections({.after = 3, .time = 10s, .time_max = 35s});
    base::TimePoint now{};
    REQUIRE(fails(ejections, 1, 3));
    for (const base::Duration time : {10s, 20s, 35s, 35s}) {
        REQUIRE(ejections.eject(kLife, now) == time);
        REQUIRE(ejections.is_out(kLife, now + time - 1ms));
        now += time;
        REQUIRE_FALSE(ejections.is_out(kLife, now));
        REQUIRE(fails(ejections, 100 + static_cast<std::uint64_t>(now.time_since_epoch() / 1s), 1, now));
    }
    ejections.forget(kLife);
    REQUIRE(ejections.empty());
    REQUIRE_FALSE(fails(ejections, 1000, 2));
    REQUIRE(fails(ejections, 2000, 1));
    REQUIRE(ejections.eject(kLife, now) == base::Duration(10s));
}

TEST_CASE("one request tries who was out, and nothing else until it has ended or its time is over",
          "[scheduler][ejections]") {
    Ejections ejections({.after = 3, .time = 10s, .time_max = 60s});
    base::TimePoint now{};
    ejections.placed(kLife, base::RequestId{1}, now);  // of somebody who fails nothing it is no trial
    REQUIRE_FALSE(ejections.is_out(kLife, now));
    REQUIRE(fails(ejections, 1, 3));
    REQUIRE(ejections.eject(kLife, now) == base::Duration(10s));
    ejections.placed(kLife, base::RequestId{4}, now + 5s);  // since nobody else was left
    REQUIRE_FALSE(fails(ejections, 4, 1, now + 6s));
    now += 10s;
    REQUIRE_FALSE(ejections.is_out(kLife, now));
    ejections.placed(kLife, base::RequestId{10}, now);
    REQUIRE(ejections.is_out(kLife, now));
    ejections.placed(kLife, base::RequestId{11}, now);  // likewise
    SECTION("it fails") {
        REQUIRE_FALSE(fails(ejections, 11, 1, now + 1s));
        REQUIRE(fails(ejections, 10, 1, now + 2s));
        REQUIRE(ejections.eject(kLife, now + 2s) == base::Duration(20s));
        REQUIRE(ejections.is_out(kLife, now + 21s));
        REQUIRE_FALSE(ejections.is_out(kLife, now + 22s));
    }
    SECTION("it is never heard of again") {
        REQUIRE(ejections.is_out(kLife, now + 10s - 1ms));
        now += 10s;
        REQUIRE_FALSE(ejections.is_out(kLife, now));
        ejections.placed(kLife, base::RequestId{20}, now);
        REQUIRE(ejections.is_out(kLife, now));
        REQUIRE_FALSE(fails(ejections, 10, 1, now));
        REQUIRE(fails(ejections, 20, 1, now));
    }
    SECTION("it is done") {
        ejections.forget(kLife);
        REQUIRE_FALSE(ejections.is_out(kLife, now));
        REQUIRE(ejections.empty());
    }
}

TEST_CASE("how many of a role may be out", "[scheduler][ejections]") {
    const Ejections ejections({.percent_max = 30});
    for (const std::size_t all : {1u, 2u, 3u, 6u}) {
        REQUIRE(ejections.may_be_out(0, all));
        REQUIRE_FALSE(ejections.may_be_out(1, all));
    }
    REQUIRE(ejections.may_be_out(2, 10));
    REQUIRE_FALSE(ejections.may_be_out(3, 10));
    REQUIRE(Ejections({.percent_max = 0}).may_be_out(0, 100));
    REQUIRE_FALSE(Ejections({.percent_max = 0}).may_be_out(1, 100));
    REQUIRE(Ejections({.percent_max = 100}).may_be_out(99, 100));
}

TEST_CASE("where it is off nobody is out", "[scheduler][ejections]") {
    Ejections ejections({.after = 0});
    REQUIRE_FALSE(fails(ejections, 1, 100));
    REQUIRE(ejections.empty());
}

TEST_CASE("a worker that fails everything gets nothing new for a time, then one request, then all again",
          "[scheduler][ejections]") {
    Cluster cluster;
    cluster.fail_in_a_row(11, 100, 4);
    REQUIRE(cluster.state_of(11) == "ready");
    REQUIRE(cluster.fail(100, 11) != 11);  // the same request
    REQUIRE(cluster.state_of(11) == "ready");
    cluster.fail(104, 11);
    REQUIRE(cluster.state_of(11) == "ejected");
    static_cast<void>(cluster.scheduler.tick());
    REQUIRE(cluster.tells(R"(sluice_scheduler_workers{model="test-model",role="mixed",state="ejected"} 1)"));
    REQUIRE(cluster.tells(R"(sluice_scheduler_workers{model="test-model",role="mixed",state="ready"} 2)"));
    for (std::uint64_t request = 1; request <= 30; ++request) {
        REQUIRE(cluster.placed({.request_id = request}).decode().incarnation() != 11);  // though it is the emptiest
    }
    for (int second = 0; second < 30; ++second) {
        cluster.clock.advance(1s);
        cluster.report();
    }
    REQUIRE(cluster.state_of(11) == "ready");
    // Until then nothing else goes there.
    std::uint64_t tries = 300;
    while (cluster.placed({.request_id = tries}).decode().incarnation() != 11) {
        REQUIRE(++tries < 400);
    }
    REQUIRE(cluster.state_of(11) == "ejected");
    for (std::uint64_t request = 400; request <= 430; ++request) {
        REQUIRE(cluster.placed({.request_id = request}).decode().incarnation() != 11);
    }
    SECTION("it fails that one, too") {
        cluster.fail(401, 11);  // not this one
        REQUIRE(cluster.state_of(11) == "ejected");
        cluster.fail(tries, 11);
        REQUIRE(cluster.state_of(11) == "ejected");
        for (int second = 0; second < 59; ++second) {
            cluster.clock.advance(1s);
            cluster.report();
        }
        REQUIRE(cluster.state_of(11) == "ejected");
        cluster.clock.advance(1s);
        cluster.report();
        REQUIRE(cluster.state_of(11) == "ready");
    }
    SECTION("it does that one") {
        cluster.release(tries, proto::ReleaseRequest::Ended::PHASE_PREFILL, 0, 1000);
        REQUIRE(cluster.state_of(11) == "ready");
        cluster.fail_in_a_row(11, 500, 4);
        REQUIRE(cluster.state_of(11) == "ready");
        cluster.fail(504, 11);
        REQUIRE(cluster.state_of(11) == "ejected");
    }
}

TEST_CASE("what shows that a worker works ends its row of failures", "[scheduler][ejections]") {
    Cluster cluster;
    cluster.fail_in_a_row(11, 100, 4);
    std::uint64_t request = 1;
    while (cluster.placed({.request_id = request}).decode().incarnation() != 11) {
        REQUIRE(++request < 100);
    }
    SECTION("a first token") {
        cluster.release(request, proto::ReleaseRequest::Ended::PHASE_PREFILL, 0, 1000);
    }
    SECTION("an answer whose first token was not told before") {
        cluster.release(request, proto::ReleaseRequest::Ended::PHASE_ALL, 0, 1000, 0);
    }
    cluster.fail_in_a_row(11, 200, 4);
    REQUIRE(cluster.state_of(11) == "ready");
}

TEST_CASE("an end without a token shows nothing", "[scheduler][ejections]") {
    Cluster cluster;
    cluster.fail_in_a_row(11, 100, 4);
    std::uint64_t request = 1;
    while (cluster.placed({.request_id = request}).decode().incarnation() != 11) {
        REQUIRE(++request < 100);
    }
    cluster.release(request, proto::ReleaseRequest::Ended::PHASE_ALL);
    cluster.fail(200, 11);
    REQUIRE(cluster.state_of(11) == "ejected");
}

TEST_CASE("of a role no more than its share is out, and never the last of a phase", "[scheduler][ejections]") {
    SECTION("one alone stays") {
        Cluster cluster(1);
        cluster.fail_in_a_row(11, 100, 20);
        REQUIRE(cluster.state_of(11) == "ready");
    }
    SECTION("one of two may be out, not both") {
        Cluster cluster(2);
        cluster.fail_in_a_row(11);
        cluster.fail_in_a_row(21, 200);
        REQUIRE(cluster.state_of(11) == "ejected");
        REQUIRE(cluster.state_of(21) == "ready");
        REQUIRE(cluster.described().ready());
    }
    SECTION("two of six, where a third may be") {
        Cluster cluster(6, {.eject_percent_max = 34});
        for (const std::uint64_t life : {11u, 21u, 31u, 41u}) {
            cluster.fail_in_a_row(life, 100 * life);
        }
        int out = 0;
        for (const std::uint64_t life : {11u, 21u, 31u, 41u, 51u, 61u}) {
            out += cluster.state_of(life) == "ejected" ? 1 : 0;
        }
        REQUIRE(out == 2);
    }
    SECTION("who decodes alone, however many prefill") {
        Fixture f;
        f.attach(1, {.id = 1, .incarnation = 11, .role = kPrefill});
        f.attach(2, {.id = 2, .incarnation = 21, .role = kPrefill});
        f.attach(3, {.id = 3, .incarnation = 31, .role = kDecode});
        for (std::uint64_t request = 100; request < 120; ++request) {
            f.placed({.request_id = request, .epoch = 1, .avoid = {31}});
        }
        REQUIRE(f.described().workers(2).state() == "ready");
    }
}

TEST_CASE("who is late, drains or is gone is not put out of service besides", "[scheduler][ejections]") {
    Cluster cluster;
    SECTION("late") {
        cluster.clock.advance(2s);
        static_cast<void>(cluster.beat(2));
        static_cast<void>(cluster.beat(3));
        cluster.fail_in_a_row(11);
        REQUIRE(cluster.state_of(11) == "suspect");
        static_cast<void>(cluster.beat(1));
    }
    SECTION("gone") {
        cluster.scheduler.detach(scheduler::SessionId{1});
        cluster.fail_in_a_row(11);
        cluster.attach(7, {.id = 1, .incarnation = 11});
    }
    REQUIRE(cluster.state_of(11) == "ready");
}

TEST_CASE("where only workers that are out are left they are asked", "[scheduler][ejections]") {
    Cluster cluster(2);
    cluster.fail_in_a_row(11);
    REQUIRE(cluster.state_of(11) == "ejected");
    cluster.scheduler.detach(scheduler::SessionId{2});
    cluster.all = 1;
    REQUIRE(cluster.placed({.request_id = 1}).decode().incarnation() == 11);
    REQUIRE(cluster.described().ready());
}

TEST_CASE("a scheduler that puts nobody out says so by its settings", "[scheduler][ejections]") {
    Cluster cluster(3, {.eject_after_failures = 0});
    cluster.fail_in_a_row(11, 100, 50);
    REQUIRE(cluster.state_of(11) == "ready");
}
