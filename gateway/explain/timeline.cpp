#include "gateway/explain/timeline.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace gateway {
namespace {

using Sequences = std::vector<std::shared_ptr<const SequenceTimeline>>;

base::Duration us(std::uint32_t count) {
    return std::chrono::microseconds(count);
}

base::Duration at_least_zero(base::Duration duration) {
    return std::max(duration, base::Duration::zero());
}

/// A worker's account of `span`; `own` takes what is neither waiting nor company. What it leaves open was on the way.
Shares shares_of(base::Duration span, const proto::PartTrace& trace, Cause queue, Cause own) {
    Shares shares;
    const base::Duration total = std::min(us(trace.total_us()), at_least_zero(span));
    shares.of(queue) = us(trace.memory_us()) + us(trace.turn_us());
    shares.of(Cause::handoff) = us(trace.kv_us());
    shares.of(Cause::preempted) = us(trace.preempted_us());
    shares.of(Cause::recomputed) = us(trace.recomputed_us());
    shares.of(Cause::chunk_interference) = us(trace.others_us());
    base::Duration told{};
    for (const base::Duration one : shares.spent) {
        told += one;
    }
    shares.of(own) += at_least_zero(total - told);
    shares.of(Cause::gateway) = at_least_zero(span - total);
    shares.alone = us(trace.alone_us());
    return shares;
}

const Attempt* attempt_with_first_token(const SequenceTimeline& sequence) {
    for (const Attempt& attempt : sequence.attempts) {
        if (attempt.first_token_at && attempt.first_token_at == sequence.first_token_at) { return &attempt; }
    }
    return nullptr;
}

const Attempt* first_lost(const SequenceTimeline& sequence) {
    for (const Attempt& attempt : sequence.attempts) {
        if (attempt.lost_at) { return &attempt; }
    }
    return nullptr;
}

Miss ttft_miss(const SequenceTimeline& sequence, base::Duration target) {
    Miss miss{.cause = cause_of(ttft_shares(sequence), target)};
    const Attempt* const attempt = attempt_with_first_token(sequence);
    switch (miss.cause) {
        case Cause::worker_lost:
            if (const Attempt* lost = first_lost(sequence)) { miss.worker = lost->lost_worker; }
            break;
        case Cause::gateway:
            break;
        default:
            if (attempt != nullptr) { miss.worker = attempt->prefill_worker; }
    }
    return miss;
}

Miss tpot_miss(const SequenceTimeline& sequence, base::Duration target) {
    if (sequence.late_count == 0) { return {}; }
    Miss miss{.cause = cause_of(sequence.late, target * sequence.late_count)};
    const Cause spent = miss.cause == Cause::infeasible ? Cause::decode_batch : miss.cause;
    miss.worker = sequence.late_workers[index_of(spent)];
    return miss;
}

/// Of the whole answer: what the first token waited for, late tokens, and the others. Where these have a target that
/// they kept, they are what the answer needs, however long it is.
Miss e2e_miss(const SequenceTimeline& sequence, const SloTargets& targets) {
    Shares shares = ttft_shares(sequence);
    shares.add(sequence.late);
    base::Duration told{};
    for (const base::Duration one : shares.spent) {
        told += one;
    }
    const base::Duration others = at_least_zero(sequence.ended_at - sequence.received_at - told);
    shares.of(Cause::decode_batch) += others;
    if (targets.tpot > base::Duration::zero()) { shares.alone += others; }
    Miss miss{.cause = cause_of(shares, targets.e2e)};
    if (miss.cause == Cause::worker_lost) {
        if (const Attempt* lost = first_lost(sequence)) { miss.worker = lost->lost_worker; }
    } else if (const Attempt* const attempt = attempt_with_first_token(sequence);
               attempt != nullptr && miss.cause != Cause::gateway) {
        const bool is_prompts = miss.cause == Cause::queue_prefill || miss.cause == Cause::prefill;
        miss.worker = is_prompts ? attempt->prefill_worker : attempt->decode_worker;
    }
    return miss;
}

/// Why a request had no whole answer although its client waited for it.
Miss failure(const Sequences& sequences, unsigned status) {
    for (const auto& sequence : sequences) {
        if (!sequence->was_refused) { continue; }
        return {.cause = status == 429 && !sequence->can_retry ? Cause::infeasible : Cause::refused};
    }
    if (status == 429) { return {.cause = Cause::refused}; }
    for (const auto& sequence : sequences) {
        if (const Attempt* lost = first_lost(*sequence)) {
            return {.cause = Cause::worker_lost, .worker = lost->lost_worker};
        }
    }
    if (status != 504) { return {.cause = Cause::gateway}; }
    Shares all;
    for (const auto& sequence : sequences) {
        all.add(ttft_shares(*sequence));
        all.add(sequence->late);
        all.add(sequence->unfinished);
    }
    all.alone = {};
    return {.cause = sequences.empty() ? Cause::gateway : cause_of(all, {})};
}

double factor(base::Duration measured, base::Duration target) {
    return static_cast<double>(measured.count()) / static_cast<double>(target.count());
}

}  // namespace

