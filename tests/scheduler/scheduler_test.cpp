#include "scheduler/scheduler.h"

#include <set>
#include <string>

#include "base/clock.h"
#include "tests/scheduler/builders.h"
#include "tests/scheduler/fixture.h"
#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::Scheduler;
using scheduler::SessionId;
using scheduler_test::Fixture;
using scheduler_test::make_events;
using scheduler_test::make_hashes;
using scheduler_test::make_header;
using scheduler_test::make_heartbeat;
using scheduler_test::make_place;
using scheduler_test::make_registration;
using scheduler_test::RegistrationSpec;

namespace {

constexpr auto kPrefill = proto::WORKER_ROLE_PREFILL;
constexpr auto kDecode = proto::WORKER_ROLE_DECODE;

}  // namespace

TEST_CASE("a request is placed on the workers that have attached", "[scheduler]") {
    Fixture f;
    REQUIRE(f.refused(make_place({})).error().code() == 14);
    REQUIRE_FALSE(f.described().ready());
    f.attach(1, {.id = 1, .incarnation = 11, .role = kPrefill});
    REQUIRE_FALSE(f.described().ready());
    f.attach(2, {.id = 2, .incarnation = 21, .role = kDecode, .context_tokens = 2000});
    const auto description = f.described();
    REQUIRE(description.ready());
    REQUIRE(description.numerics_id() == 7);
    REQUIRE(description.model() == "test-model");
    REQUIRE(description.block_tokens() == 16);
    REQUIRE(description.context_tokens() == 2000);
    REQUIRE(description.workers_size() == 2);
    REQUIRE(description.workers(0).state() == "ready");

    const auto placement = f.placed({});
    REQUIRE(placement.prefill().worker_id() == 1);
    REQUIRE(placement.prefill().incarnation() == 11);
    REQUIRE(base::open_address({}, placement.prefill().kv_address())->address == "kv-1");
    REQUIRE(placement.decode().control_address() == "127.0.0.1:10002");
    REQUIRE(placement.path() == "disaggregated");
    REQUIRE(placement.predicted_ttft_us() > 0);
    REQUIRE(placement.predicted_tpot_us() > 0);
}

TEST_CASE("a burst between two heartbeats spreads over the workers", "[scheduler]") {
    Fixture f;
    for (std::uint64_t id = 1; id <= 4; ++id) {
        f.attach(id, {.id = id, .incarnation = 10 * id, .role = kPrefill});
        f.attach(10 + id, {.id = 10 + id, .incarnation = 1000 * id, .role = kDecode});
    }
    std::map<std::uint64_t, int> prefills;
    std::map<std::uint64_t, int> decodes;
    for (std::uint64_t request = 1; request <= 40; ++request) {
        const auto placement = f.placed({.request_id = request});
        ++prefills[placement.prefill().worker_id()];
        ++decodes[placement.decode().worker_id()];
    }
    for (std::uint64_t id = 1; id <= 4; ++id) {
        REQUIRE(prefills[id] == 10);
        REQUIRE(decodes[10 + id] == 10);
    }
}

TEST_CASE("what ends gives its place back", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11, .queue_requests_max = 2});
    f.placed({.request_id = 1});
    f.placed({.request_id = 2});
    REQUIRE(f.refused(make_place({.request_id = 3})).error().code() == 8);
    SECTION("the end of a request") {
        f.release(1, proto::ReleaseRequest::Ended::PHASE_ALL);
        f.placed({.request_id = 3});
    }
    SECTION("not that of another epoch") {
        f.release(1, proto::ReleaseRequest::Ended::PHASE_ALL, 7);
        REQUIRE(f.refused(make_place({.request_id = 3})).retry_after_ms() >= 1000);
    }
    SECTION("the worker's reports take over") {
        f.release(1, proto::ReleaseRequest::Ended::PHASE_PREFILL);
        f.release(2, proto::ReleaseRequest::Ended::PHASE_PREFILL);
        REQUIRE(f.beat(1).has_value());
        REQUIRE(f.beat(1).has_value());
        f.placed({.request_id = 3});
    }
}

