#include "scheduler/in_flight.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace scheduler {
namespace {

/// The first heartbeat after a request was sent may have been made before the request arrived.
constexpr int kHeartbeatsUntilSeen = 2;

template <class Number>
void count(Number& total, Number by, bool add) {
    CHECK(add || total >= by, total << " - " << by);
    total = static_cast<Number>(add ? total + by : total - by);
}

}  // namespace

InFlight::InFlight(Options options) : options_(options) {
    CHECK(options.placements_max > 0);
}

InFlight::Slot& InFlight::slot_at(std::uint32_t slot) {
    if (slot >= slots_.size()) { slots_.resize(slot + 1); }
    return slots_[slot];
}

void InFlight::change(std::uint32_t number) {
    Slot& slot = slot_at(number);
    if (std::exchange(slot.changed, true)) { return; }
    changed_.push_back(number);
}

void InFlight::change(const Record& record) {
    change(record.prefill.slot);
    change(record.decode.slot);
}

std::span<const std::uint32_t> InFlight::take_changed() {
    taken_.swap(changed_);
    changed_.clear();
    for (const std::uint32_t slot : taken_) {
        slots_[slot].changed = false;
    }
    return taken_;
}

void InFlight::fetch(std::uint32_t slot) const {
    if (slot < slots_.size()) { __builtin_prefetch(&slots_[slot]); }
    backlog_.fetch(slot);
}

PendingLoad InFlight::pending(std::uint32_t slot) const {
    return slot < slots_.size() ? slots_[slot].pending : PendingLoad{};
}

void InFlight::count_prefill(Record& record, bool add) {
    if (record.prefill.counted == add) { return; }
    record.prefill.counted = add;
    Slot& slot = slot_at(record.prefill.slot);
    if (slot.life != record.prefill.life) { return; }
    count(slot.pending.prefill_requests, 1u, add);
    count(slot.pending.prefill_tokens, std::uint64_t{record.placed.uncached_tokens}, add);
}

void InFlight::count_decode(Record& record, bool add) {
    if (record.decode.counted == add) { return; }
    record.decode.counted = add;
    Slot& slot = slot_at(record.decode.slot);
    if (slot.life != record.decode.life) { return; }
    count(slot.pending.decode_sequences, 1u, add);
    count(slot.pending.decode_context_tokens, std::uint64_t{record.placed.prompt_tokens}, add);
    count(slot.pending.decode_blocks, record.placed.decode_blocks, add);
}

InFlight::Records::iterator InFlight::find(base::RequestId request, base::Epoch epoch, GatewayLife gateway) {
    const auto at = records_.find(request);
    if (at == records_.end()) { return at; }
    const PlacedRequest& placed = at->second.placed;
    return placed.epoch == epoch && placed.gateway == gateway ? at : records_.end();
}

std::uint32_t InFlight::placements_of(TenantId tenant) const {
    return base::raw(tenant) < of_tenants_.size() ? of_tenants_[base::raw(tenant)] : 0;
}

void InFlight::drop(Records::iterator record, base::TimePoint now) {
    backlog_.ended(record->second.number, now);
    change(record->second);
    --of_tenants_[base::raw(record->second.placed.tenant)];
    count_prefill(record->second, false);
    count_decode(record->second, false);
    const auto gateway = gateways_.find(record->second.placed.gateway);
    gateway->second.ages.erase(record->second.age);
    if (gateway->second.ages.empty()) { gateways_.erase(gateway); }
    records_.erase(record);
}

void InFlight::drop_all(GatewayLife gateway, base::TimePoint now) {
    for (auto at = gateways_.find(gateway); at != gateways_.end(); at = gateways_.find(gateway)) {
        drop(records_.find(at->second.ages.front()), now);
    }
}

/// For one placement more, of `newcomer`.
void InFlight::make_room(GatewayLife newcomer, base::TimePoint now) {
    while (records_.size() >= options_.placements_max) {
        const auto most = std::max_element(gateways_.begin(), gateways_.end(), [](const auto& left, const auto& right) {
            return left.second.ages.size() < right.second.ages.size();
        });
        drop(records_.find(most->second.ages.front()), now);
    }
    while (!gateways_.contains(newcomer) && gateways_.size() >= options_.gateways_max) {
        const auto silent = std::min_element(
            gateways_.begin(), gateways_.end(),
            [](const auto& left, const auto& right) { return left.second.heard_at < right.second.heard_at; });
        drop_all(silent->first, now);
    }
}

void InFlight::heard(GatewayLife gateway, base::TimePoint now) {
    if (const auto known = gateways_.find(gateway); known != gateways_.end()) { known->second.heard_at = now; }
}

