#include "sim/modelled_worker.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "sim/chance.h"
#include "sim/modelled_levels.h"
#include "sim/virtual_clock.h"
#include "worker/shared_prefix.h"

namespace sim {
namespace {

using worker::MemoryAct;
using worker::MemoryWish;
using worker::Part;
using worker::SequenceState;

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

constexpr std::size_t kCacheLine = 64;

}  // namespace

ModelledWorker::ModelledWorker(const Options& options, WorkerListener& listener)
    : options_(options),
      listener_(listener),
      own_workspace_(options.workspace == nullptr ? std::make_unique<Workspace>() : nullptr),
      space_(options.workspace == nullptr ? *own_workspace_ : *options.workspace),
      cache_(options.kv) {
    CHECK(options.limits != nullptr && options.times != nullptr);
    board_.attach();
    if (!options.levels.empty()) { below_ = std::make_unique<Below>(*this); }
}

ModelledWorker::Sequence* ModelledWorker::find(AttemptKey key) {
    return const_cast<Sequence*>(std::as_const(*this).find(key));
}

const ModelledWorker::Sequence* ModelledWorker::find(AttemptKey key) const {
    const auto at = std::find_if(sequences_.begin(), sequences_.end(), [&](const auto& s) { return s->key == key; });
    return at == sequences_.end() ? nullptr : at->get();
}

bool ModelledWorker::start(const LightStart& start, base::TimePoint now) {
    if (sequences_.size() >= options_.limits->queue_requests_max) { return false; }
    expect_no_quiet_steps();
    auto& sequence = *sequences_.emplace_back(new_sequence());
    sequence.key = start.key;
    sequence.id = next_sequence_++;
    sequence.start = start;
    sequence.accepted = now;
    sequence.tokens = start.prompt_tokens + start.generated_tokens;
    sequence.tokens_first = sequence.tokens + 1;
    sequence.tokens_last = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(std::uint64_t{start.prompt_tokens} + start.new_tokens_max, options_.context_tokens));
    sequence.chain_blocks = size32(start.chain.size());
    sequence.told = start.generated_tokens;
    sequence.state = start.part == Part::decode ? SequenceState::awaiting_kv : SequenceState::waiting;
    name_blocks(sequence);
    if (start.part != Part::decode) {
        sequence.waits_since = now;
        sequence.cached_believed = tokens_known(sequence);
        // A stream that goes on is on a schedule at once, as in StepLoop.
        if (start.generated_tokens > 0 && start.tpot > base::Duration::zero()) {
            sequence.schedule = {now, start.generated_tokens};
        }
    }
    return true;
}

/// Memory that was one's before is in a near cache, and taking it costs nothing.
std::unique_ptr<ModelledWorker::Sequence> ModelledWorker::new_sequence() {
    if (space_.spare.empty()) { return std::make_unique<Sequence>(); }
    std::unique_ptr<Sequence> sequence = std::move(space_.spare.back());
    space_.spare.pop_back();
    *sequence = Sequence{};
    return sequence;
}

void ModelledWorker::put_aside(std::unique_ptr<Sequence> sequence) {
    sequence->kv.reset();
    space_.spare.push_back(std::move(sequence));
}

void ModelledWorker::end(Sequence& sequence) {
    expect_no_quiet_steps();
    if (below_) {
        close_named(sequence);
    } else if (sequence.kv) {
        publish(sequence);
    }
    const auto at =
        std::find_if(sequences_.begin(), sequences_.end(), [&](const auto& s) { return s.get() == &sequence; });
    CHECK(at != sequences_.end());
    std::unique_ptr<Sequence> owned = std::move(*at);
    sequences_.erase(at);
    owned->state = SequenceState::ended;
    if (owned->step_tokens > 0) {
        leaving_.push_back(std::move(owned));
    } else {
        put_aside(std::move(owned));
    }
}

void ModelledWorker::cancel(AttemptKey key) {
    if (Sequence* sequence = find(key)) { end(*sequence); }
}

void ModelledWorker::cancel_all() {
    while (!sequences_.empty()) {
        end(*sequences_.back());
    }
}

void ModelledWorker::make_running(Sequence& sequence) {
    CHECK(sequence.kv.has_value() && sequence.tokens_left() > 0);
    sequence.state = SequenceState::running;
}

