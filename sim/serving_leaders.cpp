// Schedulers of which one leads, and what becomes of a cluster when it fails; the contract stands in leaders.h.
#include <algorithm>

#include "sim/serving_run.h"

namespace sim {
namespace {

/// A worker whose stream has ended tries the schedulers in turn, at most so far apart (worker::Registration).
constexpr base::Duration kAttachWithin = std::chrono::milliseconds(500);

}  // namespace

void ServingRun::begin_leaders() {
    const bool may_fail = std::any_of(options_.faults.begin(), options_.faults.end(),
                                      [](const Fault& fault) { return is_of_scheduler(fault.kind); });
    if (!may_fail) { return; }
    leaders_ = std::make_unique<Leaders>(options_.scheduler.leader_silence, clock_);
    for (std::uint32_t seat = 0; seat < Leaders::kSeats; ++seat) {
        look(seat, leaders_->life(seat));
    }
}

void ServingRun::look(std::uint32_t seat, std::uint64_t life) {
    if (leaders_->life(seat) != life) { return; }
    scheduler::Election::Told told;
    if (leaders_->leader() == seat && leaders_->standing(seat).serial == led_serial_) {
        const auto workers = static_cast<std::uint32_t>(placer_.workers_known());
        told = {.workers = gathers_since_ ? std::max(workers, workers_awaited_) : workers, .epoch = placer_.epoch()};
    }
    if (const auto next = leaders_->look(seat, told)) { push(*next, {Event::Kind::look, seat, {}, life}); }
    follow_leader();
}

/// Whoever has begun to lead calls for all workers, and waits for them as scheduler/service.cpp does.
void ServingRun::follow_leader() {
    const auto leader = leaders_->leader();
    if (!leader) { return placer_.set_leading(false, false); }
    const scheduler::Standing& standing = leaders_->standing(*leader);
    const bool goes_on = !placer_.hears() && standing.serial == led_serial_;
    if (standing.serial != led_serial_) {
        ++result_.counts.terms;
        led_serial_ = standing.serial;
        workers_awaited_ = standing.workers_before;
        gathers_since_ = clock_.now();
        placer_.lead(standing.epoch);
        for (std::uint32_t worker = 0; worker < nodes_.size(); ++worker) {
            const auto after = base::Duration(static_cast<std::int64_t>(
                random_() % static_cast<std::uint64_t>(base::Duration(kAttachWithin).count())));
            push(clock_.now() + after, {Event::Kind::attach, worker, {}, nodes_[worker].life});
        }
    }
    gather();
    for (std::uint32_t worker = 0; worker < nodes_.size() && goes_on; ++worker) {
        report(worker);  // what was sent while it stood still comes first
    }
}

void ServingRun::gather() {
    if (gathers_since_ && scheduler::has_gathered(placer_.workers_heard(), workers_awaited_, *gathers_since_,
                                                  clock_.now(), options_.scheduler.gather_max)) {
        gathers_since_.reset();
    }
    placer_.set_leading(true, !gathers_since_);
}

/// Of whoever leads; where nobody does, of one that stands by.
void ServingRun::begin_scheduler_fault(std::uint32_t fault) {
    std::optional<std::uint32_t> hit = leaders_->leader();
    for (std::uint32_t seat = 0; seat < Leaders::kSeats && !hit; ++seat) {
        if (leaders_->is_alive(seat) && !leaders_->is_stopped(seat)) { hit = seat; }
    }
    if (!hit) { return; }
    failed_seats_[fault] = {*hit, leaders_->life(*hit)};
    const bool led = leaders_->leader() == hit;
    if (options_.faults[fault].kind == Fault::Kind::scheduler_death) {
        leaders_->kill(*hit);
        if (led) { placer_.lose_leader(); }
    } else {
        leaders_->stop(*hit);
    }
    follow_leader();
}

void ServingRun::end_scheduler_fault(std::uint32_t fault) {
    const auto at = failed_seats_.find(fault);
    if (at == failed_seats_.end()) { return; }
    const auto [seat, life] = at->second;
    failed_seats_.erase(at);
    if (leaders_->life(seat) != life) { return; }
    if (options_.faults[fault].kind == Fault::Kind::scheduler_death) {
        leaders_->begin(seat);
    } else {
        leaders_->go_on(seat);
    }
    push(clock_.now(), {Event::Kind::look, seat, {}, leaders_->life(seat)});
}

}  // namespace sim
