#include "sim/leaders.h"

#include "base/check.h"

namespace sim {

Leaders::Leaders(std::chrono::milliseconds lease, const VirtualClock& clock)
    : lease_(lease), clock_(clock), seats_(kSeats) {
    for (std::uint32_t seat = 0; seat < kSeats; ++seat) {
        begin(seat);
    }
}

std::optional<base::TimePoint> Leaders::look(std::uint32_t seat, const scheduler::Election::Told& told) {
    Seat& own = seats_[seat];
    if (own.election == nullptr || own.is_stopped) { return std::nullopt; }
    own.election->step(told);
    return clock_.now() + scheduler::until_next_look(*own.election, *own.lease, lease_, clock_.now());
}

void Leaders::kill(std::uint32_t seat) {
    seats_[seat].election.reset();
    seats_[seat].lease.reset();
    seats_[seat].is_stopped = false;
}

void Leaders::begin(std::uint32_t seat) {
    Seat& own = seats_[seat];
    CHECK(own.election == nullptr);
    own.life = ++lives_;
    own.lease = std::make_unique<scheduler::MemoryLease>(record_);
    own.election = std::make_unique<scheduler::Election>(
        scheduler::Election::Options{.name = "scheduler-" + std::to_string(seat), .lease = lease_}, *own.lease, clock_);
}

void Leaders::stop(std::uint32_t seat) {
    seats_[seat].is_stopped = true;
}

void Leaders::go_on(std::uint32_t seat) {
    seats_[seat].is_stopped = false;
}

std::optional<std::uint32_t> Leaders::leader() const {
    for (std::uint32_t seat = 0; seat < kSeats; ++seat) {
        if (is_alive(seat) && !is_stopped(seat) && standing(seat).leads_at(clock_.now())) { return seat; }
    }
    return std::nullopt;
}

std::optional<std::string> Leaders::violation() {
    std::uint32_t leaders = 0;
    for (std::uint32_t seat = 0; seat < kSeats; ++seat) {
        if (!is_alive(seat) || !standing(seat).leads_at(clock_.now())) { continue; }
        ++leaders;  // one that stands still counts: nothing tells it apart from one that is about to answer
        const std::uint64_t epoch = standing(seat).epoch;
        if (epoch < epoch_) { return "a scheduler leads with the epoch " + std::to_string(epoch) + ", which is over"; }
        if (epoch == epoch_ && epoch_life_ != life(seat)) {
            return "two schedulers have led with the epoch " + std::to_string(epoch);
        }
        epoch_ = epoch;
        epoch_life_ = life(seat);
    }
    return leaders > 1 ? std::optional<std::string>("two schedulers lead") : std::nullopt;
}

}  // namespace sim
