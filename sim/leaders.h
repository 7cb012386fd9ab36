#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/election.h"
#include "scheduler/memory_lease.h"
#include "sim/virtual_clock.h"

namespace sim {

/// Two schedulers of a simulated cluster, of which one leads: scheduler::Election as it is, over a record in memory
/// that both can always reach, on the virtual clock. A seat is the place of a process; the next one begins in the same.
class Leaders {
public:
    static constexpr std::uint32_t kSeats = 2;

    /// `lease`: a leader that was silent for so long leads no more. Borrows the clock.
    Leaders(std::chrono::milliseconds lease, const VirtualClock& clock);

    /// One look of the scheduler in this seat at the record, with what it tells there while it leads. When it looks
    /// again; empty: it is dead, or stands still.
    std::optional<base::TimePoint> look(std::uint32_t seat, const scheduler::Election::Told& told);
    /// The process ends without a word. Another one begins there, which stands by.
    void kill(std::uint32_t seat);
    void begin(std::uint32_t seat);
    /// The process stands still, and goes on.
    void stop(std::uint32_t seat);
    void go_on(std::uint32_t seat);
    bool is_alive(std::uint32_t seat) const { return seats_[seat].election != nullptr; }
    bool is_stopped(std::uint32_t seat) const { return seats_[seat].is_stopped; }
    /// Tells processes in one seat apart.
    std::uint64_t life(std::uint32_t seat) const { return seats_[seat].life; }

    /// Whose lease holds now, and who answers: neither dead nor stopped.
    std::optional<std::uint32_t> leader() const;
    const scheduler::Standing& standing(std::uint32_t seat) const { return seats_[seat].election->standing(); }
    /// Of what has to hold at every moment: one leads at most, and epochs rise. To be asked after every event; empty:
    /// it does.
    std::optional<std::string> violation();

private:
    struct Seat {
        std::unique_ptr<scheduler::MemoryLease> lease;
        std::unique_ptr<scheduler::Election> election;  // null: dead
        std::uint64_t life = 0;
        bool is_stopped = false;
    };

    const std::chrono::milliseconds lease_;
    const VirtualClock& clock_;
    scheduler::MemoryRecord record_;
    std::vector<Seat> seats_;
    std::uint64_t lives_ = 0;
    std::uint64_t epoch_ = 0;                       // the highest that led
    std::optional<std::uint64_t> epoch_life_ = {};  // who has it
};

}  // namespace sim
