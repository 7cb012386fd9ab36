#include "worker/kv_tiers.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"

namespace worker {

using kv_transfer::TierEvent;
using kv_transfer::TierJob;

namespace {

/// Of a save, with the level at once: while one part is copied the next waits there, and not the level for the step
/// thread.
constexpr std::uint32_t kPartsAtOnce = 2;

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

/// Of a load of so many blocks.
const char* outcome_of(const TierEvent& event, std::uint32_t wanted) {
    if (event.given_up) { return "given_up"; }
    if (!event.error && event.blocks_done == wanted) { return "complete"; }
    return event.blocks_done > 0 ? "partial" : "failed";
}

}  // namespace

struct KvTiers::Instruments {
    explicit Instruments(base::Metrics& metrics)
        : ahead_loads(metrics.counter("sluice_kv_ahead_loads_total",
                                      "Loads from a tier into the pool for a sequence that waited for memory")),
          ahead_used(ahead_bytes(metrics, "used")),
          ahead_wasted(ahead_bytes(metrics, "wasted")) {}
    static prometheus::Counter& ahead_bytes(base::Metrics& metrics, const std::string& outcome) {
        return metrics.counter(
            "sluice_kv_ahead_bytes_total",
            "Bytes of KV that were loaded before their sequence had memory, by whether it found them "
            "when it had",
            {{"outcome", outcome}});
    }
    struct OfTier {
        OfTier(base::Metrics& metrics, const std::string& tier, const std::string& worker)
            : used(blocks(metrics, tier, worker, "used")),
              cached(blocks(metrics, tier, worker, "cached")),
              free(blocks(metrics, tier, worker, "free")),
              bytes_out(bytes(metrics, tier, "out")),
              bytes_in(bytes(metrics, tier, "in")),
              stored_out(stored(metrics, tier, "out")),
              stored_in(stored(metrics, tier, "in")),
              copies_out(copies(metrics, tier, "out")),
              copies_in(copies(metrics, tier, "in")),
              reused(metrics.counter("sluice_kv_tier_reused_bytes_total",
                                     "Bytes of KV that did not go to a tier with their sequence, since it has them",
                                     {{"tier", tier}})),
              returned(metrics.histogram("sluice_kv_tier_return_seconds",
                                         "From when a sequence gave up its KV memory until a tier had copied what was "
                                         "not there yet, and the memory was anybody's",
                                         base::ttft_edges(), {{"tier", tier}})),
              duration(metrics.histogram("sluice_kv_tier_load_seconds",
                                         "From the admission of a prompt until its KV was there from the tiers below "
                                         "the pool",
                                         base::ttft_edges())) {
            for (const char* outcome : {"complete", "failed", "dropped", "slower"}) {
                saves[outcome] = &metrics.counter("sluice_kv_tier_saves_total",
                                                  "Copies of KV to a tier below the pool, by how they ended",
                                                  {{"tier", tier}, {"outcome", outcome}});
            }
            for (const char* outcome : {"complete", "partial", "failed", "busy", "slower", "given_up", "both_ends"}) {
                loads[outcome] = &metrics.counter("sluice_kv_tier_loads_total",
                                                  "Prompts of which a tier below the pool had more than the pool, by "
                                                  "what came of it",
                                                  {{"tier", tier}, {"outcome", outcome}});
            }
        }
        static prometheus::Gauge& blocks(base::Metrics& metrics, const std::string& tier, const std::string& worker,
                                         const std::string& state) {
            return metrics.gauge("sluice_kv_tier_blocks", "Slots of a tier below the KV pool, by state",
                                 {{"tier", tier}, {"worker", worker}, {"state", state}});
        }
        static prometheus::Counter& stored(base::Metrics& metrics, const std::string& tier, const std::string& way) {
            return metrics.counter("sluice_kv_tier_stored_bytes_total",
                                   "The same as it lies in the tier: fewer bytes where KV is coded there",
                                   {{"tier", tier}, {"direction", way}});
        }
        static prometheus::Counter& bytes(base::Metrics& metrics, const std::string& tier, const std::string& way) {
            return metrics.counter("sluice_kv_tier_bytes_total", "Bytes of KV moved to (out) and from (in) a tier",
                                   {{"tier", tier}, {"direction", way}});
        }
        static prometheus::Counter& copies(base::Metrics& metrics, const std::string& tier, const std::string& way) {
            return metrics.counter("sluice_kv_tier_copies_total",
                                   "Contiguous copies in which KV was moved to (out) and from (in) a tier",
                                   {{"tier", tier}, {"direction", way}});
        }

