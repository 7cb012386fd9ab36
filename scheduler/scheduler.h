#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "proto/scheduler.pb.h"
#include "scheduler/class_rules.h"
#include "scheduler/model_pool.h"
#include "scheduler/options.h"
#include "scheduler/tenants.h"

namespace scheduler {

/// One Attach stream, numbered by whoever owns the streams; never used twice.
enum class SessionId : std::uint64_t {};

/// The scheduler without its sockets: messages in, messages out, time from a clock. The service runs one behind gRPC, a
/// simulator may run one on a virtual clock. Not thread-safe.
///
/// Workers of several models attach to one scheduler; each request names its model and is placed in that one's pool
/// (model_pool.h). Streams in flight never pass through it, and all it knows was reported by workers: a new one is
/// complete as soon as they have attached again.
///
/// Its epoch tells it from the schedulers before it and is in every answer and directive. Of one that is alone: the
/// wall clock at its start in microseconds, and above whatever the first worker that attaches has seen (the clock may
/// have gone back); a request that has seen a higher one is refused, because a newer scheduler has taken over. Of one
/// that leads by a lease: that of its term, and above whatever anybody it meets has seen, since while it leads nobody
/// else does.
class Scheduler {
public:
    /// `clock` and `metrics` must outlive it. `term_epoch`: of the lease by which it leads, and then it is asked and
    /// told things only while that lasts; 0: it is alone.
    Scheduler(SchedulerOptions options, const base::Clock& clock, base::Metrics& metrics, std::uint64_t term_epoch = 0);
    Scheduler(const Scheduler&) = delete;  // pools borrow its options
    Scheduler& operator=(const Scheduler&) = delete;

    /// Always an answer; refusals say why. Remembers the placement until it is released.
    /// The reply's numerics_id is that of the chosen workers; 0 when they differ (rules.allow_mixed_numerics).
    sluice::proto::PlaceReply place(const sluice::proto::PlaceRequest& request);
    /// The same into `reply`, whatever was in it: one that is used again keeps its memory.
    void place(const sluice::proto::PlaceRequest& request, sluice::proto::PlaceReply& reply);
    /// Unknown or older placements are ignored, of whatever model. Error: failed_precondition (version).
    base::Result<sluice::proto::ReleaseReply> release(const sluice::proto::ReleaseRequest& request);
    /// One model, or all that have workers when the header names none. Errors: failed_precondition (version), not_found
    /// (a model that is not served here, with those that are).
    base::Result<sluice::proto::DescribeReply> describe(const sluice::proto::DescribeRequest& request);

    struct Drained {
        sluice::proto::DrainReply reply;
        SessionId session{};  // to which the directive is to be sent
        sluice::proto::WorkerDirective directive;
    };
    /// A worker takes no new requests until its life ends; what runs there is finished. May be asked again. Errors:
    /// failed_precondition (version, another incarnation than the one named), not_found.
    base::Result<Drained> drain(const sluice::proto::DrainRequest& request);

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
    /// date. To be called several times a lease.
    std::vector<SessionId> tick();

    /// `SchedulerOptions::classes` of requests that come from now on.
    void set_class_rules(ClassRules rules);

    std::size_t workers() const;
    /// Of these, whose load is known: they have reported since they registered.
    std::size_t workers_heard() const;
    /// That are remembered: made and not released, given up or expired.
    std::size_t placements() const;
    std::uint64_t epoch() const { return epoch_; }

private:
    struct Session {
        ModelPool* pool = nullptr;
        Registry::Life life;
        bool is_heard = false;
    };
    void meet(std::uint64_t epoch_seen);
    sluice::proto::WorkerDirective& add_directive(Answer& answer) const;
    std::variant<ModelPool*, Refusal> route(const sluice::proto::PlaceRequest& request);
    void heard(std::uint64_t gateway, base::TimePoint now);
    base::Result<ModelPool*> find(std::string_view model);
    base::Result<ModelPool*> find_or_make(const std::string& model);
    bool may_serve(std::string_view model) const;
    std::string served_models() const;
    base::Result<Answer> enroll(SessionId session, const sluice::proto::RegisterWorker& registration);
    base::Result<Answer> hear(SessionId session, const sluice::proto::Heartbeat& heartbeat);
    const Session* life_of_other_model(base::WorkerId id, const ModelPool& pool) const;

    SchedulerOptions options_;  // but for the rules of classes they stay; pools borrow them
    const base::Clock& clock_;
    base::Metrics& metrics_;
    const base::TimePoint started_;
    const bool has_lease_;
    std::uint64_t epoch_;
    bool had_worker_ = false;
    Tenants tenants_;
    ModelMetrics unrouted_metrics_;  // of requests that belong to no pool
    std::map<std::string, std::unique_ptr<ModelPool>, std::less<>>
        pools_;  // by model; one without workers stays a while
    std::map<SessionId, Session> sessions_;
    std::map<base::WorkerId, SessionId> session_of_;  // of present lives
};

}  // namespace scheduler
