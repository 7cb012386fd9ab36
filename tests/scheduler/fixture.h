#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "base/clock.h"
#include "scheduler/scheduler.h"
#include "tests/scheduler/builders.h"

#include "tests/support/catch.h"

namespace scheduler_test {

/// A scheduler on a clock that stands still, and short forms of what is said to it.
struct Fixture {
    explicit Fixture(scheduler::SchedulerOptions options = {}) : scheduler(std::move(options), clock, metrics) {}

    base::FakeClock clock;
    base::Metrics metrics;
    scheduler::Scheduler scheduler;
    std::uint64_t heartbeat_number = 0;

    base::Result<scheduler::Scheduler::Answer> enroll(std::uint64_t session, const RegistrationSpec& spec) {
        proto::WorkerReport report;
        *report.mutable_registration() = make_registration(spec);
        return scheduler.report(scheduler::SessionId{session}, report);
    }
    void attach(std::uint64_t session, const RegistrationSpec& spec) {
        const auto answer = enroll(session, spec);
        REQUIRE(answer.has_value());
        REQUIRE(answer->directives.size() == 1);
        REQUIRE(answer->directives[0].registered().lease_ms() == 5000);
    }
    base::Result<scheduler::Scheduler::Answer> beat(std::uint64_t session, proto::Heartbeat heartbeat) {
        proto::WorkerReport report;
        *report.mutable_heartbeat() = std::move(heartbeat);
        return scheduler.report(scheduler::SessionId{session}, report);
    }
    base::Result<scheduler::Scheduler::Answer> beat(std::uint64_t session) {
        return beat(session, make_heartbeat(++heartbeat_number));
    }

    proto::Placement placed(const scheduler_test::PlaceSpec& spec) {
        const auto reply = scheduler.place(make_place(spec));
        INFO(reply.ShortDebugString());
        REQUIRE(reply.has_placement());
        return reply.placement();
    }
    proto::Refusal refused(const proto::PlaceRequest& request) {
        const auto reply = scheduler.place(request);
        INFO(reply.ShortDebugString());
        REQUIRE(reply.has_refusal());
        return reply.refusal();
    }
    /// The only model.
    proto::ModelState described() {
        proto::DescribeRequest request;
        *request.mutable_header() = make_header();
        const auto reply = scheduler.describe(request);
        REQUIRE(reply.has_value());
        REQUIRE(reply->models_size() <= 1);
        return reply->models_size() == 0 ? proto::ModelState() : reply->models(0);
    }
    /// From here on workers that do not come are not on their way.
    void settle() {
        for (int second = 0; second < 6; ++second) {
            clock.advance(std::chrono::seconds(1));
            for (std::uint64_t session = 1; session <= 9; ++session) {
                static_cast<void>(beat(session));
            }
        }
    }
    void release(std::uint64_t id, proto::ReleaseRequest::Ended::Phase phase, std::uint32_t epoch = 0,
                 std::uint32_t ttft_us = 0, std::uint32_t tpot_us = 0) {
        proto::ReleaseRequest request;
        *request.mutable_header() = make_header();
        auto& ended = *request.add_ended();
        ended.set_request_id(id);
        ended.set_epoch(epoch);
        ended.set_phase(phase);
        ended.set_ttft_us(ttft_us);
        ended.set_tpot_us(tpot_us);
        REQUIRE(scheduler.release(request).has_value());
    }
    bool tells(const std::string& line) const { return metrics.text().find(line) != std::string::npos; }
};

}  // namespace scheduler_test
