#include "scheduler/scheduler_metrics.h"

#include <algorithm>
#include <array>

#include "proto/roles.h"

namespace scheduler {
namespace {

const std::vector<double>& ratio_edges() {
    static const std::vector<double> edges = {.25, .5, .8, .9, 1, 1.1, 1.25, 2, 4};
    return edges;
}

constexpr std::array<std::string_view, 4> kStatusNames = {"ready", "draining", "suspect", "ejected"};

double share(double part, double whole) {
    return whole > 0 ? part / whole : 1.0;
}

/// One phase over all of its workers.
struct Stage {
    double requests = 0;
    double tokens = 0;
    double saturation = 0;
    double workers = 0;
    void add(double requests_here, double tokens_here, double saturation_here) {
        requests += requests_here;
        tokens += tokens_here;
        saturation += saturation_here;
        workers += 1;
    }
};

}  // namespace

struct ModelMetrics::Gauges {
    struct OfStage {
        OfStage(base::SeriesLease& series, const base::Metrics::Labels& labels)
            : requests(series.gauge("sluice_scheduler_queue_requests",
                                    "Requests sent to workers whose phase has not begun", labels)),
              tokens(series.gauge("sluice_scheduler_queue_tokens", "Tokens of those requests", labels)),
              saturation(series.gauge("sluice_scheduler_pool_saturation_ratio",
                                      "Mean use of the workers' limits; may exceed 1", labels)) {}
        void set(const Stage& stage) {
            requests.Set(stage.requests);
            tokens.Set(stage.tokens);
            saturation.Set(share(stage.saturation, stage.workers));
        }
        prometheus::Gauge &requests, &tokens, &saturation;
    };

    Gauges(base::SeriesLease& series, const std::string& model)
        : stale(
              series.gauge("sluice_scheduler_stale_workers", "Workers whose last report is late", {{"model", model}})),
          prefill(series, {{"model", model}, {"stage", "prefill"}}),
          decode(series, {{"model", model}, {"stage", "decode"}}) {
        for (std::size_t role = 0; role < proto::kRoles; ++role) {
            for (std::size_t status = 0; status < kStatusNames.size(); ++status) {
                workers[role][status] = &series.gauge("sluice_scheduler_workers", "Workers by role and state",
                                                      {{"model", model},
                                                       {"role", std::string(proto::role_name(static_cast<Role>(role)))},
                                                       {"state", std::string(kStatusNames[status])}});
            }
        }
    }