void ModelledWorker::make_waiting(Sequence& sequence, base::TimePoint now) {
    CHECK(sequence.step_tokens == 0);
    if (below_) {
        leave(sequence, false);
        sequence.named->from_end.reset();
        name_blocks(sequence);
    } else if (sequence.kv) {
        publish(sequence);
    }
    sequence.kv.reset();
    sequence.blocks_held = 0;
    sequence.room.reset();
    sequence.computed = 0;
    sequence.published_blocks = 0;
    sequence.kv_is_here = false;
    sequence.state = SequenceState::waiting;
    if (!sequence.waits_since) { sequence.waits_since = now; }
    sequence.cached_believed = tokens_known(sequence);
}

/// Of those that have computed a block in this step and have not ended with it, in the order in which they came: as
/// StepLoop::settle.
void ModelledWorker::publish_news() {
    if (space_.news.size() > 1) {
        std::sort(space_.news.begin(), space_.news.end(),
                  [](const Sequence* left, const Sequence* right) { return left->id < right->id; });
    }
    for (Sequence* sequence : space_.news) {
        if (sequence->state != SequenceState::ended && sequence->kv) { publish(*sequence); }
    }
    space_.news.clear();
}

bool ModelledWorker::has_news(const Sequence& sequence) const {
    return sequence.published_blocks < sequence.chain_blocks &&
           sequence.computed / options_.kv.block_tokens > sequence.published_blocks;
}

/// Without levels names exist for the blocks of the prompt; those of an answer stay private.
void ModelledWorker::publish(Sequence& sequence) {
    if (below_) { return publish_named(sequence); }
    if (sequence.published_blocks >= sequence.chain_blocks) { return; }
    const std::uint32_t full = std::min(sequence.computed / options_.kv.block_tokens, sequence.chain_blocks);
    if (full <= sequence.published_blocks) { return; }
    sequence.kv->publish(sequence.start.chain.first(full));
    sequence.published_blocks = full;
}

std::optional<base::TimePoint> ModelledWorker::Sequence::next_due(base::TimePoint step_end) const {
    const std::uint32_t after_step = generated() + (step_samples ? 1 : 0);
    if (schedule) { return worker::due_at(schedule->begin, start.tpot, after_step + 1 - schedule->generated); }
    if (!step_samples) { return start.first_token_due; }
    if (start.tpot == base::Duration::zero()) { return std::nullopt; }
    return step_end + start.tpot;
}

const std::vector<worker::MemoryCandidate>& ModelledWorker::memory_candidates(base::TimePoint now) {
    std::vector<worker::MemoryCandidate>& memory = space_.memory;
    memory.resize(sequences_.size());
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
        const Sequence& sequence = *sequences_[i];
        memory[i] = {};
        memory[i].holds_kv = sequence.kv.has_value();
        // A prefill part may not: the transfer reads its blocks (PrefillPart::may_preempt, once it was granted room).
        memory[i].may_give_way = sequence.state == SequenceState::running && sequence.start.part != Part::prefill;
        memory[i].priority = sequence.start.priority;
        memory[i].age = worker::memory_age(sequence.waited_for_memory(now), options_.limits->priority_wait);
        if (const auto due = sequence.next_due(now)) {
            memory[i].due_seconds = seconds_of(*due - now);
            if (sequence.schedule) { memory[i].tokens_ahead = worker::tokens_ahead(*due, sequence.start.tpot, now); }
        }
        if (memory[i].may_give_way) { memory[i].blocks_held = memory[i].blocks_to_move = sequence.blocks_held; }
    }
    if (below_) { below_->complete(memory); }
    return memory;
}

worker::MemoryCounts ModelledWorker::memory_counts() const {
    return {cache_.blocks_available(), cache_.counts().stranded, runs_step(),
            below_ ? below_->tiers().blocks_returning() : 0};
}

kv_cache::PrefixMatch ModelledWorker::match(const Sequence& sequence) {
    return cache_.match(sequence.chain(), sequence.room ? sequence.room->kv_tokens : sequence.tokens - 1);
}