TEST_CASE("a cached prefix draws a request, and is told", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.attach(2, {.id = 2, .incarnation = 21});
    const auto hashes = make_hashes(1, 6);
    auto heartbeat = make_heartbeat(1);
    *heartbeat.add_blocks() = make_events(1, hashes);
    REQUIRE(f.beat(2, heartbeat).has_value());
    const auto placement = f.placed({.request_id = 1, .prompt_tokens = 100, .hashes = hashes});
    REQUIRE(placement.prefill().worker_id() == 2);
    REQUIRE(placement.cached_prompt_tokens() == 96);
    REQUIRE_FALSE(placement.has_kv_source());
    f.scheduler.detach(SessionId{2});
    f.attach(3, {.id = 2, .incarnation = 22});
    REQUIRE(f.placed({.request_id = 2, .prompt_tokens = 100, .hashes = hashes}).cached_prompt_tokens() == 0);
}

TEST_CASE("the rest of a stream is placed again, away from the life that failed it", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.attach(2, {.id = 2, .incarnation = 21});
    REQUIRE(f.placed({.request_id = 5}).decode().worker_id() == 1);
    const auto again = f.placed({.request_id = 5, .epoch = 1, .prompt_tokens = 130, .avoid = {11}});
    REQUIRE(again.decode().worker_id() == 2);
    // A late copy of the first question must not move it back.
    REQUIRE(f.refused(make_place({.request_id = 5, .epoch = 0})).error().code() == 10);
    // The same question again, because the answer was lost, is answered again.
    REQUIRE(f.placed({.request_id = 5, .epoch = 1, .prompt_tokens = 130, .avoid = {11}}).decode().worker_id() == 2);
    // What the first placement had taken is free: worker 1 is the emptier one now.
    REQUIRE(f.placed({.request_id = 6}).decode().worker_id() == 1);
}

TEST_CASE("the rest of a stream keeps its numbers", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11, .numerics_id = 8});
    auto request = make_place({.request_id = 5, .epoch = 0});
    REQUIRE(f.scheduler.place(request).has_placement());  // new: whatever the pool has
    request.set_epoch(1);
    REQUIRE(f.scheduler.place(request).has_placement());  // asked before, but no token was given out
    request.set_epoch(2);
    request.set_begun(true);
    REQUIRE(f.refused(request).error().code() == 14);  // began with 7, and 7 is gone
}

TEST_CASE("a request whose first placement was not answered is as free as a new one", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11, .numerics_id = 8});  // the gateway has seen 7, before a rollout
    auto request = make_place({.request_id = 5, .epoch = 1});
    REQUIRE(f.scheduler.place(request).has_placement());
    // A gateway of before that field counts an attempt as a beginning.
    request.mutable_header()->set_protocol_minor(0);
    REQUIRE(f.refused(request).error().code() == 14);
}

TEST_CASE("the answer says whose numbers it will have", "[scheduler]") {
    scheduler::SchedulerOptions options;
    options.rules.allow_mixed_numerics = true;
    Fixture f(options);
    f.attach(1, {.id = 1, .incarnation = 11, .role = kPrefill, .numerics_id = 8});
    f.attach(2, {.id = 2, .incarnation = 21, .role = kDecode, .numerics_id = 8});
    REQUIRE(f.scheduler.place(make_place({.request_id = 1})).header().numerics_id() == 8);
    f.scheduler.detach(SessionId{2});
    f.attach(3, {.id = 3, .incarnation = 31, .role = kDecode, .numerics_id = 9});
    REQUIRE(f.scheduler.place(make_place({.request_id = 2})).header().numerics_id() == 0);
}

TEST_CASE("the end of its stream is the end of a worker, at once", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.scheduler.detach(SessionId{1});
    REQUIRE(f.refused(make_place({})).error().code() == 14);
    REQUIRE(f.scheduler.workers() == 0);
    const auto late = f.beat(1);
    REQUIRE(late.error().code == base::ErrorCode::failed_precondition);
}