Shares gap_shares(base::Duration gap, const proto::PartTrace* trace, bool worker_tells) {
    if (trace != nullptr) { return shares_of(gap, *trace, Cause::queue_decode, Cause::decode_batch); }
    Shares shares;
    shares.of(worker_tells ? Cause::gateway : Cause::decode_batch) = gap;
    return shares;
}

Shares ttft_shares(const SequenceTimeline& sequence) {
    Shares shares;
    shares.of(Cause::gateway) = at_least_zero(sequence.opened_at - sequence.received_at);
    if (sequence.attempts.empty()) { return shares; }
    const Attempt* const attempt = attempt_with_first_token(sequence);
    const Attempt& last = attempt != nullptr ? *attempt : sequence.attempts.back();
    const Attempt& first = sequence.attempts.front();
    if (&last != &first) {
        shares.of(Cause::gateway) += at_least_zero(first.placed_at.value_or(first.asked_at) - first.asked_at);
        // What was computed there counts for nothing.
        shares.of(Cause::worker_lost) = at_least_zero(last.asked_at - first.placed_at.value_or(first.asked_at));
    }
    if (!last.placed_at) { return shares; }
    shares.of(Cause::gateway) += at_least_zero(*last.placed_at - last.asked_at);
    if (attempt == nullptr) { return shares; }
    const base::Duration span = at_least_zero(*sequence.first_token_at - *last.placed_at);
    if (last.prefill) {
        shares.add(shares_of(span, *last.prefill, Cause::queue_prefill, Cause::prefill));
    } else {
        shares.of(Cause::prefill) += span;
    }
    return shares;
}

Explanation explain(const Sequences& sequences, const Outcome& outcome) {
    Explanation result;
    if (outcome.status == 499) {
        result.all = Miss{.cause = Cause::client};
        return result;
    }
    if (outcome.status != 200) {
        if (outcome.status == 429 || outcome.status >= 500) { result.all = failure(sequences, outcome.status); }
        return result;
    }
    const SloTargets& targets = outcome.targets;
    const bool ttft_missed = targets.ttft > base::Duration::zero() && !outcome.ttft_met;
    const bool tpot_missed = targets.tpot > base::Duration::zero() && !outcome.tpot_met;
    double ttft_factor = 0;
    double tpot_factor = 0;
    if (ttft_missed) {
        result.ttft = Miss{};
        for (const auto& sequence : sequences) {
            if (!sequence->first_token_at) { continue; }
            const double late = factor(*sequence->first_token_at - sequence->received_at, targets.ttft);
            if (late <= ttft_factor) { continue; }
            ttft_factor = late;
            result.ttft = ttft_miss(*sequence, targets.ttft);
        }
    }
    if (tpot_missed) {
        result.tpot = Miss{};
        for (const auto& sequence : sequences) {
            const double late = factor(sequence->tpot, targets.tpot);
            if (late <= tpot_factor) { continue; }
            tpot_factor = late;
            result.tpot = tpot_miss(*sequence, targets.tpot);
        }
    }
    double e2e_factor = 0;
    if (targets.e2e > base::Duration::zero() && !outcome.e2e_met) {
        e2e_factor = factor(outcome.took, targets.e2e);
        const auto last = std::max_element(sequences.begin(), sequences.end(),
                                           [](const auto& a, const auto& b) { return a->ended_at < b->ended_at; });
        result.e2e = last == sequences.end() ? Miss{} : e2e_miss(**last, targets);
    }
    double most = 0;
    for (const auto& [miss, by] : {std::pair(&result.ttft, ttft_factor), std::pair(&result.tpot, tpot_factor),
                                   std::pair(&result.e2e, e2e_factor)}) {
        if (*miss && (!result.all || by > most)) {
            result.all = *miss;
            most = by;
        }
    }
    return result;
}

}  // namespace gateway
