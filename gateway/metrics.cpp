#include "gateway/metrics.h"

#include <algorithm>
#include <utility>

namespace gateway {
namespace {

base::Metrics::Labels with_class(std::string_view model, std::string_view slo_class) {
    return {{"model", std::string(model)}, {"slo_class", std::string(slo_class)}};
}

/// `edges` and the targets that some class has.
std::vector<double> edges_with(std::vector<double> edges, const std::vector<SloTargets>& targets,
                               base::Duration SloTargets::* target) {
    for (const SloTargets& one : targets) {
        if (one.*target > base::Duration::zero()) {
            edges.push_back(std::chrono::duration<double>(one.*target).count());
        }
    }
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    return edges;
}

/// Two an octave: 1, 2, 3, 4, 6, 8, 12, ... to a quarter of a million.
const std::vector<double>& length_edges() {
    static const std::vector<double> edges = [] {
        std::vector<double> made{1};
        for (double octave = 2; octave <= 262'144; octave *= 2) {
            made.push_back(octave);
            made.push_back(octave * 1.5);
        }
        return made;
    }();
    return edges;
}

prometheus::Histogram& lengths(base::Metrics& metrics, const std::string& model, const char* kind) {
    return metrics.histogram("sluice_gateway_request_tokens", "Tokens of an answered request", length_edges(),
                             {{"model", model}, {"kind", kind}});
}

}  // namespace

ModelMetrics::ModelMetrics(base::Metrics& metrics, std::string model, std::vector<std::string> slo_classes,
                           const std::vector<SloTargets>& targets, base::Duration attainment_window)
    : metrics_(metrics),
      model_(std::move(model)),
      slo_classes_(std::move(slo_classes)),
      ttft_edges_(edges_with(base::ttft_edges(), targets, &SloTargets::ttft)),
      tpot_edges_(edges_with(base::tpot_edges(), targets, &SloTargets::tpot)),
      duration_edges_(edges_with(ttft_edges_, targets, &SloTargets::e2e)),
      inter_token_(metrics.histogram("sluice_gateway_inter_token_seconds", "Gap between two tokens of a sequence",
                                     tpot_edges_, {{"model", model_}})),
      prompt_tokens_(metrics.counter("sluice_gateway_tokens_total", "Tokens of answered requests",
                                     {{"model", model_}, {"kind", "prompt"}})),
      cached_tokens_(metrics.counter("sluice_gateway_tokens_total", "Tokens of answered requests",
                                     {{"model", model_}, {"kind", "cached_prompt"}})),
      completion_tokens_(metrics.counter("sluice_gateway_tokens_total", "Tokens of answered requests",
                                         {{"model", model_}, {"kind", "completion"}})),
      prompt_lengths_(lengths(metrics, model_, "prompt")),
      completion_lengths_(lengths(metrics, model_, "completion")) {
    for (const std::string& name : slo_classes_) {
        of_class_.push_back(
            {&metrics.histogram("sluice_gateway_time_per_output_token_seconds",
                                "Mean gap of the tokens after the first, per request", tpot_edges_,
                                with_class(model_, name)),
             &metrics.histogram("sluice_gateway_request_duration_seconds", "Accepted to last byte handed over",
                                duration_edges_, with_class(model_, name))});
        attained_.push_back({base::SlidingShare(attainment_window), std::make_unique<base::SeriesLease>(metrics)});
    }
    // A counter that is first seen at 1 has not grown, for Prometheus: those that promises are judged by begin at 0.
    for (std::size_t slo_class = 0; slo_class < slo_classes_.size(); ++slo_class) {
        for (const std::string_view slo : {"ttft", "tpot", "e2e", "availability", "all"}) {
            for (const std::string_view outcome : {"good", "bad"}) {
                slo_requests(slo_class, slo, outcome);
            }
        }
    }
}

void ModelMetrics::cancelled(std::string_view phase, std::string_view cause) {
    metrics_
        .counter("sluice_gateway_cancellations_total", "Sequences ended by the gateway before their end",
                 {{"model", model_}, {"phase", std::string(phase)}, {"cause", std::string(cause)}})
        .Increment();
}

void ModelMetrics::retried(std::string_view reason) {
    metrics_
        .counter("sluice_gateway_retries_total", "Sequences placed again after a failure",
                 {{"model", model_}, {"reason", std::string(reason)}})
        .Increment();
}

void ModelMetrics::retries_exhausted(std::string_view reason, std::string_view limit) {
    metrics_
        .counter("sluice_gateway_retries_exhausted_total",
                 "Sequences given up after a failure, for lack of placements or of retry budget",
                 {{"model", model_}, {"reason", std::string(reason)}, {"limit", std::string(limit)}})
        .Increment();
}

prometheus::Counter& ModelMetrics::slo_requests(std::size_t slo_class, std::string_view slo, std::string_view outcome) {
    base::Metrics::Labels labels = with_class(model_, slo_classes_[slo_class]);
    labels["slo"] = slo;
    labels["outcome"] = outcome;
    return metrics_.counter("sluice_gateway_slo_requests_total",
                            "Requests by what became of their targets; goodput is the rate of slo all, outcome good",
                            labels);
}

void ModelMetrics::slo_request(std::size_t slo_class, std::string_view slo, std::string_view outcome) {
    slo_requests(slo_class, slo, outcome).Increment();
}

void ModelMetrics::attained(std::size_t slo_class, bool is_met, base::TimePoint now) {
    attained_[slo_class].met.note(is_met, now);
}

void ModelMetrics::refresh(base::TimePoint now) {
    for (std::size_t slo_class = 0; slo_class < attained_.size(); ++slo_class) {
        Attained& attained = attained_[slo_class];
        const std::optional<double> share = attained.met.share(now);
        if (!share) {
            attained.row->end();
            continue;
        }
        attained.row
            ->gauge("sluice_gateway_slo_attainment_ratio", "Share of the latest requests that met all their targets",
                    with_class(model_, slo_classes_[slo_class]))
            .Set(*share);
    }
}

void ModelMetrics::slo_missed(std::size_t slo_class, std::string_view slo, std::string_view cause) {
    base::Metrics::Labels labels = with_class(model_, slo_classes_[slo_class]);
    labels["slo"] = slo;
    labels["cause"] = cause;
    metrics_
        .counter("sluice_gateway_slo_misses_total", "Requests that missed a target, by the cause (docs/explain.md)",
                 labels)
        .Increment();
}

void ModelMetrics::goodput_tokens(std::size_t slo_class, std::uint64_t tokens) {
    metrics_
        .counter("sluice_gateway_goodput_tokens_total", "Tokens of requests that met all their targets",
                 with_class(model_, slo_classes_[slo_class]))
        .Increment(static_cast<double>(tokens));
}

void ModelMetrics::first_token(std::size_t slo_class, std::string_view path, base::Duration ttft) {
    base::Metrics::Labels labels = with_class(model_, slo_classes_[slo_class]);
    labels["path"] = path;
    metrics_
        .histogram("sluice_gateway_time_to_first_token_seconds", "Last request byte to first data byte written",
                   ttft_edges_, labels)
        .Observe(seconds(ttft));
}

void ModelMetrics::tokens(std::uint64_t prompt, std::uint64_t cached, std::uint64_t completion) {
    prompt_tokens_.Increment(static_cast<double>(prompt));
    cached_tokens_.Increment(static_cast<double>(cached));
    completion_tokens_.Increment(static_cast<double>(completion));
    prompt_lengths_.Observe(static_cast<double>(prompt));
    if (completion > 0) { completion_lengths_.Observe(static_cast<double>(completion)); }
}

GatewayMetrics::GatewayMetrics(base::Metrics& metrics, const std::vector<std::string>& models,
                               const std::vector<std::string>& slo_classes, const std::vector<SloTargets>& targets,
                               base::Duration attainment_window)
    : metrics_(metrics),
      aims_(metrics),
      access_lines_dropped_(metrics.counter("sluice_gateway_access_lines_dropped_total",
                                            "Lines of the access log that were left out: its reader is too slow")),
      connections_(metrics.gauge("sluice_gateway_connections", "Open client connections")),
      send_buffer_bytes_(metrics.gauge("sluice_gateway_send_buffer_bytes", "Bytes that clients have not taken yet")),
      slow_clients_(metrics.gauge("sluice_gateway_slow_clients", "Connections that took nothing for a second")) {
    for (const std::string& model : models) {
        models_.emplace_back(metrics, model, slo_classes, targets, attainment_window);
        in_flight(model, 0);
    }
}

void GatewayMetrics::aims(const std::vector<ClassAim>& aims) {
    aims_.end();
    for (const ClassAim& aim : aims) {
        aims_
            .gauge("sluice_gateway_slo_objective_ratio", "Share of its requests that shall meet all their targets",
                   {{"slo_class", aim.slo_class}})
            .Set(aim.attainment);
    }
}

void GatewayMetrics::refresh(base::TimePoint now) {
    for (ModelMetrics& model : models_) {
        model.refresh(now);
    }
}

void GatewayMetrics::request_ended(std::string_view model, std::string_view endpoint, unsigned code, bool stream) {
    metrics_
        .counter("sluice_gateway_requests_total", "Requests by status",
                 {{"model", std::string(model)},
                  {"endpoint", std::string(endpoint)},
                  {"code", std::to_string(code)},
                  {"stream", stream ? "true" : "false"}})
        .Increment();
}

std::string_view admission_without_place(unsigned status) {
    switch (status) {
        case 429:
            return "rejected_placement";
        case 499:
            return "admitted";
        case 504:
            return "rejected_timeout";
        default:
            return status < 500 ? "rejected_invalid" : "rejected_unavailable";
    }
}

void GatewayMetrics::admission(std::string_view model, std::string_view outcome, std::string_view slo_class) {
    base::Metrics::Labels labels = with_class(model, slo_class);
    labels["outcome"] = outcome;
    metrics_.counter("sluice_gateway_admission_total", "Requests by what became of them at the door", labels)
        .Increment();
}

void GatewayMetrics::in_flight(std::string_view model, double change) {
    metrics_
        .gauge("sluice_gateway_inflight_requests", "Requests accepted and not answered yet",
               {{"model", std::string(model)}})
        .Increment(change);
}

void GatewayMetrics::connections(double open, double send_buffer_bytes, double slow_clients) {
    connections_.Set(open);
    send_buffer_bytes_.Set(send_buffer_bytes);
    slow_clients_.Set(slow_clients);
}

}  // namespace gateway
