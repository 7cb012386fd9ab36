#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "base/clock.h"
#include "base/ids.h"
#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/receiver.h"
#include "worker/fetch_ports.h"
#include "worker/options.h"
#include "worker/role_part.h"

namespace worker {

/// Fetches KV from the worker that a Start names (KvSource), instead of computing it: for the full blocks of the
/// sequence's tokens, but the last token's, that no prefix hit covers. They go into the memory that the sequence has
/// just got, so there is room for whatever comes; meanwhile the sequence is `loading`. Blocks are asked for in runs, a
/// few at once (kRunsAtOnce), and what came without a gap counts, also when the rest does not come: the sequence
/// computes from there on. So no failure here is a failure of the request. Only exact KV is fetched, so that what came
/// is published like KV that was computed.
///
/// Where it is known what blocks from that worker took lately and what computing them takes, the quicker way is taken:
/// fetching (always, where that is in time for the first token), computing, or both at once: steps compute from the
/// front, runs are fetched from the end back, and where they meet is said anew after each run
/// (kv_transfer/rate/both_ends.h).
///
/// One try for each sequence. A helper of the step loop: step thread, except on_event (any thread).
class KvFetcher final : public RolePart {
public:
    static constexpr std::uint32_t kRunsAtOnce = 4;      // of one sequence
    static constexpr std::uint32_t kRunsAtOnceBack = 2;  // while it computes, too: later asked is better split
    static constexpr std::size_t kPeersKnown = 256;      // of which it is kept what fetching took

    /// `incarnation`: of this worker. All references must outlive this.
    KvFetcher(const WorkerOptions& options, base::Incarnation incarnation, StepControl& control, KvFetchPort& port,
              base::Metrics& metrics);
    ~KvFetcher() override;

    /// What the receiver says of keys that are fetches: moves the event to the step thread.
    void on_event(kv_transfer::ReceiverEvent event);

    void admitted(Sequence& sequence) override;
    void front_computed(Sequence& sequence) override;
    void closing(Sequence& sequence) override;
    bool busy() const override { return !fetches_.empty() || !stranded_.empty(); }

private:
    /// Blocks [first, first + count) of the sequence, asked for and not released.
    struct Run {
        kv_transfer::HandoffKey key;
        std::uint32_t first = 0;
        std::uint32_t count = 0;
        bool is_over = false;  // completed or failed
        base::TimePoint asked_at;
        kv_cache::BlockHold hold;  // until nobody writes them any more
    };
    struct Fetch {
        Peer source;
        base::TimePoint began;
        base::TimePoint deadline;
        std::uint32_t first = 0;           // block
        std::uint32_t next = 0;            // the first block that was not asked for
        std::uint32_t end = 0;             // behind the last block that can still come without a gap
        std::deque<Run> runs;              // in the order in which they were asked for
        std::optional<base::Error> error;  // why not all of it comes
        base::TimePoint landed_at;         // the last run; before: it began
        bool is_back = false;              // from the end back, while steps compute from the front
        std::uint32_t begin = 0;           // back: blocks [begin, end) are there or asked for
        bool asks_no_more = false;         // back
    };
    using Fetches = std::unordered_map<RequestKey, Fetch>;
    enum class Way : std::uint8_t { fetch, compute, both };
    struct Instruments;

    void apply(const kv_transfer::ReceiverEvent& event);
    Way way_for(const Fetch& fetch, const Sequence& sequence);
    std::uint32_t meeting_block(const Fetch& fetch, std::uint32_t first, std::uint32_t end) const;
    void learn(Fetch& fetch, const Run& run, std::uint32_t blocks);
    base::Result<void> ask(Fetch& fetch, const Sequence& sequence, std::uint32_t first, std::uint32_t count);
    void ask_for_more(Fetch& fetch, const Sequence& sequence);
    void go_on_back(Fetches::iterator at, Sequence& sequence);
    void cut_back(Fetch& fetch, const Run& run, std::uint32_t blocks_came, base::Error why);
    void cut(Fetch& fetch, std::uint32_t end, base::Error why);
    void finish(RequestKey request);

    const WorkerOptions options_;
    const base::Incarnation incarnation_;
    StepControl& control_;
    KvFetchPort& port_;
    std::uint32_t next_run_ = 1;  // of all: no two have the same key, whatever gateways start again
    Fetches fetches_;
    std::map<std::string, double> seconds_per_block_;                  // by kv_address, learned
    std::uint32_t left_out_ = 0;                                       // fetches, since the last that was tried
    std::map<kv_transfer::HandoffKey, kv_cache::BlockHold> stranded_;  // of sequences that ended before their release
    std::unique_ptr<Instruments> instruments_;
};

}  // namespace worker
