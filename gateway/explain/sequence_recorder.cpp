#include "gateway/explain/sequence_recorder.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace gateway {

void SequenceRecorder::begin(base::RequestId id, base::TimePoint received_at, base::TimePoint now,
                             std::uint32_t prompt_tokens, const SloTargets& targets) {
    timeline_ = std::make_shared<SequenceTimeline>();
    timeline_->id = base::raw(id);
    timeline_->received_at = received_at == base::TimePoint{} ? now : received_at;
    timeline_->opened_at = now;
    timeline_->prompt_tokens = prompt_tokens;
    timeline_->attempts.reserve(1);
    tpot_target_ = targets.tpot;
    changed_at_ = now;
}

void SequenceRecorder::asks(base::TimePoint now) {
    if (!timeline_) { return; }
    auto& attempts = timeline_->attempts;
    if (!attempts.empty() && !attempts.back().placed_at) { return; }
    if (attempts.size() == kAttemptsKept) { attempts.erase(attempts.begin() + 1); }  // the first one stays
    attempts.emplace_back().asked_at = now;
    attempt_tokens_ = 0;
    changed_at_ = now;
}

void SequenceRecorder::placed(base::TimePoint now, const proto::Placement& placement, bool is_split) {
    if (!timeline_) { return; }
    const proto::WorkerEndpoint& decode = placement.has_decode() ? placement.decode() : placement.prefill();
    const proto::WorkerEndpoint& prefill = is_split ? placement.prefill() : decode;
    Attempt& attempt = timeline_->attempts.back();
    attempt.placed_at = now;
    attempt.is_split = is_split;
    attempt.prefill_worker = prefill.worker_id();
    attempt.decode_worker = decode.worker_id();
    attempt.predicted_ttft = std::chrono::microseconds(placement.predicted_ttft_us());
    attempt.predicted_tpot = std::chrono::microseconds(placement.predicted_tpot_us());
    attempt.cached_believed = placement.cached_prompt_tokens();
    prefill_life_ = prefill.incarnation();
    decode_life_ = decode.incarnation();
    ++timeline_->placements;
    changed_at_ = now;
}

void SequenceRecorder::refused(bool can_retry) {
    if (!timeline_) { return; }
    timeline_->was_refused = true;
    timeline_->can_retry = can_retry;
}

void SequenceRecorder::lost(base::TimePoint now, base::Incarnation worker, base::ErrorCode code) {
    if (!timeline_ || timeline_->attempts.empty()) { return; }
    Attempt& attempt = timeline_->attempts.back();
    attempt.lost_at = now;
    attempt.lost_code = code;
    attempt.lost_worker = base::raw(worker) == prefill_life_  ? attempt.prefill_worker
                          : base::raw(worker) == decode_life_ ? attempt.decode_worker
                                                              : 0;
    changed_at_ = now;
}

void SequenceRecorder::token(base::TimePoint now, std::uint32_t number, base::Duration gap,
                             const proto::SequenceOutput& output) {
    if (!timeline_) { return; }
    const proto::PartTrace* const trace = output.has_trace() ? &output.trace() : nullptr;
    Attempt& attempt = timeline_->attempts.back();
    const bool is_first_here = attempt_tokens_++ == 0;
    if (is_first_here) {
        attempt.first_token_at = now;
        attempt.cached_tokens = output.cached_tokens();
        if (trace != nullptr) { attempt.prefill = *trace; }
    } else if (attempt.is_split && attempt_tokens_ == 2) {
        attempt.second_token_at = now;
        attempt.kv_recomputed = output.kv_path() == "recomputed";
        attempt.kv = output.kv_codec();
        if (trace != nullptr) { attempt.decode = *trace; }
    }
    changed_at_ = now;
    since_unexplained_ += gap;
    if (trace != nullptr && unexplained_ > base::Duration::zero()) { move_unexplained(gap, *trace); }
    if (trace != nullptr || since_unexplained_ >= unexplained_) { unexplained_ = {}; }
    if (number == 1) {
        timeline_->first_token_at = now;
    } else if (tpot_target_ > base::Duration::zero() && gap > tpot_target_) {
        late_token(number - 1, gap, is_first_here, trace);
    }
}