        prometheus::Gauge& used;
        prometheus::Gauge& cached;
        prometheus::Gauge& free;
        prometheus::Counter& bytes_out;
        prometheus::Counter& bytes_in;
        prometheus::Counter& stored_out;
        prometheus::Counter& stored_in;
        prometheus::Counter& copies_out;
        prometheus::Counter& copies_in;
        prometheus::Counter& reused;
        prometheus::Histogram& returned;
        prometheus::Histogram& duration;
        std::map<std::string, prometheus::Counter*, std::less<>> saves;
        std::map<std::string, prometheus::Counter*, std::less<>> loads;
    };
    std::vector<OfTier> tiers;
    prometheus::Counter& ahead_loads;
    prometheus::Counter& ahead_used;
    prometheus::Counter& ahead_wasted;
};

KvTiers::KvTiers(std::vector<Tier> tiers, const WorkerOptions& limits, TierControl& control, const std::string& worker,
                 base::Metrics& metrics)
    : tiers_(std::move(tiers)),
      both_ends_(limits.kv_both_ends),
      control_(control),
      savings_(tiers_.size()),
      load_seconds_per_block_(tiers_.size()),
      is_expected_(tiers_.size()),
      left_out_(tiers_.size()),
      unsaved_(tiers_.size()),
      instruments_(std::make_unique<Instruments>(metrics)) {
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
        CHECK(tiers_[i].slots->options().block_tokens == control_.cache().options().block_tokens);
        instruments_->tiers.emplace_back(metrics, tiers_[i].name, worker);
        if (tiers_[i].load_time) { expect(i, *tiers_[i].load_time); }
        show(i);
    }
}

KvTiers::~KvTiers() = default;

void KvTiers::on_event(std::size_t tier, TierEvent event) {
    if (!control_.post([this, tier, event = std::move(event)] { apply(tier, event); })) {
        spdlog::debug("a copy of the tier {} ended after the worker", tiers_[tier].name);
    }
}

void KvTiers::apply(std::size_t tier, const TierEvent& event) {
    auto node = jobs_.extract(event.id);
    CHECK(!node.empty(), "job " << event.id);
    Job job = std::move(node.mapped());
    Instruments::OfTier& figures = instruments_->tiers[tier];
    (job.save ? figures.stored_out : figures.stored_in).Increment(static_cast<double>(event.moved));
    if (event.error && event.error->code != base::ErrorCode::cancelled) {
        if (const auto left_out =
                base::LogLimit::shared().admit("kv tier " + tiers_[tier].name, control_.clock().now())) {
            spdlog::warn("KV tier {}: {}; what it does not have is computed ({} lines like this were left out)",
                         tiers_[tier].name, base::log_safe(event.error->message), *left_out);
        }
    }
    if (job.save) { saved(tier, *job.save, event); }
    if (job.load) { loaded(tier, std::move(*job.load), event); }
    if (job.run) { run_loaded(tier, std::move(*job.run), event); }
    show(tier);
}

void KvTiers::published(const TierSequence& sequence) {
    for (std::size_t tier = 0; tier < tiers_.size(); ++tier) {
        if (tiers_[tier].save_blocks == 0) { continue; }
        const auto known = savings_[tier].find(sequence.id);
        const std::uint32_t begun = known == savings_[tier].end() ? 0 : known->second.blocks;
        const bool runs = known != savings_[tier].end() && known->second.current;
        if (!runs && sequence.kv->blocks_published() >= begun + tiers_[tier].save_blocks) { save(tier, sequence); }
    }
}

void KvTiers::leaving(const TierSequence& sequence, bool for_good) {
    for (std::size_t tier = 0; tier < tiers_.size(); ++tier) {
        // Who gives way comes back soon: one copy is enough.
        if (for_good || tier == 0) { save(tier, sequence); }
        const auto known = savings_[tier].find(sequence.id);
        if (known == savings_[tier].end()) { continue; }
        known->second.has_left = true;
        known->second.left_at = control_.clock().now();
        if (!known->second.current) { savings_[tier].erase(known); }
    }
}

