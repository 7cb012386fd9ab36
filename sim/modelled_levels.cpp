// Levels below the KV pool of a modelled worker; the contract stands in modelled_levels.h and modelled_worker.h.
#include "sim/modelled_levels.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "sim/chance.h"
#include "sim/virtual_clock.h"

namespace sim {
namespace {

using worker::SequenceState;

constexpr std::uint32_t kUsualBlockTokens = 16;  // of workers; traces may name larger blocks
constexpr double kSlotsMax = 4e9;

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

worker::RequestKey key_of(AttemptKey key) {
    return {base::RequestId{key.request}, base::Epoch{key.epoch}};
}

AttemptKey key_of(const worker::RequestKey& key) {
    return {static_cast<std::uint32_t>(base::raw(key.request)), base::raw(key.epoch)};
}

CopyCosts costs_of(const KvLevel& level, std::uint32_t block_tokens) {
    return {.block_bytes = level.kv_bytes_per_token * block_tokens,
            .load_bytes_per_second = level.load_bytes_per_second,
            .save_bytes_per_second = level.save_bytes_per_second,
            .launch_seconds = level.launch_seconds,
            .gives_up = level.gives_up};
}

/// Of the `block`-th block of a request's tokens, which an answer fills: the same wherever the request goes on, and
/// nobody else's.
base::BlockHash answer_block(std::uint32_t request, std::size_t block) {
    const std::uint64_t one = mixed_bits((std::uint64_t{request} << 32u) | block);
    return {one, mixed_bits(~one)};
}

}  // namespace

LevelUse& LevelUse::operator+=(const LevelUse& other) {
    pool_hit_tokens += other.pool_hit_tokens;
    tokens_computed += other.tokens_computed;
    back_from_pool += other.back_from_pool;
    back_loaded += other.back_loaded;
    back_from_both_ends += other.back_from_both_ends;
    back_computed += other.back_computed;
    for (const auto& [level, counts] : other.copies) {
        copies[level] += counts;
    }
    return *this;
}

ModelledWorker::Below::Below(ModelledWorker& of) : of_(of) {
    const Options& options = of.options_;
    const std::uint32_t block_tokens = options.kv.block_tokens;
    CHECK(options.clock != nullptr && options.metrics != nullptr && !options.foresees_quiet_steps);
    known_.add(of.cache_);
    std::vector<worker::KvTiers::Tier> parts;
    for (std::size_t i = 0; i < options.levels.size(); ++i) {
        const KvLevel& level = options.levels[i];
        const CopyCosts costs = costs_of(level, block_tokens);
        const auto blocks = static_cast<std::uint32_t>(std::min(level.kv_tokens / block_tokens, kSlotsMax));
        slots_.push_back(std::make_unique<kv_cache::KvCache>(
            kv_cache::KvCache::Options{.blocks_total = blocks, .block_tokens = block_tokens}));
        known_.add(*slots_.back());
        movers_.push_back(std::make_unique<ModelledMover>(
            costs, worker::kTierJobsMax, *options.clock,
            [this, i](kv_transfer::TierEvent event) { tiers_->on_event(i, std::move(event)); }));
        worker::KvTiers::Tier part{.name = level.name, .slots = slots_.back().get(), .mover = movers_.back().get()};
        if (level.saves_through) {
            part.save_blocks = std::max(1u, worker::kTierSaveBlocks * kUsualBlockTokens / block_tokens);
        }
        part.block_bytes = static_cast<std::size_t>(costs.block_bytes);
        if (level.knows_rate) {
            part.load_time =
                duration_of(std::max(costs.launch_seconds, costs.block_bytes / costs.load_bytes_per_second));
        }
        parts.push_back(std::move(part));
    }
    worker::TierControl& control = *this;
    tiers_.emplace(std::move(parts), *options.limits, control, std::to_string(options.index), *options.metrics);
}

worker::TierSequence ModelledWorker::Below::seen(const Sequence& sequence) {
    worker::TierSequence seen;
    seen.id = base::SequenceId{sequence.id};
    seen.key = key_of(sequence.key);
    seen.state = sequence.state;
    seen.tokens = sequence.tokens;
    seen.computed_tokens = sequence.computed;
    seen.step_tokens = sequence.step_tokens;
    seen.chain = sequence.chain();
    seen.kv = sequence.kv ? &*sequence.kv : nullptr;
    seen.first_token_due = sequence.start.first_token_due;
    return seen;
}

ModelledWorker::Sequence& ModelledWorker::Below::at(worker::RequestKey key) const {
    Sequence* sequence = of_.find(key_of(key));
    CHECK(sequence != nullptr);
    return *sequence;
}

std::optional<worker::TierSequence> ModelledWorker::Below::find(worker::RequestKey key) const {
    const Sequence* sequence = of_.find(key_of(key));
    return sequence == nullptr ? std::nullopt : std::optional(seen(*sequence));
}

/// As StepLoop::make_loading.
void ModelledWorker::Below::make_loading(worker::RequestKey key) {
    Sequence& sequence = at(key);
    CHECK(sequence.state == SequenceState::running && sequence.step_tokens == 0);
    sequence.state = SequenceState::loading;
}

/// As StepLoop::load_from_end.
void ModelledWorker::Below::load_from_end(worker::RequestKey key, const worker::KvFromEnd& range) {
    Sequence& sequence = at(key);
    CHECK(sequence.kv && sequence.computed + sequence.step_tokens <= range.until && range.until <= range.begin &&
          range.begin <= range.end && range.end <= sequence.tokens);
    sequence.named->from_end = range;
}

/// As StepLoop::loaded.
void ModelledWorker::Below::loaded(worker::RequestKey key, base::Result<std::uint32_t> kv_tokens) {
    Sequence* sequence = of_.find(key_of(key));
    if (sequence == nullptr) { return; }
    auto& from_end = sequence->named->from_end;
    if (sequence->state != SequenceState::loading && !from_end) { return; }
    from_end.reset();
    const std::uint32_t before = sequence->computed;
    if (kv_tokens) {
        CHECK(*kv_tokens < sequence->tokens && sequence->step_tokens == 0);
        sequence->computed = std::max(before, *kv_tokens);
        if (sequence->generated() == sequence->start.generated_tokens) {
            sequence->cached_tokens += sequence->computed - before;
        }
    }
    of_.make_running(*sequence);
}

std::optional<base::Duration> ModelledWorker::Below::predict_prefill(std::uint32_t computed_tokens,
                                                                     std::uint32_t tokens) const {
    of_.learn_steps();
    return of_.forecast_.predict_prefill(computed_tokens, tokens, of_.options_.limits->batch_tokens_max);
}

bool ModelledWorker::Below::post(std::function<void()> task) {
    tasks_.push_back(std::move(task));
    return true;
}

void ModelledWorker::Below::tell_load_price(std::size_t level, double seconds_per_token) {
    of_.board_.set_load_price(level, worker::load_price_ns(seconds_per_token));
}

void ModelledWorker::Below::admitted(Sequence& sequence) {
    Named& named = *sequence.named;
    const std::uint32_t block_tokens = of_.options_.kv.block_tokens;
    const std::uint32_t found = sequence.computed;
    const std::uint32_t loadable = (sequence.tokens - 1) / block_tokens * block_tokens;
    const std::uint32_t there = std::min(loadable, known_.tokens(named.chain, sequence.tokens - 1));
    tiers_->admitted(seen(sequence));
    const bool is_loading = sequence.state == SequenceState::loading;
    use_.pool_hit_tokens += found;
    if (!is_loading && !named.from_end) { use_.tokens_computed += there - std::min(there, found); }
    const std::uint32_t lost = std::exchange(named.lost_tokens, 0);
    if (lost == 0) { return; }
    const bool is_kept = found >= lost / block_tokens * block_tokens;
    ++(is_loading       ? use_.back_loaded
       : named.from_end ? use_.back_from_both_ends
       : is_kept        ? use_.back_from_pool
                        : use_.back_computed);
}

void ModelledWorker::Below::complete(std::vector<worker::MemoryCandidate>& memory) const {
    for (std::size_t i = 0; i < memory.size(); ++i) {
        const Sequence& sequence = *of_.sequences_[i];
        if (!memory[i].may_give_way) { continue; }
        if (sequence.named->from_end) {
            memory[i].may_give_way = false;
            memory[i].blocks_held = memory[i].blocks_to_move = 0;
        } else {
            memory[i].blocks_to_move += tiers_->blocks_to_save(seen(sequence));
        }
    }
}

void ModelledWorker::Below::look_ahead(std::vector<worker::MemoryCandidate>& memory, worker::MemoryCounts& counts) {
    const std::uint32_t percent = of_.options_.limits->kv_ahead_percent;
    if (percent == 0 || !tiers_->may_load_ahead()) { return; }
    const kv_cache::BlockCounts blocks = of_.cache_.counts();
    const std::uint64_t share = std::uint64_t{of_.options_.kv.blocks_total} * percent / 100;
    counts.blocks_ahead_max = static_cast<std::uint32_t>(std::min<std::uint64_t>(share, blocks.free + blocks.cached));
    for (const std::uint32_t index : worker::order_of(worker::MemoryWish::admit, memory)) {
        if (looked_ahead_.size() == worker::kLookedAheadMax) { break; }
        const Sequence& sequence = *of_.sequences_[index];
        const std::uint32_t before = of_.cache_.blocks_available();
        const kv_cache::PrefixMatch& there = looked_ahead_.emplace_back(index, of_.match(sequence)).second;
        memory[index].blocks_kept = before - of_.cache_.blocks_available();
        const std::uint32_t below = tiers_->blocks_ahead(seen(sequence));
        memory[index].blocks_below = below - std::min(below, size32(there.blocks().size()));
        if (memory[index].blocks_below > 0) { break; }
    }
}

void ModelledWorker::Below::load_ahead(const std::vector<worker::MemoryCandidate>& memory,
                                       const std::vector<worker::MemoryAction>& actions) {
    if (!actions.empty() && actions.back().act == worker::MemoryAct::load_ahead) {
        const worker::MemoryAction& ahead = actions.back();
        CHECK(looked_ahead_.back().first == ahead.candidate);
        tiers_->load_ahead(seen(*of_.sequences_[ahead.candidate]), std::move(looked_ahead_.back().second),
                           memory[ahead.candidate].blocks_kept, ahead.blocks);
    }
    while (!looked_ahead_.empty()) {  // the first last: it is evicted last
        looked_ahead_.pop_back();
    }
}

/// As StepReporter::publish_blocks, all parts of a snapshot at once.
void ModelledWorker::Below::report_blocks(worker::ReportBoard::Wish wish) {
    if (wish == worker::ReportBoard::Wish::snapshot) { known_.begin_snapshot(); }
    if (wish == worker::ReportBoard::Wish::nothing) {
        known_.forget_events();
    } else if (wish != worker::ReportBoard::Wish::later) {
        do {
            if (const auto told = known_.take_events()) { of_.board_.add_block_events(told->events, told->below); }
        } while (known_.snapshot_unfinished());
    }
}

std::optional<base::TimePoint> ModelledWorker::Below::next_end() const {
    std::optional<base::TimePoint> next;
    for (const auto& mover : movers_) {
        const auto end = mover->next_end();
        if (end && (!next || *end < *next)) { next = end; }
    }
    return next;
}

void ModelledWorker::Below::end_copies() {
    for (const auto& mover : movers_) {
        mover->deliver();
    }
    const auto tasks = std::exchange(tasks_, {});  // as StepLoop::run_tasks: what they begin is behind what was there
    for (const auto& task : tasks) {
        task();
    }
}

LevelUse ModelledWorker::Below::use() const {
    LevelUse use = use_;
    for (std::size_t level = 0; level < movers_.size(); ++level) {
        use.copies[of_.options_.levels[level].name] += movers_[level]->counts();
    }
    return use;
}

std::optional<std::string> ModelledWorker::Below::violation(bool is_idle) const {
    for (std::size_t level = 0; level < slots_.size(); ++level) {
        const kv_cache::BlockCounts counts = slots_[level]->counts();
        const std::uint32_t in_use = counts.used + counts.pinned + counts.stranded;
        const std::string name = "level " + of_.options_.levels[level].name;
        if (in_use + counts.free + counts.cached != slots_[level]->options().blocks_total) {
            return name + ": slots are lost";
        }
        if (in_use > 0 && is_idle && !tiers_->busy()) { return name + ": slots are in use and nothing is copied"; }
    }
    if (!tiers_->busy() && tiers_->blocks_returning() > 0) { return "blocks are to come back and nothing is copied"; }
    if (is_idle && tiers_->busy() && !next_end()) { return "a copy is under way that will not end"; }
    return std::nullopt;
}

ModelledWorker::~ModelledWorker() = default;

std::optional<base::TimePoint> ModelledWorker::next_copy_end() const {
    return below_ ? below_->next_end() : std::nullopt;
}

void ModelledWorker::end_copies() {
    if (below_) { below_->end_copies(); }
}

LevelUse ModelledWorker::level_use() const {
    return below_ ? below_->use() : LevelUse{};
}

std::optional<std::string> ModelledWorker::level_violation() const {
    if (!below_) { return std::nullopt; }
    return below_->violation(sequences_.empty() && leaving_.empty());
}

/// What pool and levels hold of a newcomer's tokens.
std::uint32_t ModelledWorker::tokens_known(const Sequence& sequence) const {
    if (below_) { return below_->known().tokens(sequence.chain(), sequence.tokens - 1); }
    return cache_.cached_tokens(sequence.start.chain, sequence.tokens - 1);
}

/// As StepLoop::extend_chain; without levels nobody asks for more than the prompt's names.
void ModelledWorker::name_blocks(Sequence& sequence) const {
    if (!below_) { return; }
    if (!sequence.named) {
        sequence.named = std::make_unique<Named>();
        const std::span<const base::BlockHash> prompt = sequence.start.chain;
        sequence.named->chain.assign(prompt.begin(), prompt.end());
    }
    std::vector<base::BlockHash>& chain = sequence.named->chain;
    while (chain.size() < sequence.tokens / options_.kv.block_tokens) {
        chain.push_back(answer_block(sequence.key.request, chain.size()));
    }
}

/// As StepLoop::publish.
void ModelledWorker::publish_named(Sequence& sequence) {
    const std::uint32_t full = sequence.computed / options_.kv.block_tokens;
    if (full <= sequence.published_blocks) { return; }
    name_blocks(sequence);
    sequence.kv->publish(sequence.chain().first(full));
    sequence.published_blocks = full;
    below_->tiers().published(Below::seen(sequence));
}

/// As StepLoop::publish_all.
void ModelledWorker::publish_all() {
    for (const auto& sequence : sequences_) {
        if (sequence->kv) { publish_named(*sequence); }
    }
}

/// As StepLoop::leave.
void ModelledWorker::leave(Sequence& sequence, bool for_good) {
    if (!sequence.kv) { return; }
    publish_named(sequence);
    below_->tiers().leaving(Below::seen(sequence), for_good);
    if (!for_good) { sequence.named->lost_tokens = sequence.computed; }
}

/// The beginning of StepLoop::end.
void ModelledWorker::close_named(Sequence& sequence) {
    below_->tiers().closing(Below::seen(sequence));
    if (sequence.step_tokens == 0) {
        leave(sequence, true);
    } else if (sequence.kv) {
        publish_named(sequence);  // it leaves with the step
    }
}

/// What a step has computed of a sequence, as StepLoop::finish_step and apply_result. True: it has ended meanwhile.
bool ModelledWorker::finish_named(const StepEntry& entry) {
    Sequence& sequence = *entry.sequence;
    sequence.computed += entry.tokens;
    if (sequence.state == SequenceState::ended) {
        leave(sequence, true);
        return true;
    }
    const auto& from_end = sequence.named->from_end;
    if (from_end && sequence.computed >= from_end->until) { below_->tiers().front_computed(Below::seen(sequence)); }
    return false;
}

}  // namespace sim
