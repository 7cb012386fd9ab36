#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "scheduler/cluster_view.h"

namespace scheduler {

/// The sluice_scheduler_* metrics of one model. No label of a worker or a request, and a bounded number of tenants: the
/// number of series does not grow with any of them. Its series end with it, since another model took its place or its
/// scheduler leads no more: workers that it told of last would else be counted beside those of the scheduler that
/// leads. Not thread-safe (the registry behind it is).
class ModelMetrics {
public:
    /// How long a tenant without a request keeps its series.
    static constexpr std::chrono::hours kTenantStays{1};

    ModelMetrics(base::Metrics& metrics, std::string model);
    ~ModelMetrics();
    ModelMetrics(const ModelMetrics&) = delete;
    ModelMetrics& operator=(const ModelMetrics&) = delete;

    /// `path`: local, disaggregated or refused; `reason`: Placement::reason or Refusal::reason.
    void decision(std::string_view path, std::string_view reason, double seconds);
    /// A request whose conversation, parent or group is known was placed: its prompt went where that went last, or not.
    void affinity(bool is_kept);
    /// `kind`: ttft, tpot (of requests), prefill_step, decode_step, transfer (of worker samples).
    void prediction(std::string_view kind, double measured_over_predicted);
    /// Everything that is told about the workers as they stand.
    void cluster(std::span<const WorkerView> workers);
    /// Placements of the tenant with this index (0, 1, ...) that are not released yet, and its counter of service.
    void tenant(const std::string& name, std::size_t index, std::uint32_t placements, double virtual_tokens,
                base::TimePoint now);

private:
    struct Gauges;
    struct TenantGauges;

    base::Metrics& metrics_;
    const std::string model_;
    prometheus::Histogram& decision_seconds_;                                        // of all models
    base::SeriesLease series_;                                                       // all others but for tenants'
    std::map<std::pair<std::string, std::string>, prometheus::Counter*> decisions_;  // (path, reason)
    std::array<prometheus::Counter*, 2> affinity_{};                                 // [kept]; null: not told yet
    std::map<std::string, prometheus::Histogram*, std::less<>> predictions_;
    std::unique_ptr<Gauges> gauges_;  // from the first cluster() on
    struct OfTenant {
        double virtual_tokens = 0;  // as told last
        base::TimePoint active_at{};
        std::unique_ptr<TenantGauges> gauges;  // null: it has asked for nothing lately
    };
    std::vector<OfTenant> tenants_;  // by index
};

}  // namespace scheduler