/// Copies out what the tier does not have of the sequence; behind the copy of it that runs, if there is one.
void KvTiers::save(std::size_t tier, const TierSequence& sequence) {
    const std::uint32_t blocks = std::min(sequence.kv->blocks_published(), size32(sequence.chain.size()));
    Saving& saving = savings_[tier][sequence.id];
    saving.has_left = false;
    const std::span<const base::BlockHash> chain = sequence.chain.first(blocks);
    const bool runs = saving.current.has_value();
    const bool is_begun = runs || saving.blocks > 0;
    const std::uint32_t first = runs ? saving.blocks : blocks_there(tier, chain);
    saving.blocks = std::max(saving.blocks, blocks);
    if (!is_begun) {
        instruments_->tiers[tier].reused.Increment(static_cast<double>(first * tiers_[tier].block_bytes));
    }
    if (first >= blocks) { return; }
    if (!is_worth_saving(tier, first, blocks)) {
        instruments_->tiers[tier].saves.at("slower")->Increment();
        return;
    }
    Save save;
    save.chain.assign(chain.begin(), chain.end());
    save.first = first;
    save.source = control_.cache().hold(*sequence.kv, first, blocks - first);
    if (runs) {
        saving.next = std::move(save);
    } else {
        begin(tier, sequence.id, std::move(save));
    }
}

std::uint32_t KvTiers::blocks_there(std::size_t tier, std::span<const base::BlockHash> chain) const {
    const kv_cache::KvCache& slots = *tiers_[tier].slots;
    const std::uint32_t block_tokens = slots.options().block_tokens;
    return slots.cached_tokens(chain, size32(chain.size()) * block_tokens) / block_tokens;
}

/// Nothing of it goes out when the tier has lost what comes before it, or all of it is there.
void KvTiers::begin(std::size_t tier, base::SequenceId sequence, Save save) {
    kv_cache::KvCache& slots = *tiers_[tier].slots;
    const std::uint32_t block_tokens = slots.options().block_tokens;
    kv_cache::PrefixMatch there = slots.match(save.chain, size32(save.chain.size()) * block_tokens);
    save.end = save.done = size32(there.blocks().size());
    if (save.end == save.chain.size()) { return; }
    if (save.end >= save.first) {
        // In one piece, where there is room for all of it; else with its first block only: copy_part() reserves, and
        // says why not.
        auto copy = slots.open(std::move(there), size32(save.chain.size()) * block_tokens);
        if (!copy) { copy = slots.open(std::move(there), (save.end + 1) * block_tokens); }
        if (copy) {
            save.copy = std::move(*copy);
            copy_next(tier, sequence, save);
            if (save.under_way > 0) { savings_[tier][sequence].current = std::move(save); }
            return;
        }
    }
    instruments_->tiers[tier].saves.at("dropped")->Increment();
}

/// Begins parts, as many as the level may have to do.
void KvTiers::copy_next(std::size_t tier, base::SequenceId sequence, Save& save) {
    while (!save.is_over && save.end < save.chain.size() && save.under_way < kPartsAtOnce) {
        if (copy_part(tier, sequence, save)) { continue; }
        save.is_over = true;
        instruments_->tiers[tier].saves.at("dropped")->Increment();
    }
}

bool KvTiers::copy_part(std::size_t tier, base::SequenceId sequence, Save& save) {
    const SavePart part{sequence, save.end,
                        std::min(size32(save.chain.size()), save.end + kv_transfer::kTierSaveBlocksMax)};
    if (!save.copy.reserve(part.end * tiers_[tier].slots->options().block_tokens)) { return false; }
    TierJob job;
    job.id = next_job_++;
    job.kind = TierJob::Kind::save;
    job.pieces = kv_transfer::tier_pieces(save.source.blocks().subspan(part.begin - save.first, part.end - part.begin),
                                          save.copy.blocks().subspan(part.begin, part.end - part.begin));
    job.hashes.assign(save.chain.begin() + part.begin, save.chain.begin() + part.end);
    if (part.begin > 0) { job.parent = save.chain[part.begin - 1]; }
    const std::uint64_t id = job.id;
    const auto copies = static_cast<double>(job.pieces.size());
    if (!tiers_[tier].mover->submit(std::move(job))) { return false; }
    instruments_->tiers[tier].copies_out.Increment(copies);
    Job taken;
    taken.save = part;
    jobs_.emplace(id, std::move(taken));
    save.end = part.end;
    ++save.under_way;
    return true;
}

