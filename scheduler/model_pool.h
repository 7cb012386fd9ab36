#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "proto/scheduler.pb.h"
#include "scheduler/affinity_table.h"
#include "scheduler/class_aims.h"
#include "scheduler/fair_share.h"
#include "scheduler/options.h"
#include "scheduler/place.h"
#include "scheduler/predictor.h"
#include "scheduler/registry.h"
#include "scheduler/scheduler_metrics.h"
#include "scheduler/tenants.h"

namespace scheduler {

/// The workers of one served model and what is decided over them: who is there, what each is expected to take, what was
/// sent to it. A request never leaves its model, so the pools of two models know nothing of each other. Not
/// thread-safe; time comes in as an argument.
class ModelPool {
public:
    /// Borrows all but the name.
    ModelPool(std::string model, const SchedulerOptions& options, Tenants& tenants, base::Metrics& metrics);

    const std::string& model() const { return model_; }
    std::size_t workers() const { return registry_.workers(); }
    std::size_t placements() const { return registry_.in_flight().placements(); }
    bool knows(base::WorkerId id) const { return registry_.slot_of(id).has_value(); }
    /// Of what is placed here; 0 without workers.
    std::uint64_t numerics_id(base::TimePoint now);

    /// Where the request runs. The header was checked.
    PlaceOutcome decide(const sluice::proto::PlaceRequest& request, base::TimePoint now);
    /// Writes a placement that decide() has just given into `reply`, and remembers it until its release.
    void take(const sluice::proto::PlaceRequest& request, const Placement& placement, base::TimePoint now,
              sluice::proto::PlaceReply& reply);
    /// A phase of a request has ended. False when it, or this epoch of it, was not placed here for this gateway.
    bool release(GatewayLife gateway, const sluice::proto::ReleaseRequest::Ended& ended, base::TimePoint now);
    /// The gateway is alive.
    void heard(GatewayLife gateway, base::TimePoint now) { registry_.in_flight().heard(gateway, now); }
    sluice::proto::ModelState state(base::TimePoint now);

    /// As Registry::enroll.
    base::Result<Registry::Enrolled> enroll(const sluice::proto::RegisterWorker& registration, base::TimePoint now);
    /// Load, block events and samples of a heartbeat.
    Registry::Heard hear(Registry::Life life, const sluice::proto::Heartbeat& heartbeat, base::TimePoint now);
    /// The life has ended. False when it was not present.
    bool leave(Registry::Life life);
    std::vector<Registry::Life> expire(base::TimePoint now);
    /// The life takes no new requests from now on. Empty when it is not present.
    std::optional<sluice::proto::WorkerState> drain(Registry::Life life, base::TimePoint now);
    bool is_drained(Registry::Life life) const { return registry_.drain_asked(life); }

    /// SchedulerOptions::classes have changed.
    void take_class_rules();
    ModelMetrics& metrics() { return metrics_; }
    /// Brings the gauges up to date.
    void tell_metrics(base::TimePoint now);

private:
    /// Who failed the request before.
    void note_failures(base::RequestId request, std::span<const base::Incarnation> lives, base::TimePoint now);
    std::int32_t priority_of(const sluice::proto::PlaceRequest& request) const;
    /// none: it has no targets, or its class no aim.
    AimedClass aimed_class_of(const sluice::proto::PlaceRequest& request) const;
    /// What became of the targets of a request that has ended.
    void judge(const PlacedRequest& placed, const sluice::proto::ReleaseRequest::Ended& ended, base::TimePoint now);
    double answer_tokens_expected(const sluice::proto::PlaceRequest& request) const;
    std::vector<Affinity> affinities_of(const sluice::proto::PlaceRequest& request) const;
    void remember_names(const sluice::proto::PlaceRequest& request, const Placement& placement);
    void learn(Registry::Life life, const sluice::proto::Heartbeat& heartbeat);
    sluice::proto::WorkerState worker_state(std::size_t slot, const WorkerView& worker, base::TimePoint now) const;

    const std::string model_;
    const SchedulerOptions& options_;
    Tenants& tenants_;
    ModelMetrics metrics_;
    Registry registry_;
    Predictor predictor_;
    FairShare fair_share_;
    ClassAims aims_;
    AffinityTable affinity_;
    std::vector<base::BlockHash> chain_;  // of the request that was decided last
    double answer_tokens_;                // of answers that ended lately, on average
};

}  // namespace scheduler
