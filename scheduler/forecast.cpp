#include "scheduler/forecast.h"

#include <algorithm>
#include <cmath>

namespace scheduler {
namespace {

/// What the sequences that decode here add to every step.
double decode_share(const WorkerView& worker) {
    return base::decode_share_seconds(worker.costs.decode, decode_sequences(worker),
                                      static_cast<double>(worker.load.decode_context_tokens) +
                                          static_cast<double>(worker.pending.decode_context_tokens));
}

/// Workers plan steps for this share of what TPOT targets allow (worker/plan_batch.h).
constexpr double kTimeUsed = 0.95;

/// The share of its time that a worker has for prompts while sequences with this query's TPOT target decode there.
double prompt_share(const WorkerView& worker, const PlaceQuery& query, double decode_seconds) {
    if (query.tpot_seconds_target == kNoTarget || decode_sequences(worker) == 0) { return 1; }
    const double beside = worker.costs.prefill.step_seconds + decode_seconds;
    const double step = std::max(query.tpot_seconds_target, beside);
    return std::max(kTimeUsed * step - beside, worker.costs.prefill.token_seconds) / step;
}

/// Prompt tokens that fit into one step besides the sequences that decode.
double chunk_tokens(const WorkerView& worker) {
    return std::max(1.0, static_cast<double>(worker.limits.batch_tokens_max) - decode_sequences(worker));
}

std::uint64_t blocks_needed(const WorkerView& worker, const PlaceQuery& query) {
    const std::uint64_t tokens = std::uint64_t{query.prompt_tokens} + query.new_tokens_max;
    return (tokens + worker.limits.block_tokens - 1) / worker.limits.block_tokens;
}

}  // namespace

double decode_sequences(const WorkerView& worker) {
    return static_cast<double>(worker.load.decode_sequences) + static_cast<double>(worker.pending.decode_sequences);
}

double weighed_tokens(const PlaceQuery& query) {
    return std::max(1.0, static_cast<double>(std::min(kWeighedTokens, query.new_tokens_max)));
}

std::uint64_t tokens_capacity(const WorkerView& worker) {
    return std::min<std::uint64_t>(worker.limits.context_tokens,
                                   std::uint64_t{worker.limits.kv_blocks_total} * worker.limits.block_tokens);
}

PrefillForecast forecast_prefill(const WorkerView& worker, const PlaceQuery& query, std::uint32_t cached) {
    const double queued = static_cast<double>(worker.load.prefill_tokens_queued + worker.pending.prefill_tokens);
    const double requests = std::max(
        1.0, static_cast<double>(worker.load.requests_waiting) + static_cast<double>(worker.pending.prefill_requests));
    // Reports do not say how long the queued prompts are; equal lengths are assumed.
    const double queued_context = requests * context_sum(0, queued / requests);
    const double own = static_cast<double>(query.prompt_tokens - cached);
    const double own_context = context_sum(cached, own);
    const double chunk = chunk_tokens(worker);
    const double beside = decode_share(worker);
    const double share = prompt_share(worker, query, beside);
    const auto seconds = [&](double tokens, double context) {
        const double steps = std::ceil(tokens / chunk);
        const double paced = prefill_seconds(worker.costs.prefill, 0, tokens, context) / share;
        const double filled = prefill_seconds(worker.costs.prefill, steps, tokens, context) + steps * beside;
        return share < 1 ? std::max(paced, filled) : filled;
    };
    return {.queue_seconds = seconds(queued, queued_context),
            .ttft_seconds = seconds(queued + own, queued_context + own_context)};
}

double forecast_tpot(const WorkerView& worker, const PlaceQuery& query) {
    const double sequences =
        std::min(static_cast<double>(worker.limits.batch_sequences_max), decode_sequences(worker) + 1);
    const double context = static_cast<double>(worker.load.decode_context_tokens) +
                           static_cast<double>(worker.pending.decode_context_tokens) + query.prompt_tokens;
    const double step = decode_step_seconds(worker.costs.decode, sequences, context);
    // Prompts that wait here are computed in the same steps: each delays every sequence once, by at most a full chunk a
    // step.
    const double queued = static_cast<double>(worker.load.prefill_tokens_queued + worker.pending.prefill_tokens);
    const double token_seconds = worker.costs.prefill.token_seconds;
    const double interference =
        std::min(queued * token_seconds / weighed_tokens(query), chunk_tokens(worker) * token_seconds);
    // Steps are kept within the target as long as decodes alone do not break it.
    return std::max(step, std::min(step + interference, query.tpot_seconds_target));
}

double forecast_decode_wait(const WorkerView& worker, const PlaceQuery& query) {
    const double tpot = forecast_tpot(worker, query);
    const double running = std::max(1.0, static_cast<double>(worker.load.decode_sequences));
    double wait = 0;
    const double sequences_over = decode_sequences(worker) + 1 - static_cast<double>(worker.limits.batch_sequences_max);
    if (sequences_over > 0) { wait = kRemainingTokens * tpot * sequences_over / running; }
    const double room =
        static_cast<double>(worker.load.blocks_room) - static_cast<double>(worker.pending.decode_blocks);
    const double blocks_over = static_cast<double>(blocks_needed(worker, query)) - room;
    if (blocks_over > 0) {
        const double used = std::max(1.0, static_cast<double>(worker.load.blocks_used));
        wait = std::max(wait, kRemainingTokens * tpot * blocks_over / used);
    }
    return wait;
}

}  // namespace scheduler