void KvTiers::saved(std::size_t tier, const SavePart& part, const TierEvent& event) {
    Instruments::OfTier& figures = instruments_->tiers[tier];
    figures.saves.at(event.error ? "failed" : "complete")->Increment();
    const auto known = savings_[tier].find(part.sequence);
    CHECK(known != savings_[tier].end() && known->second.current, "sequence " << base::raw(part.sequence));
    Saving& saving = known->second;
    Save& save = *saving.current;
    --save.under_way;
    if (!event.error) {
        figures.bytes_out.Increment(static_cast<double>(event.blocks_done * tiers_[tier].block_bytes));
        if (part.begin == save.done) {  // else one before it has failed
            save.done = part.end;
            save.copy.publish(std::span(save.chain).first(save.done));
        }
        // Or prefixes were dropped meanwhile.
        save.is_over = save.is_over || save.copy.blocks_published() != save.done;
    }
    save.is_over = save.is_over || event.error.has_value();
    copy_next(tier, part.sequence, save);
    if (save.under_way > 0) { return; }
    saving.current.reset();
    if (auto next = std::exchange(saving.next, std::nullopt)) { begin(tier, part.sequence, std::move(*next)); }
    if (!saving.has_left || saving.current) { return; }
    figures.returned.Observe(seconds_of(control_.clock().now() - saving.left_at));
    savings_[tier].erase(known);
}

/// Names of the blocks that it may have from elsewhere: of a prompt at least one token has to be computed.
std::span<const base::BlockHash> KvTiers::loadable(const TierSequence& sequence, std::uint32_t block_tokens) {
    const std::uint32_t end = std::min(size32(sequence.chain.size()), (sequence.tokens - 1) / block_tokens);
    return sequence.chain.first(end);
}

void KvTiers::admitted(const TierSequence& sequence) {
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const std::uint32_t first = sequence.computed_tokens / block_tokens;
    settle_ahead(sequence.id, first);
    if (sequence.state != SequenceState::running || sequence.must_be_computed) { return; }
    const std::span<const base::BlockHash> chain = loadable(sequence, block_tokens);
    std::vector<std::uint32_t> there;  // by tier
    for (std::size_t tier = 0; tier < tiers_.size(); ++tier) {
        there.push_back(blocks_there(tier, chain));
    }
    const std::uint32_t most = there.empty() ? 0 : *std::max_element(there.begin(), there.end());
    // Another worker has more: that is asked (KvFetcher).
    if (most <= first || sequence.source_tokens / block_tokens > most) { return; }

    const Way way = way_for(sequence, first, there);
    if (way == Way::both && begin_back(sequence, first, there)) {
        const auto farthest = std::find(there.begin(), there.end(), most) - there.begin();
        instruments_->tiers[static_cast<std::size_t>(farthest)].loads.at("both_ends")->Increment();
        return;
    }
    Loading loading{.sequence = sequence.id, .first = first, .end = first, .began = control_.clock().now()};
    for (std::size_t tier = 0; tier < tiers_.size(); ++tier) {
        if (there[tier] <= loading.end) { continue; }
        if (way != Way::load && !is_worth_loading(tier, loading.end, there[tier])) {
            instruments_->tiers[tier].loads.at("slower")->Increment();
        } else if (begin_load(tier, sequence, loading.end, there[tier])) {
            loading.end = there[tier];
            ++loading.parts;
        } else {
            instruments_->tiers[tier].loads.at("busy")->Increment();
        }
    }
    if (loading.parts == 0) { return; }
    loadings_.emplace(sequence.id, std::move(loading));
    control_.make_loading(sequence.key);
}