TEST_CASE("a stream that was opened anew outlives the end of the old one", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    SECTION("the same life") {
        const auto answer = f.enroll(2, {.id = 1, .incarnation = 11});
        REQUIRE(answer->superseded == SessionId{1});
    }
    SECTION("the next life, once the lease of the former one is over") {
        REQUIRE(f.enroll(2, {.id = 1, .incarnation = 12}).error().code == base::ErrorCode::failed_precondition);
        REQUIRE(f.beat(1).has_value());
        f.clock.advance(5s);
        const auto answer = f.enroll(2, {.id = 1, .incarnation = 12});
        REQUIRE(answer->superseded == SessionId{1});
    }
    REQUIRE(f.beat(1).error().code == base::ErrorCode::failed_precondition);
    f.scheduler.detach(SessionId{1});
    REQUIRE(f.scheduler.workers() == 1);
    REQUIRE(f.beat(2).has_value());
    f.placed({});
}

TEST_CASE("leases end by the clock and their sessions are named", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.attach(2, {.id = 2, .incarnation = 21});
    f.clock.advance(3s);
    REQUIRE(f.beat(2).has_value());
    REQUIRE(f.scheduler.tick().empty());
    REQUIRE(f.tells(R"(sluice_scheduler_stale_workers{model="test-model"} 1)"));
    REQUIRE(f.tells(R"(sluice_scheduler_workers{model="test-model",role="mixed",state="suspect"} 1)"));
    REQUIRE(f.described().workers(0).state() == "suspect");
    REQUIRE(f.described().workers(0).heartbeat_age_us() == 3'000'000);
    f.clock.advance(2s);
    REQUIRE(f.scheduler.tick() == std::vector{SessionId{1}});
    REQUIRE(f.scheduler.workers() == 1);
    REQUIRE(f.tells(R"(sluice_scheduler_stale_workers{model="test-model"} 1)"));  // worker 2 is late by now
    f.scheduler.detach(SessionId{1});  // its stream ends too: nothing more happens
    REQUIRE(f.scheduler.workers() == 1);
}

TEST_CASE("a scheduler that lost everything is whole again with the workers' next reports", "[scheduler]") {
    const auto hashes = make_hashes(1, 6);
    Fixture f;  // as after a restart: the worker has lived for long
    f.attach(1, {.id = 1, .incarnation = 11});
    auto heartbeat = make_heartbeat(812);
    *heartbeat.add_blocks() = make_events(300, {hashes[5]});
    const auto answer = f.beat(1, heartbeat);
    REQUIRE(answer->directives.size() == 1);
    REQUIRE(answer->directives[0].resend_snapshot());
    heartbeat = make_heartbeat(813);
    *heartbeat.add_blocks() = make_events(301, hashes, {}, true);
    REQUIRE(f.beat(1, heartbeat)->directives.empty());
    REQUIRE(f.placed({.prompt_tokens = 100, .hashes = hashes}).cached_prompt_tokens() == 96);
}

TEST_CASE("peers of another minor version are served: they register, report and are placed", "[scheduler]") {
    const auto minor = GENERATE(std::uint32_t{0}, proto::kProtocolMinor + 1);
    Fixture f;
    const auto other = [minor](proto::Header& header) {
        header.set_protocol_minor(minor);
        header.GetReflection()->MutableUnknownFields(&header)->AddVarint(1000, 7);  // a field that we do not know
    };
    proto::WorkerReport report;
    *report.mutable_registration() = make_registration({.id = 1, .incarnation = 11});
    other(*report.mutable_registration()->mutable_header());
    REQUIRE(f.scheduler.report(SessionId{1}, report)->directives.at(0).has_registered());
    *report.mutable_heartbeat() = make_heartbeat(1);
    other(*report.mutable_heartbeat()->mutable_header());
    REQUIRE(f.scheduler.report(SessionId{1}, report).has_value());
    auto ask = make_place({});
    other(*ask.mutable_header());
    const auto reply = f.scheduler.place(ask);
    REQUIRE(reply.has_placement());
    REQUIRE(reply.header().protocol_version() == proto::kProtocolVersion);
    REQUIRE(reply.header().protocol_minor() == proto::kProtocolMinor);
    proto::ReleaseRequest release;
    *release.mutable_header() = ask.header();
    REQUIRE(f.scheduler.release(release).has_value());
}

