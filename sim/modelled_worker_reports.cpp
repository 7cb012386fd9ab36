// What a worker learns of its steps, and tells the scheduler; the contract stands in modelled_worker.h.
#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "sim/modelled_levels.h"
#include "sim/modelled_worker.h"

namespace sim {
namespace {

using worker::SequenceState;

worker::StepFigures figures_of(const base::StepWork& work, base::Duration took) {
    return {
        .prefill_tokens = static_cast<std::uint32_t>(work.prefill_tokens),
        .decode_sequences = static_cast<std::uint32_t>(work.decode_sequences),
        .prefill_context_tokens = static_cast<std::uint64_t>(work.prefill_context),
        .decode_context_tokens = static_cast<std::uint64_t>(work.decode_context),
        .duration_us = static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count())};
}

constexpr std::size_t kStepsHeld = 64;  // that have ended, until they are learned from and told of

}  // namespace

/// The step that runs has ended. What it teaches is looked at when somebody asks: with ten thousand workers what was
/// learned lies in no near cache, and most steps plan nothing that depends on it.
void ModelledWorker::note_step() {
    ended_.push_back({step_work_, step_takes_});
    if (ended_.size() < kStepsHeld) { return; }
    learn_steps();
    tell_steps();
    ended_.clear();
    ended_learned_ = ended_told_ = 0;
}

void ModelledWorker::learn_steps() {
    for (; ended_learned_ < ended_.size(); ++ended_learned_) {
        forecast_.note_step(ended_[ended_learned_].work, ended_[ended_learned_].took);
    }
}

void ModelledWorker::tell_steps() {
    space_.figures.clear();
    for (; ended_told_ < ended_.size(); ++ended_told_) {
        space_.figures.push_back(figures_of(ended_[ended_told_].work, ended_[ended_told_].took));
    }
    board_.add_steps(space_.figures);
}

sluice::proto::WorkerLoad ModelledWorker::load() const {
    sluice::proto::WorkerLoad load;
    for (const auto& sequence : sequences_) {
        const bool waits = sequence->state == SequenceState::waiting;
        if (waits || sequence->state == SequenceState::awaiting_kv) {
            load.set_requests_waiting(load.requests_waiting() + 1);
        } else {
            load.set_requests_running(load.requests_running() + 1);
        }
        if (sequence->state == SequenceState::awaiting_kv && sequence->lacks_kv_only()) {
            load.set_kv_awaited(load.kv_awaited() + 1);
        }
        const bool runs = sequence->state == SequenceState::running;
        if (runs && sequence->tokens_left() == 1) {
            load.set_decode_sequences(load.decode_sequences() + 1);
            load.set_context_tokens(load.context_tokens() + sequence->tokens);
        } else if (runs || waits) {
            const std::uint32_t comes = waits    ? std::max(sequence->cached_believed, sequence->awaited)
                                        : below_ ? sequence->comes_from_below()
                                                 : 0;
            load.set_prefill_tokens_queued(load.prefill_tokens_queued() + sequence->tokens_left() - comes);
        }
    }
    const kv_cache::BlockCounts counts = cache_.counts();
    load.set_blocks_free(counts.free);
    load.set_blocks_used(counts.used);
    load.set_blocks_cached(counts.cached);
    load.set_blocks_pinned(counts.pinned);
    load.set_blocks_stranded(counts.stranded);
    return load;
}

/// As StepReporter::publish_blocks.
void ModelledWorker::report_blocks(worker::ReportBoard::Wish wish) {
    if (wish == worker::ReportBoard::Wish::snapshot) { cache_.begin_snapshot(); }
    if (wish == worker::ReportBoard::Wish::nothing) {
        cache_.forget_events();
    } else if (wish != worker::ReportBoard::Wish::later) {
        do {
            if (const auto events = cache_.take_events()) { board_.add_block_events(*events); }
        } while (cache_.snapshot_unfinished());
    }
}

bool ModelledWorker::report(base::TimePoint now, base::Duration idle, sluice::proto::Heartbeat& heartbeat) {
    tell_steps();
    board_.set_load(load());
    const auto wish = board_.take_wish();
    if (below_) {
        below_->report_blocks(wish);
    } else {
        report_blocks(wish);
    }
    board_.take(heartbeat);
    CHECK(heartbeat.load().SerializeToString(&space_.load));
    const bool is_news = space_.load != load_told_ || heartbeat.steps_size() > 0 || heartbeat.transfers_size() > 0 ||
                         heartbeat.blocks_size() > 0;
    if (!is_news && now - reported_at_ < idle) { return false; }
    load_told_ = space_.load;
    reported_at_ = now;
    heartbeat.set_number(++heartbeats_);
    return true;
}

void ModelledWorker::registration(sluice::proto::RegisterWorker& message) const {
    message.set_role(options_.role == proto::Role::prefill  ? sluice::proto::WORKER_ROLE_PREFILL
                     : options_.role == proto::Role::decode ? sluice::proto::WORKER_ROLE_DECODE
                                                            : sluice::proto::WORKER_ROLE_MIXED);
    message.set_kv_blocks_total(options_.kv.blocks_total);
    message.set_block_tokens(options_.kv.block_tokens);
    message.set_context_tokens(options_.context_tokens);
    message.set_batch_sequences_max(options_.limits->batch_sequences_max);
    message.set_batch_tokens_max(options_.limits->batch_tokens_max);
    message.set_queue_requests_max(options_.limits->queue_requests_max);
}

}  // namespace sim
