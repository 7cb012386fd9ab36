#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "scheduler/forecast.h"
#include "scheduler/place.h"
#include "scheduler/refusals.h"

namespace scheduler {
namespace {

/// 0: ready; 1: suspect or ejected; 2: ready but just failed this text; 3: both.
int rank(const WorkerView& worker, const PlaceQuery& query) {
    const bool avoided = std::find(query.avoid.begin(), query.avoid.end(), worker.incarnation) != query.avoid.end();
    return (avoided ? 2 : 0) + (is_doubtful(worker) ? 1 : 0);
}

/// Better ones are smaller: with room, of a better rank, sooner done, of a lower id.
struct Candidate {
    std::size_t index = 0;
    bool full = false;
    int rank = 0;
    double seconds = 0;
    base::WorkerId id{};
    bool better_than(const std::optional<Candidate>& other) const {
        if (!other) { return true; }
        if (full != other->full) { return !full; }
        if (rank != other->rank) { return rank < other->rank; }
        if (seconds != other->seconds) { return seconds < other->seconds; }
        return id < other->id;
    }
};

bool encodes(const WorkerView& worker) {
    return worker.status != WorkerStatus::gone && worker.role == Role::encode;
}

}  // namespace

std::optional<std::uint64_t> encode_numerics(std::span<const WorkerView> workers) {
    const WorkerView* best = nullptr;
    const auto takes_new = [](const WorkerView& worker) { return worker.status != WorkerStatus::draining; };
    for (const WorkerView& worker : workers) {
        if (!encodes(worker)) { continue; }
        if (best == nullptr || takes_new(worker) > takes_new(*best) ||
            (takes_new(worker) == takes_new(*best) && worker.registration < best->registration)) {
            best = &worker;
        }
    }
    if (best == nullptr) { return std::nullopt; }
    return best->numerics_id;
}

PlaceOutcome place_encode(const ClusterView& view, const PlaceQuery& query) {
    if (query.prompt_tokens == 0) {
        return refuse(base::ErrorCode::invalid_argument, "a text needs at least one token", 0, "bad_request");
    }
    const auto numerics = view.rules.allow_mixed_numerics ? std::nullopt : encode_numerics(view.workers);
    std::optional<Candidate> best;
    std::uint64_t longest = 0;
    bool exists = false;
    for (std::size_t i = 0; i < view.size(); ++i) {
        const WorkerView& worker = view.at(i);
        if (!encodes(worker) || (numerics && worker.numerics_id != *numerics)) { continue; }
        longest = std::max<std::uint64_t>(longest, worker.limits.context_tokens);
        if (worker.status == WorkerStatus::draining) { continue; }
        exists = true;
        if (worker.limits.context_tokens < query.prompt_tokens) { continue; }
        const Candidate candidate{.index = i,
                                  .full = prefill_requests_held(worker) >= worker.limits.queue_requests_max,
                                  .rank = rank(worker, query),
                                  .seconds = forecast_prefill(worker, query, 0).ttft_seconds,
                                  .id = worker.id};
        if (candidate.better_than(best)) { best = candidate; }
    }
    if (!exists) {
        return refuse(base::ErrorCode::unavailable, "there is no worker that encodes", kRetryWithoutWorkerMs,
                      "no_worker");
    }
    if (longest < query.prompt_tokens) {
        return refuse(base::ErrorCode::invalid_argument,
                      "a text of " + std::to_string(query.prompt_tokens) +
                          " tokens does not fit: the largest encoder takes " + std::to_string(longest),
                      0, "never_fits");
    }
    if (!best) {
        return refuse(base::ErrorCode::unavailable,
                      "only a draining worker takes " + std::to_string(query.prompt_tokens) + " tokens",
                      kRetryWithoutWorkerMs, "no_worker");
    }
    const PrefillForecast forecast = forecast_prefill(view.at(best->index), query, 0);
    if (best->full) {
        return refuse(base::ErrorCode::resource_exhausted, "the queues of all workers that encode are full",
                      retry_after_ms(forecast.queue_seconds), "queues_full");
    }
    return Placement{.prefill = best->index,
                     .decode = best->index,
                     .queue_seconds = forecast.queue_seconds,
                     .ttft_seconds = forecast.ttft_seconds,
                     .cost_seconds = forecast.ttft_seconds,
                     .reason = best->rank > 0 ? "last_resort" : "cheapest",
                     .encodes = true};
}

}  // namespace scheduler