TEST_CASE("another version is refused everywhere", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    auto header = make_header();
    header.set_protocol_version(99);
    auto place = make_place({});
    *place.mutable_header() = header;
    REQUIRE(f.refused(place).error().code() == 9);
    proto::DescribeRequest describe;
    *describe.mutable_header() = header;
    REQUIRE(f.scheduler.describe(describe).error().code == base::ErrorCode::failed_precondition);
    proto::ReleaseRequest release;
    *release.mutable_header() = header;
    REQUIRE(f.scheduler.release(release).error().code == base::ErrorCode::failed_precondition);
    proto::DrainRequest drain;
    *drain.mutable_header() = header;
    REQUIRE(f.scheduler.drain(drain).error().code == base::ErrorCode::failed_precondition);
    proto::WorkerReport report;
    *report.mutable_registration() = make_registration({.id = 2, .incarnation = 21});
    *report.mutable_registration()->mutable_header() = header;
    REQUIRE(f.scheduler.report(SessionId{2}, report).error().code == base::ErrorCode::failed_precondition);
    REQUIRE(f.scheduler.workers() == 1);
}

TEST_CASE("bad questions get one clear answer each", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    auto request = make_place({});
    SECTION("half a hash") {
        request.set_block_hashes("12345");
        REQUIRE(f.refused(request).error().code() == 3);
    }
    SECTION("no prompt") {
        request.set_prompt_tokens(0);
        REQUIRE(f.refused(request).error().code() == 3);
    }
    SECTION("too long for ever") {
        request.set_prompt_tokens(5000);
        const auto refusal = f.refused(request);
        REQUIRE(refusal.error().code() == 3);
        REQUIRE(refusal.retry_after_ms() == 0);
        REQUIRE(refusal.error().message().find("4096") != std::string::npos);
    }
    SECTION("the largest numbers there are") {
        request.set_prompt_tokens(0xffffffff);
        request.set_new_tokens_max(0xffffffff);
        REQUIRE(f.refused(request).error().code() == 3);
    }
    SECTION("too late") {
        request.set_deadline_in_us(base::time_left_us(f.clock.now(), f.clock.now()));
        REQUIRE(f.refused(request).error().code() == 4);
    }
    SECTION("a report of nothing") {
        REQUIRE(f.scheduler.report(SessionId{9}, {}).error().code == base::ErrorCode::invalid_argument);
    }
    SECTION("one stream, two workers") {
        REQUIRE(f.enroll(1, {.id = 2, .incarnation = 21}).error().code == base::ErrorCode::failed_precondition);
    }
    REQUIRE(f.scheduler.workers() == 1);
}

