#include "gateway/explain/stage_times.h"

#include <algorithm>
#include <chrono>

namespace gateway {
namespace {

constexpr std::array<std::string_view, kStages> kNames = {"prepare", "place",        "queue_prefill", "prefill",
                                                          "handoff", "queue_decode", "decode"};

base::Duration at_least_zero(base::Duration duration) {
    return std::max(duration, base::Duration::zero());
}

base::Duration us(std::uint32_t count) {
    return std::chrono::microseconds(count);
}

base::Duration queued(const proto::PartTrace& account) {
    return us(account.memory_us()) + us(account.turn_us());
}

}  // namespace

std::string_view name_of(Stage stage) {
    return kNames[static_cast<std::size_t>(stage)];
}

StageDurations stage_durations(const SequenceTimeline& sequence) {
    StageDurations durations;
    const auto of = [&durations](Stage stage) -> std::optional<base::Duration>& {
        return durations[static_cast<std::size_t>(stage)];
    };
    of(Stage::prepare) = at_least_zero(sequence.opened_at - sequence.received_at);
    const auto attempt =
        std::find_if(sequence.attempts.begin(), sequence.attempts.end(), [&sequence](const Attempt& one) {
            return one.placed_at && one.first_token_at && one.first_token_at == sequence.first_token_at;
        });
    if (attempt == sequence.attempts.end()) { return durations; }
    of(Stage::place) = at_least_zero(*attempt->placed_at - attempt->asked_at);

    base::Duration until_token = at_least_zero(*attempt->first_token_at - *attempt->placed_at);
    base::Duration handoff{};
    if (attempt->prefill) {
        // By the worker's clock, and told in whole: never more than what went by here.
        const base::Duration queue = std::min(queued(*attempt->prefill), until_token);
        handoff = std::min(us(attempt->prefill->kv_us()), until_token - queue);
        of(Stage::queue_prefill) = queue;
        until_token -= queue + handoff;
    }
    of(Stage::prefill) = until_token;
    if (attempt->is_split || handoff > base::Duration::zero()) { of(Stage::handoff) = handoff; }
    if (sequence.completion_tokens < 2) { return durations; }

    base::Duration after_token = at_least_zero(sequence.ended_at - *attempt->first_token_at);
    if (attempt->is_split && attempt->decode) {
        const base::Duration waited = std::min(us(attempt->decode->kv_us()), after_token);
        const base::Duration queue = std::min(queued(*attempt->decode), after_token - waited);
        of(Stage::handoff) = handoff + waited;
        of(Stage::queue_decode) = queue;
        after_token -= waited + queue;
    }
    of(Stage::decode) = after_token;
    return durations;
}

void observe_stages(base::Metrics& metrics, const std::string& model, const SequenceTimeline& sequence) {
    const StageDurations durations = stage_durations(sequence);
    for (std::size_t stage = 0; stage < kStages; ++stage) {
        if (!durations[stage]) { continue; }
        metrics
            .histogram("sluice_gateway_stage_duration_seconds", "Time of a sequence in one stage of its way",
                       base::ttft_edges(), {{"model", model}, {"stage", std::string(kNames[stage])}})
            .Observe(std::chrono::duration<double>(*durations[stage]).count());
    }
}

}  // namespace gateway