bool KvTiers::begin_load(std::size_t tier, const TierSequence& sequence, std::uint32_t first, std::uint32_t end,
                         bool is_piece) {
    kv_cache::KvCache& slots = *tiers_[tier].slots;
    Load load;
    load.request = sequence.key;
    load.sequence = sequence.id;
    load.first = first;
    load.is_piece = is_piece;
    load.source = slots.match(sequence.chain.first(end), end * slots.options().block_tokens);
    CHECK(load.source.blocks().size() == end);
    load.target = control_.cache().hold(*sequence.kv, first, end - first);
    TierJob job;
    job.id = next_job_++;
    job.kind = TierJob::Kind::load;
    job.pieces = kv_transfer::tier_pieces(load.target.blocks(), load.source.blocks().subspan(first));
    job.hashes.assign(sequence.chain.begin() + first, sequence.chain.begin() + end);
    if (first > 0) { job.parent = sequence.chain[first - 1]; }
    job.until = load_limit(sequence, first, end);
    const std::uint64_t id = job.id;
    const auto copies = static_cast<double>(job.pieces.size());
    if (!tiers_[tier].mover->submit(std::move(job))) { return false; }
    instruments_->tiers[tier].copies_in.Increment(copies);
    Job taken;
    taken.load = std::move(load);
    jobs_.emplace(id, std::move(taken));
    return true;
}

void KvTiers::loaded(std::size_t tier, Load load, const TierEvent& event) {
    Instruments::OfTier& figures = instruments_->tiers[tier];
    const std::uint32_t wanted = size32(load.target.blocks().size());
    const bool is_complete = !event.error && event.blocks_done == wanted;
    if (!load.is_piece || !is_complete) { figures.loads.at(outcome_of(event, wanted))->Increment(); }
    figures.bytes_in.Increment(static_cast<double>(event.blocks_done * tiers_[tier].block_bytes));
    learn(tier, event);
    if (!is_complete && !event.given_up) { tiers_[tier].slots->forget(load.source, load.first + event.blocks_done); }
    if (is_complete && !tiers_[tier].keeps_loaded) {
        tiers_[tier].slots->forget(load.source, load.is_piece ? load.first : 0);
    }
    load.source = {};
    load.target.release();
    if (load.is_piece) { return piece_loaded(load, wanted, event); }

    const auto at = loadings_.find(load.sequence);
    CHECK(at != loadings_.end(), "sequence " << base::raw(load.sequence));
    Loading& loading = at->second;
    if (!is_complete) {
        loading.end = std::min(loading.end, load.first + event.blocks_done);
        loading.error = event.error;
    }
    if (--loading.parts > 0) { return; }
    const Loading ended = std::move(loading);
    loadings_.erase(at);
    const auto sequence = control_.find(load.request);
    if (!sequence || sequence->id != ended.sequence) { return; }  // it has ended meanwhile
    observe_load(control_.clock().now() - ended.began);
    if (ended.end > ended.first) {
        control_.loaded(load.request, ended.end * control_.cache().options().block_tokens);
    } else {
        control_.loaded(
            load.request,
            tl::unexpected(ended.error.value_or(base::Error{base::ErrorCode::internal, "no reason was given"})));
    }
}

void KvTiers::count_ahead(std::uint32_t blocks_used, std::uint32_t blocks_wasted) {
    const auto block_bytes = static_cast<double>(tiers_.front().block_bytes);
    instruments_->ahead_used.Increment(blocks_used * block_bytes);
    instruments_->ahead_wasted.Increment(blocks_wasted * block_bytes);
}

void KvTiers::observe_load(base::Duration duration) {
    instruments_->tiers.front().duration.Observe(seconds_of(duration));
}

/// The tier that has the most of the chain, the nearest of several; and how many blocks.
std::pair<std::size_t, std::uint32_t> KvTiers::nearest_with_most(std::span<const base::BlockHash> chain) const {
    std::pair<std::size_t, std::uint32_t> most{0, 0};
    for (std::size_t tier = 0; tier < tiers_.size(); ++tier) {
        const std::uint32_t blocks = blocks_there(tier, chain);
        if (blocks > most.second) { most = {tier, blocks}; }
    }
    return most;
}

