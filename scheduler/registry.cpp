#include "scheduler/registry.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/seal.h"
#include "proto/roles.h"

namespace scheduler {
namespace {

using base::ErrorCode;
using base::fail;

constexpr std::size_t kReplacedRemembered = 1024;
constexpr std::size_t kCacheLine = 64;
/// Prefixes that are on their way are fewer than those that are there.
constexpr std::size_t kComingShare = 8;
constexpr std::uint64_t kTokensMax = 1'000'000'000'000;  // above any real load: keeps sums from wrapping

/// The name of the first field that makes a registration unusable.
std::optional<std::string_view> missing_field(const sluice::proto::RegisterWorker& registration) {
    if (registration.endpoint().worker_id() == 0) { return "endpoint.worker_id"; }
    if (registration.endpoint().incarnation() == 0) { return "endpoint.incarnation"; }
    if (registration.endpoint().control_address().empty()) { return "endpoint.control_address"; }
    const auto role = proto::role_of(registration.role());
    if (!role) { return "role"; }
    if (*role != Role::encode) {  // which keeps no KV
        if (registration.kv_blocks_total() == 0) { return "kv_blocks_total"; }
        if (registration.block_tokens() == 0) { return "block_tokens"; }
    }
    if (registration.context_tokens() == 0) { return "context_tokens"; }
    if (registration.batch_sequences_max() == 0) { return "batch_sequences_max"; }
    if (registration.batch_tokens_max() == 0) { return "batch_tokens_max"; }
    if (registration.queue_requests_max() == 0) { return "queue_requests_max"; }
    return std::nullopt;
}

}  // namespace

Registry::Registry(Options options)
    : options_(options),
      block_index_(options.prefix_blocks_max),
      level_index_(options.prefix_blocks_max),
      in_flight_(options.in_flight),
      ejections_(options.ejections),
      coming_blocks_(std::max<std::size_t>(1, options.prefix_blocks_max / kComingShare)),
      shortlist_(options.rules) {
    CHECK(options.workers_max > 0);
    CHECK(options.suspect_after > base::Duration::zero() && options.lease >= options.suspect_after);
}

base::Result<Registry::Enrolled> Registry::enroll(const sluice::proto::RegisterWorker& registration,
                                                  base::TimePoint now) {
    if (const auto field = missing_field(registration)) {
        return fail(ErrorCode::invalid_argument, "a registration needs " + std::string(*field));
    }
    const Life life{.id = base::WorkerId{registration.endpoint().worker_id()},
                    .incarnation = base::Incarnation{registration.endpoint().incarnation()}};
    if (std::find(replaced_.begin(), replaced_.end(), life) != replaced_.end()) {
        return fail(ErrorCode::failed_precondition, "this life of the worker was replaced by a later one");
    }
    Enrolled enrolled{.life = life};
    const auto former = slot_of(life.id);
    if (former && views_[*former].incarnation == life.incarnation &&
        !base::equal_secrets(records_[*former].registration.life_secret(), registration.life_secret())) {
        return fail(ErrorCode::permission_denied, "this life of the worker is another's: the life_secret differs");
    }
    if (former && views_[*former].incarnation != life.incarnation &&
        now - records_[*former].heard_at < options_.lease) {
        return fail(
            ErrorCode::failed_precondition,
            "this worker id belongs to a life that was heard of " +
                std::to_string(
                    std::chrono::duration_cast<std::chrono::milliseconds>(now - records_[*former].heard_at).count()) +
                " ms ago; it is free when that one has ended (give each worker an --id of its own, or none)");
    }
    // Hashes are chained over blocks: workers with blocks of another size would never share a prefix with the others.
    for (std::size_t slot = 0; slot < views_.size(); ++slot) {
        if (views_[slot].status == WorkerStatus::gone || slot == former) { continue; }
        if (registration.block_tokens() == 0 || views_[slot].limits.block_tokens == 0) { continue; }  // no KV
        if (views_[slot].limits.block_tokens != registration.block_tokens()) {
            return fail(ErrorCode::failed_precondition, "blocks of " + std::to_string(registration.block_tokens()) +
                                                            " tokens, but the pool has blocks of " +
                                                            std::to_string(views_[slot].limits.block_tokens));
        }
        break;  // all others equal this one
    }
    if (former && views_[*former].incarnation == life.incarnation) {
        enrolled.known = true;
    } else if (former) {
        enrolled.replaced = Life{.id = life.id, .incarnation = views_[*former].incarnation};
        remove(*former);
        keep_out(*enrolled.replaced);
    }
    std::size_t slot = 0;
    if (enrolled.known) {
        slot = *former;
    } else if (slots_of_.size() >= options_.workers_max) {
        return fail(ErrorCode::resource_exhausted,
                    "there are " + std::to_string(slots_of_.size()) + " workers, which is workers_max");
    } else if (free_slots_.empty()) {
        slot = views_.size();
        views_.emplace_back();
        records_.emplace_back();
    } else {
        slot = free_slots_.back();
        free_slots_.pop_back();
    }
    slots_of_[life.id] = slot;
    slots_of_lives_[life.incarnation] = static_cast<std::uint32_t>(slot);

    Record& record = records_[slot];
    record.registration = registration;
    record.heard_at = now;
    record.heartbeat_number.reset();  // a new stream may count anew
    WorkerView& view = views_[slot];
    if (!enrolled.known) {
        view = {};
        view.registration = next_registration_++;
        // Until its first report: empty.
        view.load.blocks_room = registration.kv_blocks_total();
        record.load.set_blocks_free(registration.kv_blocks_total());
        record.load.set_draining(registration.draining());
        record.says_draining = registration.draining();
    }
    view.id = life.id;
    view.incarnation = life.incarnation;
    view.role = *proto::role_of(registration.role());
    view.status = status(slot, now);
    view.numerics_id = registration.header().numerics_id();
    view.limits = {.kv_blocks_total = registration.kv_blocks_total(),
                   .block_tokens = registration.block_tokens(),
                   .context_tokens = registration.context_tokens(),
                   .batch_sequences_max = registration.batch_sequences_max(),
                   .batch_tokens_max = registration.batch_tokens_max(),
                   .queue_requests_max = registration.queue_requests_max(),
                   .kv_bytes_per_token = registration.kv_bytes_per_token(),
                   .lends_kv = registration.lends_kv()};
    shortlist_.touch(static_cast<std::uint32_t>(slot));
    if (enrolled.known) {
        facts_.reset();
    } else {
        count_newcomer(view);
    }
    return enrolled;
}

std::optional<std::size_t> Registry::slot_of(base::WorkerId id) const {
    const auto at = slots_of_.find(id);
    if (at == slots_of_.end()) { return std::nullopt; }
    return at->second;
}

std::optional<std::size_t> Registry::slot_of(Life life) const {
    const auto slot = slot_of(life.id);
    return slot && views_[*slot].incarnation == life.incarnation ? slot : std::nullopt;
}

Registry::Heard Registry::hear(Life life, const sluice::proto::Heartbeat& heartbeat, base::TimePoint now) {
    const auto slot = slot_of(life);
    if (!slot) { return {}; }
    Record& record = records_[*slot];
    if (record.heartbeat_number && heartbeat.number() <= *record.heartbeat_number) { return {}; }
    record.heartbeat_number = heartbeat.number();
    record.heard_at = now;
    record.load = heartbeat.load();
    record.says_draining = record.load.draining();
    WorkerView& view = views_[*slot];
    const std::uint64_t room = std::uint64_t{record.load.blocks_free()} + record.load.blocks_cached();
    const ReportedLoad former = view.load;
    view.load = {.requests_waiting = record.load.requests_waiting(),
                 .requests_running = record.load.requests_running(),
                 .prefill_tokens_queued = std::min(kTokensMax, record.load.prefill_tokens_queued()),
                 .decode_sequences = record.load.decode_sequences(),
                 .decode_context_tokens = std::min(kTokensMax, record.load.context_tokens()),
                 .blocks_room = static_cast<std::uint32_t>(std::min<std::uint64_t>(room, view.limits.kv_blocks_total)),
                 .blocks_used = record.load.blocks_used(),
                 .kv_awaited = record.load.kv_awaited()};
    if (!(view.load == former)) { shortlist_.touch(static_cast<std::uint32_t>(*slot)); }
    in_flight_.heartbeat(static_cast<std::uint32_t>(*slot), view.load, now);
    coming_blocks_.heartbeat(static_cast<std::uint32_t>(*slot),
                             [this](base::RequestId request) { return in_flight_.placed(request) != nullptr; });
    look(*slot, now);

    for (const sluice::proto::BlockEvents& events : heartbeat.blocks()) {
        record.news.take(events, block_index_, static_cast<std::uint32_t>(*slot), &level_index_);
    }
    const auto& prices = heartbeat.load_ns_per_token();
    level_index_.set_prices(static_cast<std::uint32_t>(*slot),
                            std::vector<std::uint32_t>(prices.begin(), prices.end()));
    return {
        .fresh = true,
        .resend_snapshot = record.news.ask_for_snapshot(record.load.blocks_cached() > 0, now, options_.suspect_after)};
}

WorkerStatus Registry::status(std::size_t slot, base::TimePoint now) const {
    const Record& record = records_[slot];
    if (record.says_draining || record.drain_asked) { return WorkerStatus::draining; }
    if (now - record.heard_at >= options_.suspect_after) { return WorkerStatus::suspect; }
    const bool is_out = !ejections_.empty() && ejections_.is_out(views_[slot].incarnation, now);
    return is_out ? WorkerStatus::ejected : WorkerStatus::ready;
}

bool Registry::may_go_without(std::size_t slot, base::TimePoint now) const {
    const WorkerView& worker = views_[slot];
    bool has_prefill = false;
    bool has_decode = false;
    bool has_encode = false;
    std::size_t of_role = 0;
    std::size_t out = 0;
    for (std::size_t other = 0; other < views_.size(); ++other) {
        const WorkerView& view = views_[other];
        if (view.status == WorkerStatus::gone) { continue; }
        const WorkerStatus now_is = status(other, now);
        of_role += view.role == worker.role ? 1 : 0;
        if (other == slot) { continue; }
        out += view.role == worker.role && now_is == WorkerStatus::ejected ? 1 : 0;
        const bool is_alike = options_.rules.allow_mixed_numerics || view.numerics_id == worker.numerics_id;
        if (now_is != WorkerStatus::ready || !is_alike) { continue; }
        has_prefill = has_prefill || can_prefill(view);
        has_decode = has_decode || can_decode(view);
        has_encode = has_encode || view.role == Role::encode;
    }
    const bool others_can = (!can_prefill(worker) || has_prefill) && (!can_decode(worker) || has_decode) &&
                            (worker.role != Role::encode || has_encode);
    return others_can && ejections_.may_be_out(out, of_role);
}

std::optional<base::Duration> Registry::failed(base::Incarnation life, base::RequestId request, base::TimePoint now) {
    const auto at = slots_of_lives_.find(life);
    if (at == slots_of_lives_.end()) { return std::nullopt; }
    look(at->second, now);
    const WorkerView& worker = views_[at->second];
    const bool is_full = prefill_requests_held(worker) >= worker.limits.queue_requests_max;
    const bool says_all_is_well = worker.status == WorkerStatus::ready || worker.status == WorkerStatus::ejected;
    if (!says_all_is_well || is_full) { return std::nullopt; }
    if (!ejections_.failed(life, request, now) || !may_go_without(at->second, now)) { return std::nullopt; }
    const base::Duration time = ejections_.eject(life, now);
    look(at->second, now);
    return time;
}

void Registry::placed(std::size_t slot, base::RequestId request, base::TimePoint now) {
    if (ejections_.empty() || slot >= views_.size()) { return; }
    ejections_.placed(views_[slot].incarnation, request, now);
    look(slot, now);
}

void Registry::succeeded(std::size_t slot, base::TimePoint now) {
    if (ejections_.empty() || slot >= views_.size()) { return; }
    ejections_.forget(views_[slot].incarnation);
    look(slot, now);
}

void Registry::keep_out(Life life) {
    replaced_.push_back(life);
    if (replaced_.size() > kReplacedRemembered) { replaced_.pop_front(); }
}

bool Registry::ask_drain(Life life) {
    const auto slot = slot_of(life);
    if (slot) {
        records_[*slot].drain_asked = true;
        shortlist_.touch(static_cast<std::uint32_t>(*slot));
        facts_.reset();
    }
    return slot.has_value();
}

bool Registry::drain_asked(Life life) const {
    const auto slot = slot_of(life);
    return slot && records_[*slot].drain_asked;
}

void Registry::remove(std::size_t slot) {
    slots_of_.erase(views_[slot].id);
    slots_of_lives_.erase(views_[slot].incarnation);
    ejections_.forget(views_[slot].incarnation);
    views_[slot] = {};
    records_[slot] = {};
    block_index_.clear(static_cast<std::uint32_t>(slot));
    level_index_.clear(static_cast<std::uint32_t>(slot));
    in_flight_.worker_gone(static_cast<std::uint32_t>(slot));
    coming_blocks_.clear(static_cast<std::uint32_t>(slot));
    free_slots_.push_back(slot);
    facts_.reset();
}

bool Registry::leave(Life life) {
    const auto slot = slot_of(life);
    if (!slot) { return false; }
    remove(*slot);
    return true;
}

std::vector<Registry::Life> Registry::expire(base::TimePoint now) {
    std::vector<Life> gone;
    for (std::size_t slot = 0; slot < views_.size(); ++slot) {
        if (views_[slot].status == WorkerStatus::gone || now - records_[slot].heard_at < options_.lease) { continue; }
        gone.push_back({.id = views_[slot].id, .incarnation = views_[slot].incarnation});
        remove(slot);
    }
    in_flight_.expire(now);
    return gone;
}

void Registry::look(std::size_t slot, base::TimePoint now) {
    WorkerView& worker = views_[slot];
    if (worker.status == WorkerStatus::gone) { return; }
    const WorkerStatus former = std::exchange(worker.status, status(slot, now));
    worker.pending = in_flight_.pending(static_cast<std::uint32_t>(slot));
    in_flight_.expected(static_cast<std::uint32_t>(slot), now, worker.expected);
    if (former == worker.status) { return; }
    shortlist_.touch(static_cast<std::uint32_t>(slot));
    facts_.reset();
}

std::span<const WorkerView> Registry::view(base::TimePoint now) {
    for (std::size_t slot = 0; slot < views_.size(); ++slot) {
        look(slot, now);
    }
    return views_;
}

std::span<const std::uint32_t> Registry::match(std::span<const base::BlockHash> chain) {
    block_index_.match(chain, views_.size(), matched_);
    return matched_;
}

void Registry::count(Facts& facts, const WorkerView& worker) {
    if (worker.status == WorkerStatus::gone || worker.role == Role::encode) { return; }
    if (facts.numerics && worker.numerics_id != *facts.numerics) { return; }
    ++facts.workers;
    facts.block_tokens = worker.limits.block_tokens;  // the same for all
    facts.prefill_exists = facts.prefill_exists || (can_prefill(worker) && worker.status != WorkerStatus::draining);
}

/// One more of those that count already changes nothing about who counts: thousands that register one after the other
/// are looked at once each.
void Registry::count_newcomer(const WorkerView& worker) {
    const bool is_alike = facts_ && worker.status == WorkerStatus::ready && worker.role != Role::encode &&
                          (options_.rules.allow_mixed_numerics || facts_->numerics == worker.numerics_id);
    if (!is_alike) { return facts_.reset(); }
    const bool had_prefill = facts_->prefill_exists;
    count(*facts_, worker);
    if (facts_->prefill_exists != had_prefill) { shortlist_.touch_all(views_.size()); }
    last_facts_ = facts_;
}

const Registry::Facts& Registry::facts() {
    if (facts_) { return *facts_; }
    facts_ = Facts{};
    if (!options_.rules.allow_mixed_numerics) { facts_->numerics = scheduler::pool_numerics(views_); }
    for (const WorkerView& worker : views_) {
        count(*facts_, worker);
    }
    // Who counts, and who does both phases, may be another matter now.
    if (!last_facts_ || last_facts_->numerics != facts_->numerics ||
        last_facts_->prefill_exists != facts_->prefill_exists) {
        shortlist_.touch_all(views_.size());
    }
    last_facts_ = facts_;
    return *facts_;
}

std::optional<std::uint64_t> Registry::pool_numerics() {
    return options_.rules.allow_mixed_numerics ? scheduler::pool_numerics(views_) : facts().numerics;
}

/// `blocks_of(slot)`: leading blocks of the chain that the slot holds.
template <class BlocksOf>
void Registry::find_coming(std::span<const base::BlockHash> chain, BlocksOf blocks_of) {
    coming_.clear();
    coming_slots_.clear();
    coming_blocks_.find(chain, coming_held_);
    for (const ComingBlocks::Held& held : coming_held_) {
        if (held.blocks <= blocks_of(held.slot)) { continue; }
        coming_.push_back({views_[held.slot].incarnation, held.blocks});
        coming_slots_.push_back(held.slot);
    }
}

Registry::Outlook Registry::outlook_of_all(std::span<const base::BlockHash> chain, base::TimePoint now) {
    const auto cached = match(chain);
    outlook_below_.clear();
    for (std::uint32_t slot = 0; slot < cached.size(); ++slot) {
        note_below(slot, chain, cached[slot]);
    }
    find_coming(chain, [cached](std::uint32_t slot) { return cached[slot]; });
    return {
        .workers = view(now), .slots = {}, .cached_blocks = cached, .below_pool = outlook_below_, .coming = coming_};
}

void Registry::note_below(std::uint32_t slot, std::span<const base::BlockHash> chain, std::uint32_t blocks) {
    if (level_index_.empty()) { return; }
    outlook_below_.push_back(level_index_.below(slot, chain, blocks, views_[slot].limits.block_tokens));
}

/// Looks at each worker once for one outlook.
class Registry::Looker final : public Shortlist::Workers {
public:
    Looker(Registry& registry, base::TimePoint now) : registry_(registry), now_(now) {}
    const WorkerView& look(std::uint32_t slot) override {
        if (std::exchange(registry_.looked_in_[slot], registry_.outlooks_) != registry_.outlooks_) {
            registry_.look(slot, now_);
        }
        return registry_.views_[slot];
    }
    void fetch(std::uint32_t slot) const override {
        const auto* const view = reinterpret_cast<const char*>(&registry_.views_[slot]);
        for (std::size_t at = 0; at < sizeof(WorkerView); at += kCacheLine) {
            __builtin_prefetch(view + at);
        }
        __builtin_prefetch(&registry_.records_[slot]);
        registry_.in_flight_.fetch(slot);
    }

private:
    Registry& registry_;
    base::TimePoint now_;
};

/// Who is to be looked at whatever he is predicted to take.
void Registry::gather_also(const PlaceQuery& query) {
    also_.assign(coming_slots_.begin(), coming_slots_.end());
    for (const Affinity& affinity : query.affinities) {
        if (const auto at = slots_of_lives_.find(affinity.worker); at != slots_of_lives_.end()) {
            also_.push_back(at->second);
        }
    }
}

Registry::Outlook Registry::outlook(const PlaceQuery& query, std::span<const base::BlockHash> chain,
                                    base::TimePoint now) {
    const Facts facts = this->facts();
    const bool is_of_pool = query.numerics_id == 0 || !facts.numerics || query.numerics_id == *facts.numerics;
    const bool is_for_all = facts.workers <= options_.scan_workers_max || !is_of_pool;
    Looker looker(*this, now);
    if (!is_for_all) {
        for (const std::uint32_t slot : in_flight_.take_changed()) {
            shortlist_.touch(slot);
        }
        shortlist_.fetch_stale(looker);
    }
    prefixes_.search(block_index_, chain, Shortlist::bounds(facts.workers));
    find_coming(chain, [this](std::uint32_t slot) { return prefixes_.blocks_of(slot); });
    if (is_for_all) {
        outlook_blocks_.clear();
        outlook_below_.clear();
        for (std::uint32_t slot = 0; slot < views_.size(); ++slot) {
            outlook_blocks_.push_back(prefixes_.blocks_of(slot));
            note_below(slot, chain, outlook_blocks_.back());
        }
        return {.workers = view(now),
                .slots = {},
                .cached_blocks = outlook_blocks_,
                .below_pool = outlook_below_,
                .coming = coming_};
    }
    gather_also(query);
    ++outlooks_;
    looked_in_.resize(views_.size());
    const Shortlist::Pool pool{.numerics = facts.numerics,
                               .workers = facts.workers,
                               .block_tokens = facts.block_tokens,
                               .prefill_exists = facts.prefill_exists,
                               .also = also_};
    const auto slots =
        shortlist_.pick(query, prefixes_, pool, std::chrono::duration<double>(now.time_since_epoch()).count(), looker);
    if (slots.empty()) { return outlook_of_all(chain, now); }
    outlook_blocks_.clear();
    outlook_below_.clear();
    for (const std::uint32_t slot : slots) {
        static_cast<void>(looker.look(slot));
        outlook_blocks_.push_back(prefixes_.blocks_of(slot));
        note_below(slot, chain, outlook_blocks_.back());
    }
    return {.workers = views_,
            .slots = slots,
            .cached_blocks = outlook_blocks_,
            .below_pool = outlook_below_,
            .coming = coming_};
}

const sluice::proto::RegisterWorker& Registry::registration(std::size_t slot) const {
    return records_.at(slot).registration;
}
const sluice::proto::WorkerLoad& Registry::load(std::size_t slot) const {
    return records_.at(slot).load;
}
base::Duration Registry::heartbeat_age(std::size_t slot, base::TimePoint now) const {
    return now - records_.at(slot).heard_at;
}

void Registry::set_costs(base::WorkerId id, const Costs& costs) {
    if (const auto slot = slot_of(id)) {
        views_[*slot].costs = costs;
        shortlist_.touch(static_cast<std::uint32_t>(*slot));
    }
}

}  // namespace scheduler