void SequenceRecorder::move_unexplained(base::Duration gap, const proto::PartTrace& trace) {
    const base::Duration total = std::chrono::microseconds(trace.total_us());
    const base::Duration moved = std::min(unexplained_, total - gap);
    if (moved <= base::Duration::zero()) { return; }
    const Cause cause = cause_of(gap_shares(total, &trace, true), {});
    timeline_->late.of(Cause::gateway) -= moved;
    timeline_->late.of(cause) += moved;
    timeline_->late_workers[index_of(cause)] = timeline_->attempts.back().decode_worker;
    for (LateToken& late : timeline_->late_tokens) {
        if (late.token == unexplained_token_) { late.cause = cause; }
    }
}

void SequenceRecorder::late_token(std::uint32_t number, base::Duration gap, bool is_after_loss,
                                  const proto::PartTrace* trace) {
    const Attempt& attempt = timeline_->attempts.back();
    Shares shares;
    std::uint64_t worker = attempt.decode_worker;
    if (is_after_loss) {
        shares.of(Cause::worker_lost) = gap;
        for (const Attempt& one : timeline_->attempts) {
            if (one.lost_at) { worker = one.lost_worker; }
        }
    } else {
        shares = gap_shares(gap, trace, attempt.prefill.has_value());
    }
    if (!is_after_loss && shares.of(Cause::gateway) > base::Duration::zero()) {
        unexplained_ = shares.of(Cause::gateway);
        unexplained_token_ = number;
        since_unexplained_ = {};
    }
    ++timeline_->late_count;
    timeline_->late.add(shares);
    for (std::size_t i = 0; i < kCauses; ++i) {
        if (shares.spent[i] > base::Duration::zero() && i != index_of(Cause::gateway)) {
            timeline_->late_workers[i] = worker;
        }
    }
    auto& kept = timeline_->late_tokens;
    if (kept.size() == kLateTokensKept) {
        const auto shortest = std::min_element(kept.begin(), kept.end(),
                                               [](const LateToken& a, const LateToken& b) { return a.gap < b.gap; });
        if (shortest->gap >= gap) { return; }
        kept.erase(shortest);
    }
    LateToken& late = kept.emplace_back();
    late.token = number;
    late.gap = gap;
    late.worker = worker;
    late.cause = cause_of(shares, {});
    if (trace != nullptr) { late.trace = *trace; }
}

std::shared_ptr<const SequenceTimeline> SequenceRecorder::end(base::TimePoint now, std::uint32_t tokens,
                                                              base::Duration tpot, Doing doing) {
    if (!timeline_) { return nullptr; }
    timeline_->ended_at = now;
    timeline_->completion_tokens = tokens;
    timeline_->tpot = tpot;
    const bool was_lost = std::any_of(timeline_->attempts.begin(), timeline_->attempts.end(),
                                      [](const Attempt& attempt) { return attempt.lost_at.has_value(); });
    switch (doing) {
        case Doing::nothing:
            break;
        case Doing::placing:
            timeline_->unfinished.of(was_lost ? Cause::worker_lost : Cause::gateway) = now - changed_at_;
            break;
        case Doing::prefill:
            timeline_->unfinished.of(Cause::prefill) = now - changed_at_;
            break;
        case Doing::handoff:
            timeline_->unfinished.of(Cause::handoff) = now - changed_at_;
            break;
        case Doing::decode:
            timeline_->unfinished.of(Cause::decode_batch) = now - changed_at_;
            break;
    }
    return std::exchange(timeline_, nullptr);
}

}  // namespace gateway