std::uint32_t KvTiers::blocks_below(std::span<const base::BlockHash> run) const {
    return nearest_with_most(run).second;
}

bool KvTiers::load_run(std::span<const base::BlockHash> run, std::uint32_t first, kv_cache::BlockHold target,
                       std::function<void(std::uint32_t blocks)> done) {
    return begin_run({.first = first, .source = {}, .target = std::move(target), .done = std::move(done)}, run);
}

/// From the nearest level with most of the run into `load.target`.
bool KvTiers::begin_run(RunLoad load, std::span<const base::BlockHash> run) {
    const auto [tier, end] = nearest_with_most(run);
    const std::uint32_t first = load.first;
    CHECK(first < end && load.target.blocks().size() == end - first, "blocks " << first << " to " << end);
    kv_cache::KvCache& slots = *tiers_[tier].slots;
    load.source = slots.match(run.first(end), end * slots.options().block_tokens);
    TierJob job;
    job.id = next_job_++;
    job.kind = TierJob::Kind::load;
    job.pieces = kv_transfer::tier_pieces(load.target.blocks(), load.source.blocks().subspan(first));
    job.hashes.assign(run.begin() + first, run.begin() + end);
    const std::uint64_t id = job.id;
    const auto copies = static_cast<double>(job.pieces.size());
    if (!tiers_[tier].mover->submit(std::move(job))) {
        if (!load.is_piece) { instruments_->tiers[tier].loads.at("busy")->Increment(); }
        return false;
    }
    if (load.is_piece) { instruments_->ahead_loads.Increment(); }
    instruments_->tiers[tier].copies_in.Increment(copies);
    Job taken;
    taken.run = std::move(load);
    jobs_.emplace(id, std::move(taken));
    return true;
}

void KvTiers::run_loaded(std::size_t tier, RunLoad load, const TierEvent& event) {
    Instruments::OfTier& figures = instruments_->tiers[tier];
    const bool is_complete = !event.error && event.blocks_done == size32(load.target.blocks().size());
    if (!load.is_piece || !is_complete) {
        figures.loads.at(outcome_of(event, size32(load.target.blocks().size())))->Increment();
    }
    figures.bytes_in.Increment(static_cast<double>(event.blocks_done * tiers_[tier].block_bytes));
    learn(tier, event);
    if (!is_complete) { tiers_[tier].slots->forget(load.source, load.first + event.blocks_done); }
    load.source = {};
    load.target.release();
    load.done(load.first + event.blocks_done);
}

void KvTiers::dropped() {
    for (std::size_t tier = 0; tier < tiers_.size(); ++tier) {
        tiers_[tier].slots->drop_prefixes();
        TierJob job;
        job.id = next_job_++;
        job.kind = TierJob::Kind::clear;
        const std::uint64_t id = job.id;
        if (tiers_[tier].mover->submit(std::move(job))) { jobs_.emplace(id, Job{}); }  // else one waits already
        show(tier);
    }
}

std::uint32_t KvTiers::blocks_returning() const {
    std::uint32_t blocks = ahead_ ? ahead_->returning : 0;
    for (const auto& of_tier : savings_) {
        for (const auto& [sequence, saving] : of_tier) {
            if (!saving.has_left) { continue; }
            for (const std::optional<Save>* save : {&saving.current, &saving.next}) {
                if (*save) { blocks += size32((*save)->source.blocks().size()); }
            }
        }
    }
    return blocks;
}

std::uint32_t KvTiers::blocks_to_save(const TierSequence& sequence) const {
    if (tiers_.empty()) { return 0; }
    const auto known = savings_.front().find(sequence.id);
    const std::uint32_t begun = known == savings_.front().end() ? 0 : known->second.blocks;
    const std::uint32_t published = sequence.kv->blocks_published();
    return published - std::min(published, begun);
}

void KvTiers::show(std::size_t tier) {
    const kv_cache::BlockCounts counts = tiers_[tier].slots->counts();
    Instruments::OfTier& figures = instruments_->tiers[tier];
    figures.used.Set(counts.used + counts.pinned + counts.stranded);
    figures.cached.Set(counts.cached);
    figures.free.Set(counts.free);
}

}  // namespace worker
