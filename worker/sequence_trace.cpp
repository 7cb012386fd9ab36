#include "worker/sequence_trace.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace worker {
namespace {

base::Duration duration_of(double seconds) {
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(std::max(seconds, 0.0)));
}

base::StepWork without_decodes(base::StepWork work) {
    work.decode_sequences = 0;
    work.decode_context = 0;
    return work;
}

base::StepWork without_prompts(base::StepWork work) {
    work.prefill_tokens = 0;
    work.prefill_context = 0;
    return work;
}

/// Time that `whole` takes beyond `part`, at most `most`; by `share` of it where either is not known.
base::Duration beyond(const std::optional<double>& whole, const std::optional<double>& part, double share,
                      base::Duration most) {
    const base::Duration more = whole && part
                                    ? duration_of(*whole - *part)
                                    : duration_of(std::chrono::duration<double>(most).count() * std::max(share, 0.0));
    return std::min(more, std::max(most, base::Duration::zero()));
}

}  // namespace

std::optional<double> KnownCosts::seconds(const base::StepWork& work) const {
    const bool needs_decode = work.decode_sequences > 0;
    if ((work.prefill_tokens > 0 && !prefill) || (needs_decode && !decode)) { return std::nullopt; }
    return base::step_seconds({prefill.value_or(base::PrefillCost{}), decode.value_or(base::DecodeCost{})}, work);
}

StepSplit split_step(const base::StepWork& all, const base::StepWork& own, base::Duration took,
                     const KnownCosts& costs) {
    const double tokens = all.prefill_tokens + all.decode_sequences;
    const auto whole = costs.seconds(all);
    const auto alone = costs.seconds(own);
    StepSplit split;
    if (alone) { split.alone = duration_of(*alone); }
    if (own.prefill_tokens == 0) {
        if (all.prefill_tokens > 0) {
            split.others = beyond(whole, costs.seconds(without_prompts(all)), all.prefill_tokens / tokens, took);
        }
        return split;
    }
    if (all.decode_sequences > 0) {
        split.others = beyond(whole, costs.seconds(without_decodes(all)), all.decode_sequences / tokens, took);
    }
    if (all.prefill_tokens > own.prefill_tokens) {
        split.turn = beyond(costs.seconds(without_decodes(all)), alone,
                            (all.prefill_tokens - own.prefill_tokens) / all.prefill_tokens, took - split.others);
    }
    return split;
}

void SequenceTrace::begin(base::TimePoint now, Wait what) {
    is_on_ = true;
    times_ = {};
    times_.since = now;
    wait_ = what;
    waits_since_ = now;
}

void SequenceTrace::close(base::TimePoint now) {
    const base::Duration waited = now - std::exchange(waits_since_, now);
    switch (wait_) {
        case Wait::memory:
            times_.memory += waited;
            break;
        case Wait::kv:
            times_.kv += waited;
            break;
        case Wait::preempted:
            times_.preempted += waited;
            break;
        case Wait::recomputed:
            times_.recomputed += waited;
            break;
        case Wait::turn:  // counts only as far as a step ran without it: launched()
        case Wait::none:
            break;
    }
}

void SequenceTrace::wait_for(Wait what, base::TimePoint now) {
    if (!is_on_ || (is_sticky() && what != Wait::preempted)) { return; }
    close(now);
    wait_ = what;
}

void SequenceTrace::launched(base::TimePoint step_ended) {
    if (!is_on_ || wait_ != Wait::turn) { return; }
    times_.turn += std::max(step_ended - waits_since_, base::Duration::zero());
    wait_ = Wait::none;
}

void SequenceTrace::stepped(base::TimePoint ended, base::Duration took, const base::StepWork& all,
                            const base::StepWork& own, const KnownCosts& costs) {
    if (!is_on_) { return; }
    ++times_.step_count;
    times_.prompt_tokens += static_cast<std::uint32_t>(own.prefill_tokens);
    times_.batch = static_cast<std::uint32_t>(all.decode_sequences);
    if (is_sticky()) { return; }
    const StepSplit split = split_step(all, own, took, costs);
    times_.steps += took - split.turn;
    times_.turn += split.turn;
    times_.others += split.others;
    times_.alone += split.alone;
    wait_ = Wait::turn;
    waits_since_ = ended;
}

PartTimes SequenceTrace::take(base::TimePoint now) {
    close(now);
    const PartTimes taken = std::exchange(times_, {});
    times_.since = now;
    wait_ = Wait::turn;
    waits_since_ = now;
    return taken;
}

}  // namespace worker