TEST_CASE("steps that workers measure move the predictions", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    f.attach(2, {.id = 2, .incarnation = 21});
    for (std::uint64_t number = 1; number <= 5; ++number) {
        for (std::uint64_t id = 1; id <= 2; ++id) {
            auto heartbeat = make_heartbeat(number);
            for (std::uint32_t i = 1; i <= 8; ++i) {
                auto& prefill = *heartbeat.add_steps();
                prefill.set_prefill_tokens(32 * i);
                prefill.set_duration_us(static_cast<std::uint32_t>(id == 1 ? 8'000 * i : 2'000 * i));
                auto& decode = *heartbeat.add_steps();
                decode.set_decode_sequences(i);
                decode.set_duration_us(20'000);
            }
            REQUIRE(f.beat(id, heartbeat).has_value());
        }
    }
    const auto placement = f.placed({.prompt_tokens = 256, .new_tokens_max = 1});
    REQUIRE(placement.prefill().worker_id() == 2);
    REQUIRE(placement.predicted_ttft_us() == Approx(16'000).epsilon(0.1));
    REQUIRE(placement.predicted_tpot_us() == Approx(20'000).epsilon(0.1));
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_count{kind="prefill_step",model="test-model"} 80)"));
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_count{kind="decode_step",model="test-model"} 80)"));
}

TEST_CASE("decisions, predictions and the pool are told as metrics", "[scheduler]") {
    Fixture f;
    REQUIRE(f.refused(make_place({.request_id = 9})).error().code() == 14);
    f.attach(1, {.id = 1, .incarnation = 11, .role = kPrefill});
    f.attach(2, {.id = 2, .incarnation = 21, .role = kDecode});
    const auto first = f.placed({.request_id = 1});
    f.placed({.request_id = 2, .epoch = 1});
    f.scheduler.tick();
    REQUIRE(
        f.tells(R"(sluice_scheduler_decisions_total{model="test-model",path="disaggregated",reason="cheapest"} 2)"));
    REQUIRE(f.tells(R"(path="refused",reason="no_worker"} 1)"));
    REQUIRE(f.tells("sluice_scheduler_decision_duration_seconds_count 3"));
    REQUIRE(f.tells(R"(sluice_scheduler_queue_requests{model="test-model",stage="prefill"} 2)"));
    REQUIRE(f.tells(R"(sluice_scheduler_queue_tokens{model="test-model",stage="prefill"} 200)"));
    REQUIRE(f.tells(R"(sluice_scheduler_queue_requests{model="test-model",stage="decode"} 2)"));
    REQUIRE(f.tells(R"(sluice_scheduler_pool_saturation_ratio{model="test-model",stage="prefill"} 0.03125)"));
    REQUIRE(f.tells(R"(sluice_scheduler_pool_saturation_ratio{model="test-model",stage="decode"} 0.0625)"));
    REQUIRE(f.tells(R"(sluice_scheduler_workers{model="test-model",role="decode",state="ready"} 1)"));

    f.release(1, proto::ReleaseRequest::Ended::PHASE_PREFILL, 0, first.predicted_ttft_us());
    f.release(1, proto::ReleaseRequest::Ended::PHASE_ALL, 0, first.predicted_ttft_us(), 3 * first.predicted_tpot_us());
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_count{kind="ttft",model="test-model"} 1)"));
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_bucket{kind="ttft",model="test-model",le="1.1"} 1)"));
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_bucket{kind="tpot",model="test-model",le="2"} 0)"));
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_bucket{kind="tpot",model="test-model",le="4"} 1)"));
    f.release(2, proto::ReleaseRequest::Ended::PHASE_ALL, 1);  // ended before its first token: nothing was measured
    REQUIRE(f.tells(R"(sluice_scheduler_prediction_ratio_count{kind="ttft",model="test-model"} 1)"));
    f.scheduler.tick();
    REQUIRE(f.tells(R"(sluice_scheduler_queue_requests{model="test-model",stage="decode"} 0)"));
}

TEST_CASE("a gateway that died is no load, and nobody meddles with another's requests", "[scheduler]") {
    Fixture f;
    f.attach(1, {.id = 1, .incarnation = 11});
    const auto place_for = [&f](std::uint64_t gateway, std::uint64_t id) {
        auto request = make_place({.request_id = id, .prompt_tokens = 100});
        request.set_gateway(gateway);
        return f.scheduler.place(request);
    };
    REQUIRE(place_for(5, 1).has_placement());
    REQUIRE(place_for(6, 3).has_placement());
    // Another gateway can neither place nor end what is not its own.
    REQUIRE(place_for(6, 1).refusal().error().code() == 7);
    proto::ReleaseRequest release;
    *release.mutable_header() = make_header();
    release.set_gateway(6);
    release.add_ended()->set_request_id(1);
    release.mutable_ended(0)->set_phase(proto::ReleaseRequest::Ended::PHASE_ALL);
    REQUIRE(f.scheduler.release(release).has_value());
    REQUIRE(place_for(6, 1).refusal().error().code() == 7);

    // Gateway 5 dies without a word; 6 is heard of.
    proto::DescribeRequest describe;
    *describe.mutable_header() = make_header();
    describe.set_gateway(6);
    for (int second = 0; second < 11; ++second) {
        f.clock.advance(1s);
        REQUIRE(f.beat(1).has_value());
        REQUIRE(f.scheduler.describe(describe)->worker_lease_ms() == 5000);
        f.scheduler.tick();
    }
    REQUIRE(place_for(6, 1).has_placement());
    REQUIRE(place_for(7, 3).refusal().error().code() == 7);
}
