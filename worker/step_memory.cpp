// Acts on the plan of KV memory (plan_memory.h); the contract stands in step_loop.h and role_part.h.
#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "worker/shared_prefix.h"
#include "worker/step_loop.h"

namespace worker {
namespace {

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

/// Tokens that a newcomer's KV memory must hold: all it has, or what it has asked room for and the token after.
std::uint32_t tokens_wanted(const Sequence& sequence) {
    return sequence.room ? sequence.room->kv_tokens + 1 : size32(sequence.tokens.size());
}

bool is_newcomer(const Sequence& sequence) {
    return sequence.state == SequenceState::waiting || sequence.room.has_value();
}

}  // namespace

std::vector<MemoryCandidate> StepLoop::memory_candidates() const {
    const base::TimePoint now = clock_.now();
    std::vector<MemoryCandidate> candidates;
    candidates.reserve(sequences_.size());
    for (const auto& sequence : sequences_) {
        MemoryCandidate candidate;
        candidate.holds_kv = sequence->kv.has_value();
        candidate.may_give_way = sequence->state == SequenceState::running && !sequence->from_end &&
                                 part_of(*sequence)->may_preempt(*sequence);
        candidate.priority = sequence->request.priority;
        candidate.age = memory_age(sequence->waited_for_memory(now), options_.limits.priority_wait);
        candidate.tenant = sequence->request.tenant;
        candidate.tenant_tokens = sequence->request.tenant_tokens;
        if (const auto due = sequence->next_due(now)) {
            candidate.due_seconds = std::chrono::duration<double>(*due - now).count();
            if (sequence->schedule) { candidate.tokens_ahead = tokens_ahead(*due, sequence->request.slo.tpot, now); }
        }
        if (candidate.may_give_way && sequence->kv) {
            candidate.blocks_held = size32(sequence->kv->blocks().size());
            candidate.blocks_to_move = candidate.blocks_held;
            for (const RolePart* helper : helpers_) {
                candidate.blocks_to_move += helper->blocks_to_save(*sequence);
            }
        }
        candidates.push_back(candidate);
    }
    return candidates;
}

MemoryCounts StepLoop::memory_counts() const {
    MemoryCounts counts{cache_.blocks_available(), cache_.counts().stranded, running_.has_value()};
    for (const RolePart* helper : helpers_) {
        counts.blocks_returning += helper->blocks_returning();
    }
    return counts;
}

kv_cache::PrefixMatch StepLoop::match_newcomer(const Sequence& sequence) {
    if (sequence.room) { return cache_.match(sequence.chain, sequence.room->kv_tokens); }
    if (sequence.wants_prompt_scores()) { return {}; }  // every token of the prompt has to be computed
    return cache_.match(sequence.chain, tokens_wanted(sequence) - 1);
}

/// What its memory takes from the pool: blocks of its prefix that others use cost nothing.
std::uint32_t StepLoop::blocks_wanted(Sequence& sequence) {
    const std::uint32_t before = cache_.blocks_available();
    const kv_cache::PrefixMatch match = match_newcomer(sequence);
    const std::uint32_t revived = before - cache_.blocks_available();
    if (!sequence.room) { look_up_prefix(sequence); }
    return cache_.blocks_for(tokens_wanted(sequence)) - size32(match.blocks().size()) + revived;
}

/// Tokens of what this newcomer begins with that another one is computing; 0: it need not wait for any.
std::uint32_t StepLoop::awaited_prefix(const Sequence& newcomer) const {
    if (newcomer.room || newcomer.chain.empty() || newcomer.wants_prompt_scores()) { return 0; }
    const base::TimePoint now = clock_.now();
    const auto due_seconds = [now](const Sequence& sequence) {
        const auto due = sequence.schedule ? sequence.next_due(now) : sequence.request.slo.first_token;
        return due ? std::chrono::duration<double>(*due - now).count() : kNever;
    };
    // Of what clients sent: an answer begins like another one only by chance.
    const auto prompt_chain = [this](const Sequence& sequence) {
        const std::size_t blocks = sequence.prompt_tokens / cache_.options().block_tokens;
        return std::span(sequence.chain).first(std::min(sequence.chain.size(), blocks));
    };
    const SharingPrompt own{prompt_chain(newcomer), size32(newcomer.tokens.size()), 0, due_seconds(newcomer)};
    if (!may_wait_for_prefix(now - newcomer.accepted, own.due_seconds, options_.limits.prompt_wait)) { return 0; }
    std::uint32_t tokens = 0;
    for (const auto& other : sequences_) {
        const bool computes = other->state == SequenceState::running || other->state == SequenceState::loading;
        if (!computes || other->encodes() || other->tokens_left() <= 1 || other->awaits_grammar()) { continue; }
        if (other->kv->is_private()) { continue; }
        const SharingPrompt its{prompt_chain(*other), size32(other->tokens.size()), other->computed_tokens,
                                due_seconds(*other)};
        tokens = std::max(
            tokens, worker::awaited_prefix(own, its, cache_.options().block_tokens, options_.limits.batch_tokens_max));
    }
    return tokens;
}

/// Who would begin to load KV for those who wait. Null: nobody, or it is off.
RolePart* StepLoop::loads_ahead() const {
    if (options_.limits.kv_ahead_percent == 0) { return nullptr; }
    const auto at =
        std::find_if(helpers_.begin(), helpers_.end(), [](const RolePart* h) { return h->may_load_ahead(); });
    return at == helpers_.end() ? nullptr : *at;
}

/// Says of the first who wait what the pool has of them, and what could be loaded; up to the first that has something
/// to load, since nothing is loaded for others before. What the pool has of them is not evicted while the result lives.
StepLoop::LookedAhead StepLoop::look_ahead(const RolePart& helper, std::vector<MemoryCandidate>& candidates) {
    LookedAhead looked;
    for (const std::uint32_t index : order_of(MemoryWish::admit, candidates)) {
        if (looked.size() == kLookedAheadMax) { break; }
        const Sequence& sequence = *sequences_[index];
        const std::uint32_t before = cache_.blocks_available();
        const kv_cache::PrefixMatch& there = looked.emplace_back(index, match_newcomer(sequence)).second;
        candidates[index].blocks_kept = before - cache_.blocks_available();
        const std::uint32_t below = helper.blocks_ahead(sequence);
        candidates[index].blocks_below = below - std::min(below, size32(there.blocks().size()));
        if (candidates[index].blocks_below > 0) { break; }
    }
    return looked;
}

void StepLoop::give_memory() {
    others_give_way_ = false;
    bool any = true;
    while (any && std::any_of(sequences_.begin(), sequences_.end(), [](const auto& s) { return is_newcomer(*s); })) {
        std::vector<MemoryCandidate> candidates = memory_candidates();
        for (std::size_t i = 0; i < candidates.size(); ++i) {
            Sequence& sequence = *sequences_[i];
            if (!is_newcomer(sequence)) { continue; }
            sequence.awaited_tokens = awaited_prefix(sequence);
            if (sequence.awaited_tokens > 0) { continue; }
            candidates[i].wish = sequence.room ? MemoryWish::grant : MemoryWish::admit;
            candidates[i].turn = sequence.room ? sequence.room->turn : base::raw(sequence.id);
            candidates[i].blocks = cache_.blocks_for(tokens_wanted(sequence));
        }
        for (const MemoryWish wish : {MemoryWish::grant, MemoryWish::admit}) {
            if (const auto first = first_of(wish, candidates)) {
                candidates[*first].blocks = blocks_wanted(*sequences_[*first]);
            }
        }
        MemoryCounts counts = memory_counts();
        LookedAhead looked;
        RolePart* const loader = loads_ahead();
        if (loader != nullptr) {
            const kv_cache::BlockCounts blocks = cache_.counts();
            const std::uint64_t share =
                std::uint64_t{cache_.options().blocks_total} * options_.limits.kv_ahead_percent / 100;
            // Not the reserved tails of those who run: they would grow in pieces.
            counts.blocks_ahead_max =
                static_cast<std::uint32_t>(std::min<std::uint64_t>(share, blocks.free + blocks.cached));
            looked = look_ahead(*loader, candidates);
        }
        const std::vector<MemoryAction> actions = plan_memory(candidates, counts);
        if (!actions.empty() && actions.back().act == MemoryAct::load_ahead) {
            const MemoryAction& ahead = actions.back();
            CHECK(looked.back().first == ahead.candidate, ahead.candidate << " was not looked at last");
            kv_cache::PrefixMatch there = std::move(looked.back().second);
            loader->load_ahead(*sequences_[ahead.candidate], std::move(there), candidates[ahead.candidate].blocks_kept,
                               ahead.blocks);
        }
        while (!looked.empty()) {  // the first last: it is evicted last
            looked.pop_back();
        }
        any = false;
        for (const MemoryAction& action : actions) {
            Sequence& sequence = *sequences_[action.candidate];
            if (action.act == MemoryAct::load_ahead) { continue; }
            if (action.act == MemoryAct::wait || action.act == MemoryAct::wait_for_step) {
                if (action.act == MemoryAct::wait_for_step) {
                    others_give_way_ = true;
                    next_.reset();
                }
                if (sequence.room) { part_of(sequence)->room_delayed(sequence); }
                continue;
            }
            any = true;
            if (action.act == MemoryAct::preempt) {
                reporter_.note_preemption(StepReporter::Preemption::priority);
                make_waiting(sequence);
                continue;
            }
            if (action.act == MemoryAct::admit) {  // one that was admitted just now may bring what it begins with
                sequence.awaited_tokens = awaited_prefix(sequence);
                if (sequence.awaited_tokens > 0) { continue; }
            }
            open_kv(sequence);
            if (action.act == MemoryAct::grant) {
                sequence.room.reset();
                if (sequence.trace.is_on()) { sequence.trace.wait_for(SequenceTrace::Wait::kv, clock_.now()); }
                part_of(sequence)->room_granted(sequence);
            } else {
                reporter_.note_prefix(tokens_wanted(sequence), sequence.computed_tokens);
                if (!sequence.output_started) { sequence.cached_tokens = sequence.computed_tokens; }
                make_running(sequence);
                part_of(sequence)->admitted(sequence);
                for (RolePart* helper : helpers_) {
                    helper->admitted(sequence);
                }
            }
        }
    }
}

void StepLoop::open_kv(Sequence& sequence) {
    kv_cache::PrefixMatch match = match_newcomer(sequence);
    const std::uint32_t hit = match.tokens();
    auto opened = cache_.open(std::move(match), tokens_wanted(sequence), sequence.request.session);
    CHECK(opened, "the plan of KV memory counted wrong: " << opened.error().message);
    sequence.kv = std::move(*opened);
    sequence.waited = sequence.waited_for_memory(clock_.now());
    sequence.waits_since.reset();
    sequence.computed_tokens = hit;
    sequence.published_blocks = hit / cache_.options().block_tokens;
}

/// Memory for what these entries write; whoever gives way, fails or waits for a copy is taken out. False when there is
/// no step then: while one runs, and somebody would have to give way; or all wait.
bool StepLoop::grow(std::vector<StepEntry>& entries) {
    const auto blocks_more = [this](const StepEntry& entry) {
        const std::uint32_t blocks = cache_.blocks_for(entry.sequence->computed_after_step() + entry.tokens);
        return blocks - std::min(blocks, size32(entry.sequence->kv->blocks().size()));
    };
    const auto index_of = [this](const Sequence& sequence) {  // sequences_ is in ascending order of ids
        const auto at = std::lower_bound(sequences_.begin(), sequences_.end(), sequence.id,
                                         [](const auto& s, base::SequenceId id) { return s->id < id; });
        return static_cast<std::size_t>(at - sequences_.begin());
    };
    bool waits = false;
    while (true) {
        std::vector<MemoryCandidate> candidates;
        for (std::size_t i = 0; i < entries.size(); ++i) {
            const std::uint32_t blocks = blocks_more(entries[i]);
            if (blocks == 0) { continue; }
            if (candidates.empty()) { candidates = memory_candidates(); }
            MemoryCandidate& candidate = candidates[index_of(*entries[i].sequence)];
            candidate.wish = MemoryWish::grow;
            candidate.blocks = blocks;
            candidate.turn = i;
        }
        if (candidates.empty()) { return !(waits && entries.empty()); }
        for (const MemoryAction& action : plan_memory(candidates, memory_counts())) {
            Sequence& sequence = *sequences_[action.candidate];
            const auto take_out = [&] {
                std::erase_if(entries, [&](const StepEntry& e) { return e.sequence == &sequence; });
            };
            if (action.act == MemoryAct::wait) {
                if (running_) { return false; }
                take_out();  // this step goes without it
                waits = true;
            } else if (action.act == MemoryAct::grow) {
                const std::uint32_t blocks = size32(sequence.kv->blocks().size()) + candidates[action.candidate].blocks;
                CHECK(sequence.kv->reserve(blocks * cache_.options().block_tokens),
                      "the plan of KV memory counted wrong: " << blocks << " blocks for one sequence");
            } else if (action.act == MemoryAct::preempt) {
                take_out();
                reporter_.note_preemption(StepReporter::Preemption::growth);
                make_waiting(sequence);
            } else {
                take_out();
                finish(sequence, Finish::error,
                       base::Error{base::ErrorCode::resource_exhausted, "the KV pool is too small for this sequence"});
            }
        }
    }
}

void StepLoop::make_waiting(Sequence& sequence) {
    CHECK(sequence.step_tokens == 0, "sequence " << base::raw(sequence.id) << " is in the running step");
    leave(sequence, false);
    sequence.kv.reset();
    sequence.room.reset();
    sequence.from_end.reset();
    next_.reset();
    freed_ = true;
    extend_chain(sequence);  // what it computed may be found again when its turn comes
    sequence.computed_tokens = 0;
    sequence.forced_tokens = 0;  // all of it is computed as a prompt is
    sequence.published_blocks = 0;
    sequence.prompt_scores.clear();
    if (sequence.trace.is_on()) {
        const bool loses_memory = sequence.state == SequenceState::running;
        const auto wait = loses_memory ? SequenceTrace::Wait::preempted : SequenceTrace::Wait::memory;
        sequence.trace.wait_for(wait, clock_.now());
    }
    sequence.state = SequenceState::waiting;
    if (!sequence.waits_since) { sequence.waits_since = clock_.now(); }
    look_up_prefix(sequence);
}

/// For the load that is reported: O(blocks of the prompt), once for each time that a sequence begins to wait. The first
/// one that waits is looked up again whenever memory is given.
void StepLoop::look_up_prefix(Sequence& sequence) {
    sequence.cached_believed = sequence.wants_prompt_scores() ? 0
                                                              : reporter_.known_blocks().tokens(
                                                                    sequence.chain, size32(sequence.tokens.size()) - 1);
}

void StepLoop::want_room(Sequence& sequence, std::uint32_t kv_tokens) {
    CHECK(!sequence.kv && sequence.state == SequenceState::awaiting_kv);
    sequence.room = RoomWish{kv_tokens, next_room_turn_++};
    sequence.waits_since = clock_.now();
}

void StepLoop::make_loading(Sequence& sequence) {
    CHECK(sequence.state == SequenceState::running && sequence.step_tokens == 0);
    sequence.state = SequenceState::loading;
    if (sequence.trace.is_on()) { sequence.trace.wait_for(SequenceTrace::Wait::kv, clock_.now()); }
    next_.reset();
}

void StepLoop::load_from_end(Sequence& sequence, const KvFromEnd& range) {
    CHECK(sequence.kv && sequence.computed_after_step() <= range.until && range.until <= range.begin &&
              range.begin <= range.end && range.end <= sequence.tokens.size(),
          "tokens " << range.until << ", " << range.begin << " to " << range.end << " of " << sequence.tokens.size()
                    << ", computed are " << sequence.computed_after_step());
    sequence.from_end = range;
    next_.reset();
}

void StepLoop::loaded(RequestKey key, base::Result<std::uint32_t> kv_tokens) {
    Sequence* sequence = find(key);
    if (sequence == nullptr || (sequence->state != SequenceState::loading && !sequence->from_end)) { return; }
    sequence->from_end.reset();
    const std::uint32_t before = sequence->computed_tokens;
    if (kv_tokens) {
        CHECK(*kv_tokens < sequence->tokens.size() && sequence->step_tokens == 0,
              *kv_tokens << " tokens loaded of " << sequence->tokens.size());
        sequence->computed_tokens = std::max(before, *kv_tokens);
        if (!sequence->output_started) { sequence->cached_tokens += sequence->computed_tokens - before; }
    }
    make_running(*sequence);
    part_of(*sequence)->loaded(*sequence, before);
}

}  // namespace worker
