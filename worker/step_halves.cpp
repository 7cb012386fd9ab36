// A step from its plan to its result; the contract stands in step_loop.h.
#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "worker/step_loop.h"

namespace worker {
namespace {

using base::ErrorCode;

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace

/// The running step gives this sequence its last token here, as far as can be known before: a stop token or an error
/// may end others, too.
bool StepLoop::ends_with_step(const Sequence& sequence) const {
    if (sequence.encodes()) { return sequence.step_tokens > 0; }
    if (!sequence.step_samples) { return false; }
    return sequence.request.part == Part::prefill ||
           sequence.generated_after_step() >= sequence.request.stop.new_tokens_max ||
           sequence.tokens.size() + 1 >= engine_.shape().context_tokens;
}

/// As it stands when the running step has ended, at `step_begin`.
PlanCandidate StepLoop::candidate_of(const Sequence& sequence, base::TimePoint step_begin) const {
    PlanCandidate candidate;
    candidate.tokens_left = sequence.computable_after_step();
    candidate.decodes = !sequence.encodes() && !sequence.from_end && sequence.decodes_after_step();
    candidate.context_tokens = sequence.computed_after_step();
    if (const auto due = sequence.next_due(step_begin)) { candidate.due_seconds = seconds_of(*due - step_begin); }
    const base::Duration tpot = sequence.request.slo.tpot;
    if (tpot > base::Duration::zero()) { candidate.tpot_seconds = seconds_of(tpot); }
    const std::uint32_t generated = sequence.generated_after_step() + 1;  // with the one that is due
    candidate.answer_tokens_max =
        sequence.request.stop.new_tokens_max - std::min(generated, sequence.request.stop.new_tokens_max);
    candidate.waited_seconds = seconds_of(step_begin - sequence.accepted);
    return candidate;
}

/// The step after the running one, ready but for its tokens, with memory for all of it. Empty when there is nothing to
/// compute. While a step runs nobody gives way to others, since the engine writes their blocks: empty, too, when that
/// would be necessary; the plan is made after the step then.
std::optional<RunningStep> StepLoop::plan_step() {
    const base::TimePoint now = clock_.now();
    const base::TimePoint begin = running_ ? std::max(now, running_->launched + running_->predicted) : now;
    while (true) {
        std::vector<PlanCandidate> candidates;
        std::vector<Sequence*> runnable;
        for (const auto& sequence : sequences_) {
            const bool fills = sequence->from_end.has_value();  // the rest of its KV comes meanwhile
            const bool can_run = (sequence->state == SequenceState::running && !sequence->awaits_grammar()) ||
                                 (sequence->state == SequenceState::awaiting_kv && fills);
            if (!can_run || ends_with_step(*sequence)) { continue; }
            if (fills && sequence->computable_after_step() == 0) { continue; }
            runnable.push_back(sequence.get());
            candidates.push_back(candidate_of(*sequence, begin));
        }
        if (candidates.empty()) { return std::nullopt; }
        const WorkerOptions& limits = options_.limits;
        const PlanLimits plan_limits{.sequences_max = limits.batch_sequences_max,
                                     .tokens_max = limits.batch_tokens_max,
                                     .chunk_tokens_max = limits.chunk_tokens_max,
                                     .chunk_tokens_learning = forecast_.chunk_tokens_learning(),
                                     .decode_rotation = rotation_ % size32(candidates.size()),
                                     .cost = forecast_.cost(),
                                     .cost_ratio = forecast_.mixed_ratio(),
                                     .prompt_wait_seconds = seconds_of(limits.prompt_wait)};
        const bool encodes = !engine_.keeps_kv();
        const auto plan = encodes ? plan_texts(candidates, plan_limits) : plan_batch(candidates, plan_limits);
        std::vector<StepEntry> entries;
        entries.reserve(plan.size());
        for (const PlanEntry& planned : plan) {
            Sequence& sequence = *runnable[planned.candidate];
            entries.push_back({&sequence, planned.tokens, !encodes && planned.tokens == sequence.left_after_step()});
        }
        if (!encodes && !grow(entries)) { return std::nullopt; }
        if (entries.empty()) { continue; }  // at least one has given way or ended
        std::vector<StepShare> shares;
        shares.reserve(entries.size());
        for (const StepEntry& entry : entries) {
            shares.push_back({entry.tokens, entry.sequence->computed_after_step(), entry.samples});
        }
        RunningStep step =
            build_step(std::move(entries), std::move(spare_batch_), parts_[static_cast<std::size_t>(Part::prefill)]);
        step.predicted = forecast_.predict(shares);
        step.batch.mask_wait = limits.mask_wait;
        step.rotation = plan.size() < candidates.size() ? rotation_ + size32(plan.size()) : rotation_;
        return step;
    }
}

std::optional<engine::Ticket> StepLoop::begin_step(engine::StepDone done) {
    CHECK(!running_);
    if (!next_) {
        publish_all();  // newcomers find what the step before this one computed
        give_memory();
        next_ = plan_step();
    }
    if (!next_) {
        last_ended_.reset();
        return std::nullopt;
    }
    running_ = std::exchange(next_, std::nullopt);
    RunningStep& step = *running_;
    fill_tokens(step, engine_.shape().vocabulary);
    for (const StepEntry& entry : step.entries) {
        entry.sequence->step_tokens = entry.tokens;
        entry.sequence->step_samples = entry.samples;
    }
    rotation_ = step.rotation;
    engine::LayersDone layers_done;
    if (!step.chunks.empty()) {
        layers_done = [part = parts_[static_cast<std::size_t>(Part::prefill)],
                       chunks = std::span<const LaunchedChunk>(step.chunks)](std::uint32_t begin, std::uint32_t end) {
            part->layers_done(chunks, begin, end);
        };
    }
    step.launched = clock_.now();
    for (const StepEntry& entry : step.entries) {
        entry.sequence->trace.launched(step_ended_at_);
    }
    return engine_.launch(std::move(step.batch), std::move(layers_done), std::move(done));
}

void StepLoop::finish_step(base::Result<engine::StepResult> result) {
    CHECK(running_);
    RunningStep step = *std::exchange(running_, std::nullopt);
    for (const StepEntry& entry : step.entries) {
        entry.sequence->step_tokens = 0;
        entry.sequence->step_samples = false;
    }
    const base::TimePoint now = clock_.now();
    board_.note_progress(now);
    const auto last_ended = std::exchange(last_ended_, std::nullopt);
    if (!result) { return step_failed(std::move(step), result.error()); }
    CHECK(result->entries.size() == step.entries.size());
    spare_batch_ = std::move(result->batch);
    unreported_ = Unreported{shares_of(step), now - step.launched, std::nullopt};
    if (last_ended) { unreported_->idle_before = result->began - *last_ended; }
    last_ended_ = result->ended;
    trace_step(step, now);
    step_ended_at_ = now;
    for (std::size_t i = 0; i < step.entries.size(); ++i) {
        Sequence& sequence = *step.entries[i].sequence;
        engine::EntryResult& entry = result->entries[i];
        if (sequence.state == SequenceState::ended) {
            if (!entry.error) { sequence.computed_tokens += step.entries[i].tokens; }
            leave(sequence, true);
        } else if (entry.error) {
            finish(sequence, Finish::error, entry.error);
        } else {
            apply_result(step.entries[i], entry);
        }
    }
}

std::vector<StepShare> StepLoop::shares_of(const RunningStep& step) {
    std::vector<StepShare> shares;
    shares.reserve(step.entries.size());
    for (const StepEntry& entry : step.entries) {
        shares.push_back({entry.tokens, entry.sequence->computed_tokens, entry.samples});
    }
    return shares;
}

void StepLoop::trace_step(const RunningStep& step, base::TimePoint ended) {
    const auto is_traced = [](const StepEntry& entry) { return entry.sequence->trace.is_on(); };
    if (std::none_of(step.entries.begin(), step.entries.end(), is_traced)) { return; }
    const base::StepWork all = work_of(unreported_->shares);
    const KnownCosts costs = forecast_.known();
    for (std::size_t i = 0; i < step.entries.size(); ++i) {
        const base::StepWork own = work_of(std::span(unreported_->shares).subspan(i, 1));
        step.entries[i].sequence->trace.stepped(ended, unreported_->duration, all, own, costs);
    }
}

void StepLoop::step_failed(RunningStep&& step, const base::Error& error) {
    spdlog::error("{}: step failed: {}", options_.worker, error.message);
    if (error.code == ErrorCode::internal) { return lose_device(error); }
    if (error.code == ErrorCode::deadline_exceeded) {
        for (const StepEntry& entry : step.entries) {
            entry.sequence->step_tokens = entry.tokens;  // whoever ends now stays with the step
        }
        given_up_ = std::move(step);
        return lose_device(error);
    }
    for (const StepEntry& entry : step.entries) {
        if (entry.sequence->state == SequenceState::ended) {
            leave(*entry.sequence, true);
        } else {
            finish(*entry.sequence, Finish::error, error);
        }
    }
}

/// The device stays lost for this process: whatever waits here can only be done elsewhere.
void StepLoop::lose_device(const base::Error& error) {
    begin_drain();
    board_.set_draining();
    while (!sequences_.empty()) {
        finish(*sequences_.back(), Finish::error,
               base::Error{ErrorCode::unavailable, "the worker has lost its device: " + error.message});
    }
    if (std::exchange(device_lost_, true) || !options_.device_lost) { return; }
    options_.device_lost(error);
}

/// The next token of a sequence; whether it ends there.
Finish StepLoop::append(Sequence& sequence, base::TokenId token) const {
    sequence.tokens.push_back(token);
    const std::uint32_t generated = sequence.generated_tokens();
    const StopRules& stop = sequence.request.stop;
    if (generated > stop.new_tokens_min &&
        std::find(stop.stop_tokens.begin(), stop.stop_tokens.end(), token) != stop.stop_tokens.end()) {
        return Finish::stop;
    }
    const bool is_full = generated >= stop.new_tokens_max || sequence.tokens.size() >= engine_.shape().context_tokens;
    return is_full ? Finish::length : Finish::none;
}

/// What the grammar leaves no choice about behind the token of `output`: it comes with that one, and the next step
/// computes all of it as one chunk. Follows from the tokens and the request alone, so it is the same wherever the
/// sequence goes on. Where probabilities are asked for each token is computed by itself.
void StepLoop::append_forced(Sequence& sequence, SequenceOutput& output) {
    sequence.forced_tokens = 0;
    if (sequence.grammar == nullptr || options_.limits.forced_tokens_max == 0) { return; }
    if (output.finish != Finish::none || sequence.request.sampling.logprobs) { return; }
    const std::vector<base::TokenId> forced = sequence.grammar->take_forced();
    if (forced.empty() || forced.front() != output.tokens.back().token) { return; }
    for (std::size_t i = 1; i < forced.size() && output.finish == Finish::none; ++i) {
        output.finish = append(sequence, forced[i]);
        output.tokens.emplace_back().token = forced[i];
        ++sequence.forced_tokens;
    }
    if (sequence.forced_tokens == 0) { return; }
    reporter_.note_forced(sequence.forced_tokens);
    next_.reset();  // it was planned with one token
}

void StepLoop::apply_result(const StepEntry& entry, engine::EntryResult& result) {
    Sequence& sequence = *entry.sequence;
    sequence.computed_tokens += entry.tokens;
    if (sequence.encodes()) {
        SequenceOutput output;
        output.vector = std::move(result.pooled);
        output.finish = Finish::stop;
        emit(sequence, std::move(output));
        end(sequence);
        return;
    }
    for (engine::SampledToken& score : result.scores) {
        if (sequence.prompt_scores.size() + 1 < sequence.prompt_tokens) {
            sequence.prompt_scores.push_back(std::move(score));
        }
    }
    if (sequence.from_end && sequence.computed_tokens >= sequence.from_end->until) {
        part_of(sequence)->front_computed(sequence);
        for (RolePart* helper : helpers_) {
            helper->front_computed(sequence);
        }
    }
    if (!entry.samples) { return; }
    CHECK(result.sampled.has_value());

    SequenceOutput output;
    output.finish = append(sequence, result.sampled->token);
    sequence.begin_schedule(clock_.now());
    output.tokens.push_back(std::move(*result.sampled));
    if (!sequence.output_started) { output.prompt_scores = std::move(sequence.prompt_scores); }
    append_forced(sequence, output);
    if (output.finish != Finish::none) {
        emit(sequence, std::move(output));
        end(sequence);
        return;
    }
    emit(sequence, std::move(output));
    sequence.output_started = true;
    if (sequence.request.part == Part::prefill) { sequence.state = SequenceState::handing_over; }
    part_of(sequence)->sampled(sequence);
}

}  // namespace worker