    prometheus::Gauge& stale;
    OfStage prefill;
    OfStage decode;
    std::array<std::array<prometheus::Gauge*, kStatusNames.size()>, proto::kRoles> workers{};
};

struct ModelMetrics::TenantGauges {
    TenantGauges(base::Metrics& metrics, const base::Metrics::Labels& labels)
        : series(metrics),
          placements(series.gauge("sluice_scheduler_tenant_placements",
                                  "Placements of a tenant that are not released yet; the first tenants by name",
                                  labels)),
          virtual_tokens(series.gauge("sluice_scheduler_tenant_virtual_tokens",
                                      "Service that a tenant has had by its weight, as far as it counts for its share",
                                      labels)) {}
    base::SeriesLease series;
    prometheus::Gauge& placements;
    prometheus::Gauge& virtual_tokens;
};

ModelMetrics::ModelMetrics(base::Metrics& metrics, std::string model)
    : metrics_(metrics),
      model_(std::move(model)),
      decision_seconds_(metrics.histogram("sluice_scheduler_decision_duration_seconds",
                                          "Time of one placement decision", base::decision_edges())),
      series_(metrics) {}

ModelMetrics::~ModelMetrics() = default;

void ModelMetrics::decision(std::string_view path, std::string_view reason, double seconds) {
    decision_seconds_.Observe(seconds);
    prometheus::Counter*& counter = decisions_[{std::string(path), std::string(reason)}];
    if (counter == nullptr) {
        counter = &series_.counter("sluice_scheduler_decisions_total", "Placement decisions",
                                   {{"model", model_}, {"path", std::string(path)}, {"reason", std::string(reason)}});
    }
    counter->Increment();
}

void ModelMetrics::affinity(bool is_kept) {
    prometheus::Counter*& counter = affinity_[is_kept ? 1 : 0];
    if (counter == nullptr) {
        counter = &series_.counter("sluice_scheduler_affinity_total",
                                   "Placements of conversations and prompt groups that were placed before",
                                   {{"model", model_}, {"outcome", is_kept ? "kept" : "left"}});
    }
    counter->Increment();
}

void ModelMetrics::prediction(std::string_view kind, double measured_over_predicted) {
    auto at = predictions_.find(kind);
    if (at == predictions_.end()) {
        at = predictions_
                 .emplace(kind, &series_.histogram("sluice_scheduler_prediction_ratio", "Measured over predicted time",
                                                   ratio_edges(), {{"kind", std::string(kind)}, {"model", model_}}))
                 .first;
    }
    at->second->Observe(measured_over_predicted);
}

void ModelMetrics::cluster(std::span<const WorkerView> workers) {
    if (gauges_ == nullptr) { gauges_ = std::make_unique<Gauges>(series_, model_); }
    Stage prefill;
    Stage decode;
    std::array<std::array<double, kStatusNames.size()>, proto::kRoles> count{};
    double stale = 0;
    for (const WorkerView& worker : workers) {
        if (worker.status == WorkerStatus::gone) { continue; }
        ++count[static_cast<std::size_t>(worker.role)][static_cast<std::size_t>(worker.status)];
        const bool is_stale = worker.status == WorkerStatus::suspect;  // nothing is known of it: counts as saturated
        stale += is_stale ? 1 : 0;
        if (can_prefill(worker)) {
            const double requests = static_cast<double>(worker.load.requests_waiting) + worker.pending.prefill_requests;
            prefill.add(
                requests, static_cast<double>(worker.load.prefill_tokens_queued + worker.pending.prefill_tokens),
                is_stale ? 1
                         : share(static_cast<double>(prefill_requests_held(worker)), worker.limits.queue_requests_max));
        }
        if (can_decode(worker)) {
            const double sequences =
                static_cast<double>(worker.load.decode_sequences) + worker.pending.decode_sequences;
            const double blocks_taken =
                static_cast<double>(worker.limits.kv_blocks_total) - static_cast<double>(worker.load.blocks_room);
            decode.add(worker.pending.decode_sequences, static_cast<double>(worker.pending.decode_context_tokens),
                       is_stale ? 1
                                : std::max(share(sequences, worker.limits.batch_sequences_max),
                                           share(blocks_taken, worker.limits.kv_blocks_total)));
        }
    }
    for (std::size_t role = 0; role < proto::kRoles; ++role) {
        for (std::size_t status = 0; status < kStatusNames.size(); ++status) {
            gauges_->workers[role][status]->Set(count[role][status]);
        }
    }
    gauges_->stale.Set(stale);
    gauges_->prefill.set(prefill);
    gauges_->decode.set(decode);
}

void ModelMetrics::tenant(const std::string& name, std::size_t index, std::uint32_t placements, double virtual_tokens,
                          base::TimePoint now) {
    if (index >= tenants_.size()) { tenants_.resize(index + 1); }
    OfTenant& tenant = tenants_[index];
    if (placements > 0 || virtual_tokens != tenant.virtual_tokens) {
        tenant.active_at = now;
        tenant.virtual_tokens = virtual_tokens;
        if (tenant.gauges == nullptr) {
            tenant.gauges =
                std::make_unique<TenantGauges>(metrics_, base::Metrics::Labels{{"model", model_}, {"tenant", name}});
        }
    } else if (now - tenant.active_at >= kTenantStays) {
        tenant.gauges.reset();
    }
    if (tenant.gauges == nullptr) { return; }
    tenant.gauges->placements.Set(placements);
    tenant.gauges->virtual_tokens.Set(virtual_tokens);
}

}  // namespace scheduler
