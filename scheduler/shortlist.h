#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/cluster_view.h"
#include "scheduler/lineup.h"
#include "scheduler/place.h"
#include "scheduler/prefix_search.h"

namespace scheduler {

/// The workers worth looking at for one request, found without a look at all of them: those that are predicted to take
/// a request of its length soonest, and those for which what they hold of its prompt outweighs that. What is looked up
/// is kept in order (lineup.h) as the workers' loads change; a forecast is made for a worker whose load has changed,
/// not for each worker and request. Not thread-safe; times are seconds of one clock.
///
/// What the orders do not know (room, targets, this prompt's context) is for place() to weigh among the candidates:
/// docs/decisions/0025-who-is-looked-at.md.
class Shortlist {
public:
    /// Candidates of each kind: they are a few times as many in all.
    static constexpr std::size_t kCandidates = 8;

    explicit Shortlist(PlaceRules rules);
    Shortlist(const Shortlist&) = delete;
    Shortlist& operator=(const Shortlist&) = delete;

    /// The worker in `slot` may have changed.
    void touch(std::uint32_t slot);
    /// All of them may, or who counts.
    void touch_all(std::size_t slots);

    /// What a pool is made of, as far as single workers do not tell.
    struct Pool {
        std::optional<std::uint64_t> numerics;  // empty: any
        std::size_t workers = 0;
        std::uint32_t block_tokens = 1;
        bool prefill_exists = false;               // a worker for prefill takes new requests, be it suspect
        std::span<const std::uint32_t> also = {};  // slots that are candidates, too, where they are of use
    };
    /// Where workers are looked at.
    class Workers {
    public:
        virtual ~Workers() = default;
        /// A worker as it stands now.
        virtual const WorkerView& look(std::uint32_t slot) = 0;
        /// Asks the processor to have ready what look() will read.
        virtual void fetch(std::uint32_t slot) const = 0;
    };
    /// Asks the processor to have ready what pick() will read first, while something else is done.
    void fetch_stale(const Workers& workers) const;
    /// Valid until the next call. Empty: this is a case for a scan of all, as no ready worker is known for one of the
    /// phases.
    std::span<const std::uint32_t> pick(const PlaceQuery& query, const PrefixSearch& prefixes, const Pool& pool,
                                        double now, Workers& workers);
    /// What it looks at of `prefixes`, where so many workers count.
    static PrefixSearch::Bounds bounds(std::size_t workers);

private:
    struct Picking {
        const PlaceQuery& query;
        const Pool& pool;
        double now;
        Workers& workers;
        Length length;     // of what is to be computed where nothing but what most hold is cached
        double starts_in;  // seconds until the prompt is computed, where that is soonest; 0: not known
    };
    /// The best so far of those who hold some of the prompt.
    struct Holder {
        double seconds;
        std::uint32_t slot;
    };
    using Holders = std::array<Holder, 4>;
    void know_lengths(std::uint32_t prompt_tokens);
    void refresh(const Picking& picking);
    void fetch(std::uint32_t slot, const Workers& workers) const;
    void fetch_named(const PrefixSearch& prefixes, const Picking& picking) const;
    void place_in_orders(std::uint32_t slot, const WorkerView& worker, const Picking& picking);
    void take_out(std::uint32_t slot, std::size_t order);
    void drop(std::uint32_t slot);
    static bool is_ready(const WorkerView& worker, const Pool& pool);
    bool is_of_use(std::uint32_t slot, std::uint64_t tokens, const Picking& picking);
    template <class Visit>
    void visit_first(Lineup& lineup, const Length& length, std::size_t count, const Picking& picking, Visit visit);
    /// Whether there was one.
    bool take_prefill(Lineup& lineup, std::size_t count, Picking& picking);
    void take_decode(Lineup& lineup, std::size_t count, const Picking& picking);
    void take_holders(const PrefixSearch& prefixes, Picking& picking);
    void bring_roomiest_up_to_date(const Picking& picking);
    bool add(std::uint32_t slot);

    enum Order : std::size_t { prefill_pure, prefill_mixed, local, local_brief, decode_pure, decode_mixed, roomiest };
    static constexpr std::size_t kOrders = roomiest + 1;

    PlaceRules rules_;
    std::array<PlaceQuery, kLengths.size()> like_;  // a request of each length, by which the orders are made
    std::vector<std::uint32_t> stale_;
    std::vector<bool> is_stale_;  // [slots]
    std::array<Lineup, kOrders> orders_;
    std::vector<std::uint8_t> is_in_;  // [slots]: a bit for each order that has it
    Lineup& prefill_pure_ = orders_[prefill_pure];
    Lineup& prefill_mixed_ = orders_[prefill_mixed];
    Lineup& local_ = orders_[local];              // does both
    Lineup& local_brief_ = orders_[local_brief];  // the same for an answer of one token
    Lineup& decode_pure_ = orders_[decode_pure];
    Lineup& decode_mixed_ = orders_[decode_mixed];
    Lineup& roomiest_ = orders_[roomiest];  // most free blocks first; as of when it was needed last
    std::vector<std::uint32_t> unranked_;   // whose place in it may be another now
    std::vector<bool> is_unranked_;         // [slots]
    std::vector<std::uint32_t> picked_;
    std::vector<std::uint32_t> refreshed_;
    std::vector<std::uint32_t> roomless_;   // of one lineup, while picking
    std::vector<std::uint64_t> picked_in_;  // [slots]: the last pick that has it
    std::vector<std::uint64_t> seen_in_;    // [slots]: the last pick that has seen it hold some of the prompt
    /// Of kLengths, those that prompts were asked for so far, and at first those up to 32,768: of the others the orders
    /// say what they do of the last of these. What a long prompt would take costs most of a forecast.
    std::size_t lengths_ = kLengths.size() - 1;
    double curve_ = 0;      // of prefill, on the worker that was placed in the orders last: much the same on all
    double starts_in_ = 0;  // Picking::starts_in lately: room is looked at as it will be then
    std::uint64_t picks_ = 0;
    bool found_prefill_ = false;
    bool found_decode_ = false;
};

}  // namespace scheduler
