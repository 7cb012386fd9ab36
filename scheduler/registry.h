#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "proto/scheduler.pb.h"
#include "scheduler/block_index.h"
#include "scheduler/block_news.h"
#include "scheduler/cluster_view.h"
#include "scheduler/coming_blocks.h"
#include "scheduler/ejections.h"
#include "scheduler/in_flight.h"
#include "scheduler/level_index.h"
#include "scheduler/prefix_search.h"
#include "scheduler/shortlist.h"

namespace scheduler {

/// The workers that are alive, as they reported themselves: limits, load, believed prefix blocks, and what was sent to
/// them since. Everything in it comes from workers, so a new registry is filled by their next reports. Not thread-safe;
/// time comes in as an argument.
///
/// A worker is known by its id, one life of it by its incarnation, and who speaks for a life by the secret that came
/// with its first registration. An id belongs to its present life until that one's end or lease: nobody takes it over
/// before. Whatever names a life that is not the present one has no effect.
class Registry {
public:
    struct Options {
        std::uint32_t workers_max = 1024;
        std::size_t prefix_blocks_max = 1 << 20;
        InFlight::Options in_flight = {};
        Ejections::Options ejections = {};
        PlaceRules rules = {};
        std::uint32_t scan_workers_max = 32;                             // more: outlook() is made of some
        base::Duration suspect_after = std::chrono::milliseconds(1500);  // without a heartbeat
        base::Duration lease = std::chrono::seconds(5);                  // without a heartbeat; then it is gone
    };
    explicit Registry(Options options);

    /// One life of one worker.
    struct Life {
        base::WorkerId id{};
        base::Incarnation incarnation{};
        auto operator<=>(const Life&) const = default;
    };
    struct Enrolled {
        Life life;
        std::optional<Life> replaced = std::nullopt;  // the worker's former life, which has ended
        bool known = false;                           // this very life was there already (its stream was opened again)
    };
    /// Takes a worker in, or again. Errors: invalid_argument (a field is missing or 0), failed_precondition (another
    /// block size than the pool's; a life that was replaced; the id is another's, who is alive), permission_denied
    /// (this life has another secret), resource_exhausted (workers_max).
    base::Result<Enrolled> enroll(const sluice::proto::RegisterWorker& registration, base::TimePoint now);

    struct Heard {
        bool fresh = false;            // false: late, a duplicate, or of no present life; nothing was taken in
        bool resend_snapshot = false;  // block events have a gap: ask the worker for a snapshot
    };
    /// Load and block events of a heartbeat (not its samples). Heartbeats older than one already heard are ignored.
    Heard hear(Life life, const sluice::proto::Heartbeat& heartbeat, base::TimePoint now);

    /// The life has ended. False when it was not the present one.
    bool leave(Life life);
    /// The life is to take no new requests until its end. False when it is not the present one.
    bool ask_drain(Life life);
    bool drain_asked(Life life) const;
    /// The life has failed a request that was placed on it, as the request's gateway says. For how long it is out of
    /// service from now on; empty: it is not. Nobody goes without whom a phase would have no ready worker left, nor
    /// more of a role than `ejections` allow; late, full and draining workers have a reason that their reports tell.
    std::optional<base::Duration> failed(base::Incarnation life, base::RequestId request, base::TimePoint now);
    /// The request goes to the worker in the slot, which it tries if that one was out of service.
    void placed(std::size_t slot, base::RequestId request, base::TimePoint now);
    /// The worker in the slot has done what was asked of it.
    void succeeded(std::size_t slot, base::TimePoint now);
    /// Removes every worker that was silent for the lease, and returns their lives.
    std::vector<Life> expire(base::TimePoint now);

    /// All workers by slot, with empty places (status gone). Valid until the next call that is not const.
    std::span<const WorkerView> view(base::TimePoint now);
    /// Leading blocks of `chain` per slot; as long as view(). Valid until the next call.
    std::span<const std::uint32_t> match(std::span<const base::BlockHash> chain);