void InFlight::add(const PlacedRequest& placed, base::TimePoint now) {
    if (const auto former = records_.find(placed.request); former != records_.end()) { drop(former, now); }
    make_room(placed.gateway, now);
    const auto patience = std::chrono::duration_cast<base::Duration>(
        std::chrono::duration<double>(std::clamp(4 * placed.ttft_seconds, 0.0, 3600.0)));
    if (base::raw(placed.tenant) >= of_tenants_.size()) { of_tenants_.resize(base::raw(placed.tenant) + 1); }
    ++of_tenants_[base::raw(placed.tenant)];
    Record& record = records_[placed.request];
    record.placed = placed;
    record.number = next_number_++;
    record.prefill = {.slot = placed.prefill_slot, .life = slot_at(placed.prefill_slot).life};
    record.decode = {.slot = placed.decode_slot, .life = slot_at(placed.decode_slot).life};
    record.counted_until = now + std::max(options_.pending_min, patience);
    record.forgotten_at = now + options_.remembered;
    Gateway& gateway = gateways_[placed.gateway];
    gateway.heard_at = now;
    record.age = gateway.ages.insert(gateway.ages.end(), placed.request);
    count_prefill(record, true);
    count_decode(record, true);
    backlog_.placed(record.number, placed.prefill_slot, placed.decode_slot, placed.uncached_tokens,
                    placed.prompt_tokens, now,
                    {.ttft_seconds_left = placed.ttft_seconds_left,
                     .tpot_seconds = placed.tpot_seconds_target,
                     .is_probe = placed.is_probe});
    change(record);
    const Watched watched{placed.request, record.number};
    slot_at(placed.prefill_slot).watched.push_back(watched);
    if (placed.decode_slot != placed.prefill_slot) { slot_at(placed.decode_slot).watched.push_back(watched); }
}

const PlacedRequest* InFlight::placed(base::RequestId request) const {
    const auto at = records_.find(request);
    return at == records_.end() ? nullptr : &at->second.placed;
}

std::optional<PlacedRequest> InFlight::first_token(base::RequestId request, base::Epoch epoch, base::TimePoint now,
                                                   GatewayLife gateway) {
    const auto at = find(request, epoch, gateway);
    if (at == records_.end() || at->second.first_token_told) { return std::nullopt; }
    at->second.first_token_told = true;
    at->second.began = now;
    count_prefill(at->second, false);
    backlog_.first_token(at->second.number, now);
    change(at->second);
    return at->second.placed;
}

std::optional<InFlight::Ended> InFlight::ended(base::RequestId request, base::Epoch epoch, base::TimePoint now,
                                               GatewayLife gateway) {
    const auto at = find(request, epoch, gateway);
    if (at == records_.end()) { return std::nullopt; }
    const Record& record = at->second;
    const Ended ended{.placed = record.placed,
                      .first_token_told = record.first_token_told,
                      .decoded = record.first_token_told ? now - record.began : base::Duration::zero()};
    drop(at, now);
    return ended;
}

void InFlight::heartbeat(std::uint32_t slot, const ReportedLoad& load, base::TimePoint now) {
    const PendingLoad before = slot_at(slot).pending;
    const bool is_news = backlog_.reported(slot, load, now);
    const std::uint64_t life = slot_at(slot).life;
    std::vector<Watched>& watched = slot_at(slot).watched;
    const auto done = [&](const Watched& one) {
        const auto at = records_.find(one.request);
        if (at == records_.end() || at->second.number != one.number) { return true; }
        Record& record = at->second;
        const auto here = [&](const Part& part) { return part.counted && part.slot == slot && part.life == life; };
        const bool overdue = now >= record.counted_until;
        if (here(record.prefill) && (overdue || ++record.prefill.heartbeats >= kHeartbeatsUntilSeen)) {
            count_prefill(record, false);
        }
        if (here(record.decode) &&
            (overdue || (record.first_token_told && ++record.decode.heartbeats >= kHeartbeatsUntilSeen))) {
            count_decode(record, false);
        }
        return !here(record.prefill) && !here(record.decode);
    };
    watched.erase(std::remove_if(watched.begin(), watched.end(), done), watched.end());
    if (is_news || !(slot_at(slot).pending == before)) { change(slot); }
}

void InFlight::worker_gone(std::uint32_t slot) {
    Slot& gone = slot_at(slot);
    ++gone.life;
    gone.pending = {};
    gone.watched.clear();
    backlog_.clear(slot);
    change(slot);
}

void InFlight::expire(base::TimePoint now) {
    std::vector<GatewayLife> lives;
    for (const auto& [life, gateway] : gateways_) {
        lives.push_back(life);
    }
    for (const GatewayLife life : lives) {
        // Who does not name himself cannot be told from others like him: his placements end by age alone.
        if (life != GatewayLife::none && now - gateways_.at(life).heard_at >= options_.gateway_lease) {
            drop_all(life, now);
            continue;
        }
        for (auto at = gateways_.find(life); at != gateways_.end(); at = gateways_.find(life)) {
            const auto oldest = records_.find(at->second.ages.front());
            CHECK(oldest != records_.end());
            if (now < oldest->second.forgotten_at) { break; }
            drop(oldest, now);
        }
    }
}

}  // namespace scheduler
