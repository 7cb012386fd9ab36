#include "scheduler/scheduler_metrics.h"

#include <algorithm>
#include <array>

namespace scheduler {
namespace {

const std::vector<double>& ratio_edges() {
    static const std::vector<double> edges = {.25, .5, .8, .9, 1, 1.1, 1.25, 2, 4};
    return edges;
}

constexpr std::array<std::string_view, 3> kRoleNames = {"prefill", "decode", "mixed"};
constexpr std::array<std::string_view, 3> kStatusNames = {"ready", "draining", "suspect"};

double share(double part, double whole) {
    return whole > 0 ? part / whole : 1.0;
}

}  // namespace

SchedulerMetrics::SchedulerMetrics(base::Metrics& metrics)
    : metrics_(metrics),
      decision_seconds_(metrics.histogram("sluice_scheduler_decision_duration_seconds",
                                          "Time of one placement decision", base::decision_edges())),
      stale_workers_(metrics.gauge("sluice_scheduler_stale_workers", "Workers whose last report is late")) {}

void SchedulerMetrics::decision(std::string_view model, std::string_view path, std::string_view reason,
                                double seconds) {
    decision_seconds_.Observe(seconds);
    if (model != model_) {
        decisions_.clear();
        model_ = model;
    }
    prometheus::Counter*& counter = decisions_[{std::string(path), std::string(reason)}];
    if (counter == nullptr) {
        counter = &metrics_.counter("sluice_scheduler_decisions_total", "Placement decisions",
                                    {{"model", model_}, {"path", std::string(path)}, {"reason", std::string(reason)}});
    }
    counter->Increment();
}

void SchedulerMetrics::prediction(std::string_view kind, double measured_over_predicted) {
    auto at = predictions_.find(kind);
    if (at == predictions_.end()) {
        at = predictions_
                 .emplace(kind, &metrics_.histogram("sluice_scheduler_prediction_ratio", "Measured over predicted time",
                                                    ratio_edges(), {{"kind", std::string(kind)}}))
                 .first;
    }
    at->second->Observe(measured_over_predicted);
}

void SchedulerMetrics::cluster(std::string_view model, std::span<const WorkerView> workers) {
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
    Stage prefill;
    Stage decode;
    std::array<std::array<double, 3>, 3> count{};  // [role][status]
    for (const WorkerView& worker : workers) {
        if (worker.status == WorkerStatus::gone) { continue; }
        ++count[static_cast<std::size_t>(worker.role)][static_cast<std::size_t>(worker.status)];
        const bool stale = worker.status == WorkerStatus::suspect;  // nothing is known of it: counts as saturated
        if (can_prefill(worker)) {
            const double requests = static_cast<double>(worker.load.requests_waiting) + worker.pending.prefill_requests;
            prefill.add(
                requests, static_cast<double>(worker.load.prefill_tokens_queued + worker.pending.prefill_tokens),
                stale ? 1
                      : share(static_cast<double>(prefill_requests_held(worker)), worker.limits.queue_requests_max));
        }
        if (can_decode(worker)) {
            const double sequences =
                static_cast<double>(worker.load.decode_sequences) + worker.pending.decode_sequences;
            const double blocks_taken =
                static_cast<double>(worker.limits.kv_blocks_total) - static_cast<double>(worker.load.blocks_room);
            decode.add(worker.pending.decode_sequences, static_cast<double>(worker.pending.decode_context_tokens),
                       stale ? 1
                             : std::max(share(sequences, worker.limits.batch_sequences_max),
                                        share(blocks_taken, worker.limits.kv_blocks_total)));
        }
    }
    const base::Metrics::Labels of_model = {{"model", std::string(model)}};
    for (std::size_t role = 0; role < kRoleNames.size(); ++role) {
        for (std::size_t status = 0; status < kStatusNames.size(); ++status) {
            base::Metrics::Labels labels = of_model;
            labels["role"] = kRoleNames[role];
            labels["state"] = kStatusNames[status];
            metrics_.gauge("sluice_scheduler_workers", "Workers by role and state", labels).Set(count[role][status]);
        }
    }
    double stale = 0;
    for (const auto& of_role : count) {
        stale += of_role[static_cast<std::size_t>(WorkerStatus::suspect)];
    }
    stale_workers_.Set(stale);
    for (const auto& [name, stage] : {std::pair<std::string, const Stage&>{"prefill", prefill}, {"decode", decode}}) {
        base::Metrics::Labels labels = of_model;
        labels["stage"] = name;
        metrics_.gauge("sluice_scheduler_queue_requests", "Requests sent to workers whose phase has not begun", labels)
            .Set(stage.requests);
        metrics_.gauge("sluice_scheduler_queue_tokens", "Tokens of those requests", labels).Set(stage.tokens);
        metrics_
            .gauge("sluice_scheduler_pool_saturation_ratio", "Mean use of the workers' limits; may exceed 1", labels)
            .Set(share(stage.saturation, stage.workers));
    }
}

}  // namespace scheduler
