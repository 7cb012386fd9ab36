#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "proto/scheduler.pb.h"
#include "scheduler/options.h"
#include "scheduler/place.h"
#include "scheduler/predictor.h"
#include "scheduler/registry.h"
#include "scheduler/scheduler_metrics.h"

namespace scheduler {

/// One Attach stream, numbered by whoever owns the streams; never used twice.
enum class SessionId : std::uint64_t {};

/// The scheduler without its sockets: messages in, messages out, time from a clock. The service runs one behind gRPC, a
/// simulator may run one on a virtual clock. Not thread-safe.
///
/// Streams in flight never pass through it, and all it knows was reported by workers: a new one is complete as soon as
/// they have attached again.
class Scheduler {
public:
    /// `clock` and `metrics` must outlive it.
    Scheduler(SchedulerOptions options, const base::Clock& clock, base::Metrics& metrics);

    /// Always an answer; refusals say why. Remembers the placement until it is released.
    /// The reply's numerics_id is that of the chosen workers; 0 when they differ (rules.allow_mixed_numerics).
    sluice::proto::PlaceReply place(const sluice::proto::PlaceRequest& request);
    /// Unknown or older placements are ignored. Error: failed_precondition (version or model).
    base::Result<sluice::proto::ReleaseReply> release(const sluice::proto::ReleaseRequest& request);
    /// Error: failed_precondition (version or model).
    base::Result<sluice::proto::DescribeReply> describe(const sluice::proto::DescribeRequest& request);

    struct Answer {
        std::vector<sluice::proto::WorkerDirective> directives;  // to this session, in order
        std::optional<SessionId> superseded;                     // this worker's former stream, which should be ended
    };
    /// What a worker said on its stream. The first report of a session must be a registration. An error ends the
    /// session: the caller closes the stream with it and calls detach(). Errors: those of Registry::enroll,
    /// failed_precondition (version, model, no registration, a life that is not present).
    base::Result<Answer> report(SessionId session, const sluice::proto::WorkerReport& report);
    /// The stream has ended, and with it the worker, at once: nearly always the process has died, and each request sent
    /// to it in a period of grace would fail. A worker that only lost its connection attaches again and is back with
    /// its next report. No effect when the worker has opened another stream since.
    void detach(SessionId session);

    /// Ends the leases of silent workers (their sessions are returned and are to be closed) and brings the gauges up to
    /// date. To be called a few times per heartbeat.
    std::vector<SessionId> tick();

    std::size_t workers() const { return registry_.workers(); }

private:
    base::Result<Answer> enroll(SessionId session, const sluice::proto::RegisterWorker& registration);
    base::Result<Answer> hear(SessionId session, const sluice::proto::Heartbeat& heartbeat);
    void learn(const Registry::Life& life, const sluice::proto::Heartbeat& heartbeat);
    void forget(const Registry::Life& life);
    base::Result<void> check_header(const sluice::proto::Header& header) const;
    sluice::proto::Header header();
    PlaceOutcome decide(const sluice::proto::PlaceRequest& request, base::TimePoint now);
    void remember(const sluice::proto::PlaceRequest& request, const Placement& placement, base::TimePoint now);

    SchedulerOptions options_;
    const base::Clock& clock_;
    SchedulerMetrics metrics_;
    Registry registry_;
    Predictor predictor_;
    std::string model_;
    std::map<SessionId, Registry::Life> sessions_;
    std::map<base::WorkerId, SessionId> session_of_;  // of present lives
};

}  // namespace scheduler