std::uint32_t ModelledWorker::blocks_wanted(Sequence& sequence) {
    const std::uint32_t before = cache_.blocks_available();
    const kv_cache::PrefixMatch found = match(sequence);
    const std::uint32_t revived = before - cache_.blocks_available();
    if (!sequence.room) { sequence.cached_believed = below_ ? tokens_known(sequence) : found.tokens(); }
    return cache_.blocks_for(sequence.tokens_wanted()) - size32(found.blocks().size()) + revived;
}

void ModelledWorker::open_kv(Sequence& sequence, base::TimePoint now) {
    kv_cache::PrefixMatch found = match(sequence);
    const std::uint32_t hit = found.tokens();
    auto opened = cache_.open(std::move(found), sequence.tokens_wanted());
    CHECK(opened, "the plan of KV memory counted wrong: " << opened.error().message);
    sequence.kv = std::move(*opened);
    sequence.blocks_held = size32(sequence.kv->blocks().size());
    sequence.waited = sequence.waited_for_memory(now);
    sequence.waits_since.reset();
    sequence.computed = hit;
    sequence.published_blocks = hit / options_.kv.block_tokens;
}

/// As StepLoop::awaited_prefix.
std::uint32_t ModelledWorker::awaited_prefix(const Sequence& newcomer, base::TimePoint now) const {
    if (newcomer.room || newcomer.start.chain.empty()) { return 0; }
    const auto due_seconds = [now](const Sequence& sequence) {
        const auto due = sequence.schedule ? sequence.next_due(now) : sequence.start.first_token_due;
        return due ? seconds_of(*due - now) : worker::kNever;
    };
    const worker::SharingPrompt own{newcomer.start.chain, newcomer.tokens, 0, due_seconds(newcomer)};
    if (!worker::may_wait_for_prefix(now - newcomer.accepted, own.due_seconds, options_.limits->prompt_wait)) {
        return 0;
    }
    std::uint32_t tokens = 0;
    for (const auto& other : sequences_) {
        const bool computes = other->state == SequenceState::running || other->state == SequenceState::loading;
        if (!computes || other->tokens_left() <= 1) { continue; }
        const worker::SharingPrompt its{other->start.chain, other->tokens, other->computed, due_seconds(*other)};
        tokens = std::max(
            tokens, worker::awaited_prefix(own, its, options_.kv.block_tokens, options_.limits->batch_tokens_max));
    }
    return tokens;
}

void ModelledWorker::give_memory(base::TimePoint now) {
    bool any = true;
    while (any && std::any_of(sequences_.begin(), sequences_.end(), [](const auto& s) { return s->is_newcomer(); })) {
        memory_candidates(now);
        for (std::size_t i = 0; i < space_.memory.size(); ++i) {
            Sequence& sequence = *sequences_[i];
            if (!sequence.is_newcomer()) { continue; }
            sequence.awaited = awaited_prefix(sequence, now);
            if (sequence.awaited > 0) { continue; }
            space_.memory[i].wish = sequence.room ? MemoryWish::grant : MemoryWish::admit;
            space_.memory[i].turn = sequence.room ? sequence.room->turn : sequence.id;
            space_.memory[i].blocks = cache_.blocks_for(sequence.tokens_wanted());
        }
        for (const MemoryWish wish : {MemoryWish::grant, MemoryWish::admit}) {
            if (const auto first = worker::first_of(wish, space_.memory)) {
                space_.memory[*first].blocks = blocks_wanted(*sequences_[*first]);
            }
        }
        any = false;
        worker::MemoryCounts counts = memory_counts();
        if (below_) { below_->look_ahead(space_.memory, counts); }
        const std::vector<worker::MemoryAction> actions = worker::plan_memory(space_.memory, counts);
        if (below_) { below_->load_ahead(space_.memory, actions); }
        for (const worker::MemoryAction& action : actions) {
            const bool stays = action.act == MemoryAct::wait || action.act == MemoryAct::wait_for_step ||
                               action.act == MemoryAct::load_ahead;
            if (stays) { continue; }
            any = true;
            Sequence& sequence = *sequences_[action.candidate];
            if (action.act == MemoryAct::preempt) {
                ++preemptions_;
                make_waiting(sequence, now);
                continue;
            }
            if (action.act == MemoryAct::admit) {
                sequence.awaited = awaited_prefix(sequence, now);
                if (sequence.awaited > 0) { continue; }
            }
            open_kv(sequence, now);
            if (action.act == MemoryAct::grant) {
                sequence.room.reset();
                listener_.on_room_granted(options_.index, sequence.key, sequence.computed);
            } else {
                if (sequence.generated() == sequence.start.generated_tokens) {
                    sequence.cached_tokens = sequence.computed;
                }
                make_running(sequence);
                if (sequence.start.part == Part::prefill) { listener_.on_admitted(options_.index, sequence.key); }
                if (below_) { below_->admitted(sequence); }
            }
        }
    }
    if (below_) { publish_all(); }  // what was loaded, too
}

