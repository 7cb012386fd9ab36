#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "scheduler/leader_lease.h"

namespace scheduler {

/// How a scheduler stands among those of its cluster.
struct Standing {
    std::uint64_t epoch = 0;           // of our term; 0: another one leads, or nobody does
    std::uint64_t serial = 0;          // of our term: tells it from others of ours
    base::TimePoint until{};           // of our own clock: from then on others may lead, whether we know of it or not
    std::uint32_t workers_before = 0;  // that the leader before us had
    std::string leader;                // address of who leads; empty: nobody is known to

    bool leads_at(base::TimePoint now) const { return epoch != 0 && now < until; }
};

/// Decides whether this scheduler leads, by looking at a lease again and again. The leader renews; the others begin a
/// term of their own as soon as the leader's is known to be over, or when its record has not changed for a whole lease,
/// by their own clock, since they first saw it so. The leader counts its lease from before it asked for the renewal,
/// and leaves a tenth of it: so it has stopped before anybody else begins, unless a clock runs that much faster than
/// another. A process that stood still finds its lease over when it looks at the clock (Standing::leads_at).
///
/// While the record cannot be reached who leads stays: a leader that looked in time goes on, nobody else begins. Where
/// another one can reach it all the same and begins, its epoch is higher, and the first that tells the leader of it
/// (Told::epoch) ends its term. Until then both place, each for those that follow it; epochs keep that apart.
/// Not thread-safe.
class Election {
public:
    struct Options {
        std::string name;                 // what others reach this scheduler by
        std::chrono::milliseconds lease;  // > 0
    };
    /// `lease` and `clock` are borrowed.
    Election(Options options, LeaderLease& lease, const base::Clock& clock);

    /// What the leader knows and others should, once they lead.
    struct Told {
        std::uint32_t workers = 0;
        std::uint64_t epoch = 0;  // above that of the term: it has met somebody who had seen a higher one
    };
    /// One look, and what follows from it. To be called several times a lease (LeaderLease::pause).
    const Standing& step(const Told& told);
    const Standing& standing() const { return standing_; }
    /// When whoever leads will have been silent for a lease, should the next look find its record as the last step did:
    /// to look again then, and not only when the next pause is over. None where we lead or nobody is known to.
    std::optional<base::TimePoint> silence_ends() const;
    /// The lease is given back: another one may begin at once.
    void resign();
    /// Why the last step could not look or write; empty where it could.
    const std::string& problem() const { return problem_; }

private:
    void renew(const Told& told);
    void follow();
    void stand_by(std::string leader);

    const Options options_;
    LeaderLease& lease_;
    const base::Clock& clock_;
    Standing standing_;
    LeaderTerm term_;                                 // ours while standing_.epoch != 0, else the latest that was seen
    std::optional<base::TimePoint> unchanged_since_;  // term_, another's, by our clock
    std::string problem_;
};

/// How long a scheduler waits from one look to the next: the leader as LeaderLease::pause says, others half as long,
/// and no longer than until whoever leads has been silent for a lease. Pure.
std::chrono::milliseconds until_next_look(const Election& election, const LeaderLease& lease,
                                          std::chrono::milliseconds lasts, base::TimePoint now);

/// Whoever begins to lead has heard of no worker. It places nothing before as many as the leader before it had
/// (`awaited`) have told how they stand, or there was time enough for it since `began`: twice as much while none at all
/// has, since then every request would be refused. Pure.
bool has_gathered(std::size_t heard, std::uint32_t awaited, base::TimePoint began, base::TimePoint now,
                  base::Duration gather_max);

}  // namespace scheduler
