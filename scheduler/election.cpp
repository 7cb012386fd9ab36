#include "scheduler/election.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace scheduler {
namespace {

constexpr int kLooksPerRenewal = 2;  // of who stands by: how soon it has seen the last one is time without a leader

}  // namespace

Election::Election(Options options, LeaderLease& lease, const base::Clock& clock)
    : options_(std::move(options)), lease_(lease), clock_(clock) {
    CHECK(options_.lease.count() > 0);
}

const Standing& Election::step(const Told& told) {
    problem_.clear();
    if (standing_.epoch != 0) {
        renew(told);
    } else {
        follow();
    }
    return standing_;
}

void Election::stand_by(std::string leader) {
    unchanged_since_.reset();
    standing_ = Standing();
    standing_.leader = std::move(leader);
}

void Election::renew(const Told& told) {
    const base::TimePoint before = clock_.now();
    if (before >= standing_.until) {
        // Others may lead by now, and what we had heard of workers is old. A new term, if any, begins with a new
        // record.
        lease_.resign();
        stand_by("");
        return follow();
    }
    LeaderTerm next = term_;
    ++next.beat;
    next.workers = told.workers;
    next.epoch = std::max(next.epoch, told.epoch);
    const auto renewed = lease_.renew(next);
    if (!renewed) {
        problem_ = renewed.error().message;
        if (told.epoch > term_.epoch) {
            stand_by("");  // somebody has seen a higher one since the record could be reached
        } else {
            standing_.until = before + options_.lease - options_.lease / 10;
        }
        return;
    }
    if (!*renewed) {
        stand_by("");
        return;
    }
    term_ = std::move(next);
    standing_.epoch = term_.epoch;
    standing_.until = before + options_.lease - options_.lease / 10;
}

void Election::follow() {
    const base::TimePoint before = clock_.now();
    auto seen = lease_.look();
    if (!seen) {
        problem_ = seen.error().message;
        unchanged_since_.reset();  // what happens meanwhile is not seen
        return;
    }
    if (!unchanged_since_ || *seen != term_) {
        term_ = std::move(*seen);
        unchanged_since_ = clock_.now();  // after the look: not before it was written
    }
    const bool is_free = term_.serial == 0 || term_.over;
    if (!is_free && before - *unchanged_since_ < options_.lease) {
        standing_.leader = term_.holder;
        return;
    }
    stand_by("");
    LeaderTerm ours;
    ours.serial = term_.serial + 1;
    ours.epoch = std::max<std::uint64_t>(term_.epoch + 1,
                                         static_cast<std::uint64_t>(std::max<std::int64_t>(clock_.unix_us(), 1)));
    ours.holder = options_.name;
    ours.workers = term_.workers;  // they are awaited by whoever leads after us, too
    const auto begun = lease_.begin(term_, ours);
    if (!begun) {
        problem_ = begun.error().message;
        return;
    }
    if (!*begun) { return; }
    standing_.workers_before = term_.workers;
    standing_.epoch = ours.epoch;
    standing_.serial = ours.serial;
    standing_.until = before + options_.lease - options_.lease / 10;
    standing_.leader = options_.name;
    term_ = std::move(ours);
}

std::optional<base::TimePoint> Election::silence_ends() const {
    if (standing_.epoch != 0 || !unchanged_since_ || standing_.leader.empty()) { return std::nullopt; }
    return *unchanged_since_ + options_.lease;
}

void Election::resign() {
    if (standing_.epoch == 0) { return; }
    lease_.resign();
    stand_by("");
}

std::chrono::milliseconds until_next_look(const Election& election, const LeaderLease& lease,
                                          std::chrono::milliseconds lasts, base::TimePoint now) {
    using std::chrono::milliseconds;
    const milliseconds renewals_apart = lease.pause(lasts);
    if (election.standing().epoch != 0) { return renewals_apart; }
    const milliseconds pause = std::max(renewals_apart / kLooksPerRenewal, milliseconds(1));
    const auto ends = election.silence_ends();
    if (!ends) { return pause; }
    return std::clamp(std::chrono::ceil<milliseconds>(*ends - now), milliseconds(1), pause);
}

bool has_gathered(std::size_t heard, std::uint32_t awaited, base::TimePoint began, base::TimePoint now,
                  base::Duration gather_max) {
    return heard >= awaited || now >= began + gather_max * (heard == 0 ? 2 : 1);
}

}  // namespace scheduler