worker::PlanCandidate ModelledWorker::candidate_of(const Sequence& sequence, base::TimePoint begin) const {
    worker::PlanCandidate candidate;
    candidate.tokens_left = sequence.tokens_left();
    candidate.context_tokens = sequence.computed;
    const base::Duration tpot = sequence.start.tpot;
    // As worker::Sequence::next_due of one that is in no step.
    if (sequence.schedule) {
        const auto due =
            worker::due_at(sequence.schedule->begin, tpot, sequence.generated() + 1 - sequence.schedule->generated);
        candidate.due_seconds = seconds_of(due - begin);
    } else if (sequence.start.first_token_due) {
        candidate.due_seconds = seconds_of(*sequence.start.first_token_due - begin);
    }
    if (tpot > base::Duration::zero()) { candidate.tpot_seconds = seconds_of(tpot); }
    const std::uint32_t generated = sequence.generated() + 1;
    candidate.answer_tokens_max = sequence.start.new_tokens_max - std::min(generated, sequence.start.new_tokens_max);
    // Of prompts alone (plan_batch.h); it lies where a step of decodes need not look.
    if (candidate.tokens_left != 1) { candidate.waited_seconds = seconds_of(begin - sequence.accepted); }
    return candidate;
}

bool ModelledWorker::plan_step(base::TimePoint now) {
    while (true) {
        space_.runnable.clear();
        bool only_decodes = true;
        for (const auto& sequence : sequences_) {
            if (sequence->state != SequenceState::running) { continue; }
            if (below_ && sequence->computable() == 0) { continue; }
            space_.runnable.push_back(sequence.get());
            only_decodes = only_decodes && sequence->tokens_left() == 1;
        }
        if (space_.runnable.empty()) { return false; }
        const std::uint32_t count = size32(space_.runnable.size());
        step_.clear();
        if (only_decodes && worker::takes_every_decode(count, options_.limits->batch_sequences_max,
                                                       options_.limits->batch_tokens_max)) {
            const std::uint32_t first = rotation_ % count;
            for (std::uint32_t i = 0; i < count; ++i) {
                step_.push_back({space_.runnable[i < count - first ? first + i : first + i - count], 1, true});
            }
        } else {
            plan_batch(now);
        }
        const std::uint32_t planned = size32(step_.size());
        if (!grow(now)) { return false; }
        if (step_.empty()) { continue; }  // at least one has given way or ended
        if (planned < count) { rotation_ += planned; }
        return true;
    }
}

/// The step of those that may run, as the production planner has it.
void ModelledWorker::plan_batch(base::TimePoint now) {
    space_.candidates.clear();
    for (const Sequence* sequence : space_.runnable) {
        space_.candidates.push_back(candidate_of(*sequence, now));
        if (below_) { space_.candidates.back().tokens_left = sequence->computable(); }
    }
    learn_steps();
    const worker::WorkerOptions& limits = *options_.limits;
    const worker::PlanLimits plan_limits{.sequences_max = limits.batch_sequences_max,
                                         .tokens_max = limits.batch_tokens_max,
                                         .chunk_tokens_max = limits.chunk_tokens_max,
                                         .chunk_tokens_learning = forecast_.chunk_tokens_learning(),
                                         .decode_rotation = rotation_ % size32(space_.candidates.size()),
                                         .cost = forecast_.cost(),
                                         .cost_ratio = forecast_.mixed_ratio(),
                                         .prompt_wait_seconds = seconds_of(limits.prompt_wait)};
    for (const worker::PlanEntry& planned : worker::plan_batch(space_.candidates, plan_limits)) {
        Sequence& sequence = *space_.runnable[planned.candidate];
        step_.push_back({&sequence, planned.tokens, planned.tokens == sequence.tokens_left()});
    }
}