    /// The workers among which one request is placed: all, or those that are worth looking at.
    struct Outlook {
        std::span<const WorkerView> workers;           // all, by slot
        std::span<const std::uint32_t> slots;          // of those among whom is decided; empty: all
        std::span<const std::uint32_t> cached_blocks;  // for each of them
        std::span<const BelowPool> below_pool;         // the same, of those
        std::span<const ComingPrefix> coming;          // more of the chain than the worker holds now
    };
    /// Valid until the next call that is not const. What the query says of `chain` is not looked at.
    Outlook outlook(const PlaceQuery& query, std::span<const base::BlockHash> chain, base::TimePoint now);
    Outlook outlook_of_all(std::span<const base::BlockHash> chain, base::TimePoint now);
    /// As the function of that name, of the workers as they were when last looked at.
    std::optional<std::uint64_t> pool_numerics();

    /// The present life in a slot of view() that is not gone.
    const sluice::proto::RegisterWorker& registration(std::size_t slot) const;
    const sluice::proto::WorkerLoad& load(std::size_t slot) const;
    Role role(std::size_t slot) const { return views_.at(slot).role; }
    base::Duration heartbeat_age(std::size_t slot, base::TimePoint now) const;
    std::optional<std::size_t> slot_of(base::WorkerId id) const;

    void set_costs(base::WorkerId id, const Costs& costs);

    InFlight& in_flight() { return in_flight_; }
    /// Told of by whoever adds to in_flight() and takes from it.
    ComingBlocks& coming_blocks() { return coming_blocks_; }
    const InFlight& in_flight() const { return in_flight_; }
    const BlockIndex& block_index() const { return block_index_; }
    std::size_t workers() const { return slots_of_.size(); }

private:
    struct Record {
        // What every look at the worker reads stands first.
        base::TimePoint heard_at;
        bool drain_asked = false;
        bool says_draining = false;
        std::optional<std::uint64_t> heartbeat_number;
        BlockNews news;
        sluice::proto::RegisterWorker registration;
        sluice::proto::WorkerLoad load;
    };
    /// What is remembered of all workers, so that no request needs to ask each of them.
    struct Facts {
        std::optional<std::uint64_t> numerics;
        std::size_t workers = 0;  // that count
        std::uint32_t block_tokens = 1;
        bool prefill_exists = false;
    };
    class Looker;
    const Facts& facts();
    static void count(Facts& facts, const WorkerView& worker);
    void count_newcomer(const WorkerView& worker);
    /// Updates a worker's view.
    void look(std::size_t slot, base::TimePoint now);
    std::optional<std::size_t> slot_of(Life life) const;
    void note_below(std::uint32_t slot, std::span<const base::BlockHash> chain, std::uint32_t blocks);
    void gather_also(const PlaceQuery& query);
    template <class BlocksOf>
    void find_coming(std::span<const base::BlockHash> chain, BlocksOf blocks_of);
    WorkerStatus status(std::size_t slot, base::TimePoint now) const;
    bool may_go_without(std::size_t slot, base::TimePoint now) const;
    void remove(std::size_t slot);
    void keep_out(Life life);

    Options options_;
    std::vector<WorkerView> views_;  // [slots]
    std::vector<Record> records_;    // [slots]
    std::vector<std::size_t> free_slots_;
    std::unordered_map<base::WorkerId, std::size_t> slots_of_;
    std::deque<Life> replaced_;  // the last few, which must not come back
    std::uint64_t next_registration_ = 0;
    BlockIndex block_index_;
    LevelIndex level_index_;
    InFlight in_flight_;
    Ejections ejections_;
    ComingBlocks coming_blocks_;
    std::vector<ComingBlocks::Held> coming_held_;
    std::vector<ComingPrefix> coming_;
    std::vector<std::uint32_t> coming_slots_;  // of each of them
    std::vector<std::uint32_t> also_;
    PrefixSearch prefixes_;
    std::unordered_map<base::Incarnation, std::uint32_t> slots_of_lives_;
    std::vector<std::uint32_t> matched_;
    std::optional<Facts> facts_;  // empty: something has changed
    std::optional<Facts> last_facts_;
    Shortlist shortlist_;
    std::vector<std::uint32_t> outlook_blocks_;
    std::vector<BelowPool> outlook_below_;
    std::vector<std::uint64_t> looked_in_;  // [slots]: the last outlook that looked at it
    std::uint64_t outlooks_ = 0;
};

}  // namespace scheduler
