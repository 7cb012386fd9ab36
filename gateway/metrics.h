#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/sliding_share.h"
#include "gateway/request/slo_targets.h"

namespace gateway {

/// The rows `sluice_gateway_*` about the sequences and answers of one model. Thread-safe, like base::Metrics.
class ModelMetrics {
public:
    /// `slo_classes`: names of the gateway's SLO classes; below, a class is its index here. `targets`: what they
    /// promise; each is an edge of the buckets of its kind, so that buckets say exactly who met it.
    /// `attainment_window`: attained() is told of so long.
    ModelMetrics(base::Metrics& metrics, std::string model, std::vector<std::string> slo_classes,
                 const std::vector<SloTargets>& targets = {},
                 base::Duration attainment_window = std::chrono::minutes(5));
    ModelMetrics(const ModelMetrics&) = delete;
    ModelMetrics& operator=(const ModelMetrics&) = delete;

    const std::string& model() const { return model_; }
    /// phase: queued, prefill, transfer, decode. cause: client_gone, slow_client, stop_string, deadline,
    /// sibling_failed, drain.
    void cancelled(std::string_view phase, std::string_view cause);
    /// A sequence is placed again; reason: the name of the error code.
    void retried(std::string_view reason);
    /// A sequence is given up that another worker might have served. limit: placements (of one sequence), budget (of
    /// all).
    void retries_exhausted(std::string_view reason, std::string_view limit);
    /// path: local, disagg, prefix_hit.
    void first_token(std::size_t slo_class, std::string_view path, base::Duration ttft);
    void time_per_output_token(std::size_t slo_class, base::Duration tpot) {
        of_class_[slo_class].tpot->Observe(seconds(tpot));
    }
    void inter_token(base::Duration gap) { inter_token_.Observe(seconds(gap)); }
    void request_duration(std::size_t slo_class, base::Duration took) {
        of_class_[slo_class].duration->Observe(seconds(took));
    }
    /// slo: ttft, tpot, e2e, availability, all. outcome: good, bad, excluded (the client's doing).
    void slo_request(std::size_t slo_class, std::string_view slo, std::string_view outcome);
    /// A request met all its targets, or did not. I/O thread only, as the next.
    void attained(std::size_t slo_class, bool is_met, base::TimePoint now);
    /// What was attained, brought up to date: without requests for so long a class has no row.
    void refresh(base::TimePoint now);
    /// A target was missed, for one of the causes of docs/explain.md.
    void slo_missed(std::size_t slo_class, std::string_view slo, std::string_view cause);
    /// Tokens of a request that met all its targets.
    void goodput_tokens(std::size_t slo_class, std::uint64_t tokens);
    void tokens(std::uint64_t prompt, std::uint64_t cached, std::uint64_t completion);

private:
    prometheus::Counter& slo_requests(std::size_t slo_class, std::string_view slo, std::string_view outcome);
    static double seconds(base::Duration duration) { return std::chrono::duration<double>(duration).count(); }

    base::Metrics& metrics_;
    const std::string model_;
    const std::vector<std::string> slo_classes_;
    const std::vector<double> ttft_edges_;
    const std::vector<double> tpot_edges_;
    const std::vector<double> duration_edges_;
    struct OfClass {
        prometheus::Histogram* tpot;
        prometheus::Histogram* duration;
    };
    std::vector<OfClass> of_class_;
    struct Attained {
        base::SlidingShare met;
        std::unique_ptr<base::SeriesLease> row;
    };
    std::vector<Attained> attained_;  // by class
    prometheus::Histogram& inter_token_;
    prometheus::Counter& prompt_tokens_;
    prometheus::Counter& cached_tokens_;
    prometheus::Counter& completion_tokens_;
    prometheus::Histogram& prompt_lengths_;
    prometheus::Histogram& completion_lengths_;
};

/// What became at the door of a request that ended with this status before all of it had a place (or, status 499, whose
/// client left): for GatewayMetrics::admission().
std::string_view admission_without_place(unsigned status);

/// All rows `sluice_gateway_*`. Labels hold only configured names and values of fixed lists, so that no client can make
/// series. Thread-safe, like base::Metrics.
class GatewayMetrics {
public:
    /// The label `model` where no model was read (yet), and where a client named one that is not served.
    static constexpr std::string_view kNoModel = "none";
    static constexpr std::string_view kOtherModel = "other";

    /// `models`: served names.
    GatewayMetrics(base::Metrics& metrics, const std::vector<std::string>& models,
                   const std::vector<std::string>& slo_classes = {"default"},
                   const std::vector<SloTargets>& targets = {},
                   base::Duration attainment_window = std::chrono::minutes(5));

    /// The aims of classes, from now on: I/O thread only, as the next.
    void aims(const std::vector<ClassAim>& aims);
    /// Brings up to date what time alone changes.
    void refresh(base::TimePoint now);
    /// Rows of the model with this index in `models`.
    ModelMetrics& of(std::size_t model) { return models_[model]; }

    // `model` below: a served name, kNoModel or kOtherModel.

    /// A request was answered (or its client was gone: code 499). `endpoint` is the route's name.
    void request_ended(std::string_view model, std::string_view endpoint, unsigned code, bool stream);
    /// outcome: admitted, rejected_capacity, rejected_draining, rejected_invalid, rejected_placement, rejected_quota,
    /// rejected_timeout, rejected_too_large, rejected_unavailable. `slo_class`: its name, once that was read.
    void admission(std::string_view model, std::string_view outcome, std::string_view slo_class = "default");
    /// The access log's writer is behind.
    void access_line_dropped() { access_lines_dropped_.Increment(); }
    void in_flight(std::string_view model, double change);
    void connections(double open, double send_buffer_bytes, double slow_clients);

    base::Metrics& registry() { return metrics_; }

private:
    base::Metrics& metrics_;
    std::deque<ModelMetrics> models_;
    base::SeriesLease aims_;
    prometheus::Counter& access_lines_dropped_;
    prometheus::Gauge& connections_;
    prometheus::Gauge& send_buffer_bytes_;
    prometheus::Gauge& slow_clients_;
};

}  // namespace gateway