/// Memory for what the entries of the step write; whoever gives way, fails or waits for a copy is taken out. False: all
/// that are left wait.
bool ModelledWorker::grow(base::TimePoint now) {
    const auto index_of = [this](const Sequence& sequence) {
        const auto at = std::lower_bound(sequences_.begin(), sequences_.end(), sequence.id,
                                         [](const auto& s, std::uint64_t id) { return s->id < id; });
        return static_cast<std::size_t>(at - sequences_.begin());
    };
    std::vector<StepEntry> entries;  // no step runs while memory is planned
    entries.swap(step_);
    bool waits = false;
    while (true) {
        bool any = false;
        for (std::size_t i = 0; i < entries.size(); ++i) {
            const Sequence& sequence = *entries[i].sequence;
            const std::uint64_t tokens = std::uint64_t{sequence.computed} + entries[i].tokens;
            if (tokens <= std::uint64_t{sequence.blocks_held} * options_.kv.block_tokens) { continue; }
            const std::uint32_t blocks = cache_.blocks_for(sequence.computed + entries[i].tokens);
            if (!std::exchange(any, true)) { memory_candidates(now); }
            worker::MemoryCandidate& candidate = space_.memory[index_of(sequence)];
            candidate.wish = MemoryWish::grow;
            candidate.blocks = blocks - sequence.blocks_held;
            candidate.turn = i;
        }
        if (!any) { break; }
        for (const worker::MemoryAction& action : worker::plan_memory(space_.memory, memory_counts())) {
            Sequence& sequence = *sequences_[action.candidate];
            const auto leave_out = [&] {
                std::erase_if(entries, [&](const auto& e) { return e.sequence == &sequence; });
            };
            if (action.act == MemoryAct::grow) {
                sequence.blocks_held += space_.memory[action.candidate].blocks;
                CHECK(sequence.kv->reserve(sequence.blocks_held * options_.kv.block_tokens),
                      "the plan of KV memory counted wrong");
            } else if (action.act == MemoryAct::wait) {
                leave_out();
                waits = true;
            } else if (action.act == MemoryAct::preempt) {
                leave_out();
                ++preemptions_;
                make_waiting(sequence, now);
            } else if (action.act == MemoryAct::fail) {
                leave_out();
                const AttemptKey key = sequence.key;
                const std::uint32_t generated = sequence.generated();
                const std::uint32_t cached = sequence.cached_tokens;
                const bool is_known = sequence.told >= generated;
                end(sequence);
                if (!is_known) { listener_.on_token(options_.index, key, generated, cached, false); }
                listener_.on_failed(options_.index, key, base::ErrorCode::resource_exhausted);
            }
        }
    }
    step_.swap(entries);
    return !(waits && step_.empty());
}

/// What the step that was planned does, and what it takes by the model of the engine.
double ModelledWorker::look_at_step() {
    scheduler::planner::StepShape shape;
    step_work_ = {};
    double others = std::exchange(delay_seconds_, 0);
    space_.chunks.clear();
    for (const StepEntry& entry : step_) {
        Sequence& sequence = *entry.sequence;
        sequence.step_tokens = entry.tokens;
        sequence.step_samples = entry.samples;
        if (entry.samples) { shape.sampled += 1; }
        if (entry.tokens == 1 && entry.samples) {
            step_work_.decode_sequences += 1;
            step_work_.decode_context += sequence.computed;
            shape.decode_context += sequence.computed + 1;
        } else {
            step_work_.prefill_tokens += entry.tokens;
            step_work_.prefill_context += base::context_sum(sequence.computed, entry.tokens);
            space_.chunks.push_back({static_cast<double>(entry.tokens), static_cast<double>(sequence.computed)});
            const bool is_handed_over = sequence.start.part == worker::Part::prefill;
            if (is_handed_over) { others += entry.tokens * options_.handing_seconds_per_token; }
        }
    }
    shape.decode_sequences = step_work_.decode_sequences;
    shape.prompts = space_.chunks;
    return options_.times->seconds(shape) + others;
}

