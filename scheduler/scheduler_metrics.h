#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/metrics.h"
#include "scheduler/cluster_view.h"

namespace scheduler {

/// The sluice_scheduler_* metrics. No label of a worker or a request: the number of series does not grow with either.
/// Not thread-safe (the registry behind it is).
class SchedulerMetrics {
public:
    explicit SchedulerMetrics(base::Metrics& metrics);

    /// `path`: local, disaggregated or refused; `reason`: Placement::reason or Refusal::reason.
    void decision(std::string_view model, std::string_view path, std::string_view reason, double seconds);
    /// `kind`: ttft, tpot (of requests), prefill_step, decode_step, transfer (of worker samples).
    void prediction(std::string_view kind, double measured_over_predicted);
    /// Everything that is told about the cluster as it stands.
    void cluster(std::string_view model, std::span<const WorkerView> workers);

private:
    base::Metrics& metrics_;
    prometheus::Histogram& decision_seconds_;
    prometheus::Gauge& stale_workers_;
    std::map<std::pair<std::string, std::string>, prometheus::Counter*> decisions_;  // (path, reason)
    std::map<std::string, prometheus::Histogram*, std::less<>> predictions_;
    std::string model_;  // of the counters in decisions_
};

}  // namespace scheduler