std::optional<base::Duration> ModelledWorker::begin_step(base::TimePoint now, double slowness) {
    CHECK(!runs_step());
    give_memory(now);
    if (!plan_step(now)) { return std::nullopt; }
    begin_now(now, step_takes(look_at_step(), slowness, steps_ + 1));
    if (options_.foresees_quiet_steps && !options_.tells_every_token) { foresee_quiet_steps(slowness); }
    return step_takes_;
}

void ModelledWorker::begin_now(base::TimePoint now, base::Duration takes) {
    ++steps_;
    step_began_ = now;
    step_takes_ = takes;
    busy_seconds_ += seconds_of(takes);
    quiet_until_ = now + takes;
}

base::Duration ModelledWorker::step_takes(double seconds, double slowness, std::uint64_t step) const {
    if (options_.noise > 0) {
        const double unit = static_cast<double>(mixed_bits(options_.noise_seed + step) >> 11u) * 0x1p-53;
        slowness *= 1 + options_.noise * (2 * unit - 1);
    }
    return std::max<base::Duration>(duration_of(seconds * slowness), std::chrono::microseconds(1));
}

void ModelledWorker::stretch_step(base::TimePoint now, double factor) {
    CHECK(runs_step() && quiet_takes_.empty() && step_began_ <= now && now <= step_end());
    const base::Duration left = duration_of(seconds_of(step_end() - now) * factor);
    const base::Duration takes = now - step_began_ + left;
    busy_seconds_ += seconds_of(takes - step_takes_);
    step_takes_ = takes;
    quiet_until_ = step_end();
}

void ModelledWorker::finish_step(base::TimePoint now) {
    CHECK(runs_step() && quiet_next_ == quiet_takes_.size());
    expect_no_quiet_steps();
    std::vector<StepEntry>& step = space_.ended;
    step.clear();
    step.swap(step_);
    for (const StepEntry& entry : step) {
        entry.sequence->step_tokens = 0;
        entry.sequence->step_samples = false;
        if (entry.samples && is_told(*entry.sequence, entry.sequence->tokens + 1)) {
            listener_.fetch(entry.sequence->key);
        }
    }
    if (!below_) { note_step(); }
    for (const StepEntry& entry : step) {
        Sequence& sequence = *entry.sequence;
        if (below_) {
            if (finish_named(entry)) { continue; }
        } else {
            if (sequence.state == SequenceState::ended) { continue; }
            sequence.computed += entry.tokens;
            if (has_news(sequence)) { space_.news.push_back(&sequence); }
        }
        if (!entry.samples) { continue; }
        ++sequence.tokens;
        if (!sequence.schedule && sequence.start.tpot > base::Duration::zero()) {
            sequence.schedule = {now, sequence.generated()};
        }
        const bool is_last = sequence.tokens >= sequence.tokens_last;
        if (!is_told(sequence, sequence.tokens)) { continue; }
        const AttemptKey key = sequence.key;
        const std::uint32_t generated = sequence.generated();
        const std::uint32_t cached = sequence.cached_tokens;
        sequence.told = generated;
        if (is_last) {
            end(sequence);
        } else if (sequence.start.part == Part::prefill) {
            sequence.state = SequenceState::handing_over;
        }
        listener_.on_token(options_.index, key, generated, cached, is_last);
    }
    publish_news();
    for (std::unique_ptr<Sequence>& sequence : leaving_) {
        put_aside(std::move(sequence));
    }
    leaving_.clear();
    if (below_) {  // as StepLoop::settle; the levels' prices ask for what was learned
        note_step();
        learn_steps();
        publish_all();
    }
}

void ModelledWorker::fetch_state() const {
    __builtin_prefetch(&options_);
    __builtin_prefetch(&space_);
    const auto* const end = reinterpret_cast<const char*>(this + 1);
    for (const auto* at = reinterpret_cast<const char*>(&ended_); at < end; at += kCacheLine) {
        __builtin_prefetch(at);
    }
}

void ModelledWorker::fetch_sequences(bool plans_memory) const {
    __builtin_prefetch(step_.data());
    for (const auto& sequence : sequences_) {
        const auto* const at = reinterpret_cast<const char*>(sequence.get());
        __builtin_prefetch(at, 1);
        __builtin_prefetch(at + kCacheLine);
        if (plans_memory) { __builtin_prefetch(at + 2 * kCacheLine); }
    }
}

}  // namespace sim
