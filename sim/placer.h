#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "base/metrics.h"
#include "scheduler/block_index.h"
#include "scheduler/block_news.h"
#include "scheduler/scheduler.h"
#include "sim/modelled_worker.h"
#include "sim/policies.h"
#include "sim/virtual_clock.h"

namespace sim {

/// One question for a place.
struct PlaceAsk {
    AttemptKey key;
    std::uint32_t prompt_tokens = 0;  // with what was generated before
    std::uint32_t new_tokens_max = 0;
    bool has_begun = false;
    std::optional<base::TimePoint> first_token_due = std::nullopt;
    std::uint32_t ttft_ms = 0;
    std::uint32_t tpot_ms = 0;
    std::span<const base::BlockHash> chain{};
    std::span<const std::uint64_t> avoid{};  // incarnations
};
struct Placed {
    std::uint32_t prefill = 0;  // workers; equal: both phases there
    std::uint32_t decode = 0;
};
struct NotPlaced {
    base::ErrorCode code = base::ErrorCode::unavailable;
    std::uint32_t retry_after_ms = 0;
    bool is_silent = false;  // nobody has answered: no scheduler leads that could
};

/// The way from the owner of a request to whoever places it. Answers at once.
class PlacePort {
public:
    virtual ~PlacePort() = default;
    virtual std::variant<Placed, NotPlaced> place(const PlaceAsk& ask) = 0;
    /// Of a placement: its first token was seen; it is over, with what it took (0: not known).
    virtual void first_token(AttemptKey key, base::Duration ttft) = 0;
    virtual void ended(AttemptKey key, base::Duration ttft, base::Duration tpot) = 0;
};

/// One side to the production scheduler, in its own messages, and to the plain policies. Workers are their indices.
/// Not thread-safe.
class Placer final : public PlacePort {
public:
    /// Borrows the clock.
    Placer(Policy policy, scheduler::SchedulerOptions options, const VirtualClock& clock, std::size_t workers);

    /// A life of a worker attaches, or again. False: its id is still another life's, try again later.
    [[nodiscard]] bool attach(const ModelledWorker& worker, std::uint64_t incarnation,
                              std::uint64_t kv_bytes_per_token);
    /// Its stream has ended.
    void detach(std::uint32_t worker);
    /// An empty one, for the next hear(): messages keep their memory from one to the next.
    sluice::proto::Heartbeat& new_heartbeat();
    /// Takes new_heartbeat() as it was filled. True: the worker is to tell all of its prefix index again. No effect
    /// when it is not attached.
    bool hear(std::uint32_t worker);
    /// Workers that were silent for their lease: their streams are closed now.
    std::vector<std::uint32_t> tick();
    /// Another scheduler leads from now on, by a lease of this epoch: it knows nobody.
    void lead(std::uint64_t epoch);
    /// Whoever led is gone, and its workers' streams with it.
    void lose_leader();
    /// Whether whoever leads can be told things, and whether it places. Both, from the start.
    void set_leading(bool hears, bool places);
    bool hears() const { return hears_; }
    std::size_t workers_heard() const { return scheduler_->workers_heard(); }
    std::size_t workers_known() const { return scheduler_->workers(); }
    std::uint64_t epoch() const { return scheduler_->epoch(); }

    bool is_attached(std::uint32_t worker) const { return sessions_[worker].has_value(); }

    std::variant<Placed, NotPlaced> place(const PlaceAsk& ask) override;
    /// The scheduler is told at once, like of ended(), as gateways tell it: the worker's next report shows the same,
    /// and what is told after it would be counted twice. Where nobody leads it is gathered until somebody does.
    void first_token(AttemptKey key, base::Duration ttft) override;
    void ended(AttemptKey key, base::Duration ttft, base::Duration tpot) override;
    void flush();

    /// What the accounts still hold: 0 when every request has ended.
    std::size_t placements() const;
    base::Metrics& metrics() { return metrics_; }

private:
    struct Sent {
        Placed placed;
        std::uint64_t prefill_life = 0;
        std::uint64_t decode_life = 0;
        std::uint32_t uncached_tokens = 0;
        bool has_token = false;
    };
    std::variant<Placed, NotPlaced> place_by_scheduler(const PlaceAsk& ask);
    std::variant<Placed, NotPlaced> place_by_policy(const PlaceAsk& ask);
    void take_prompt(Sent& sent);
    void take_out(std::map<AttemptKey, Sent>::iterator at);

    const Policy policy_;
    scheduler::SchedulerOptions options_;
    const VirtualClock& clock_;
    bool hears_ = true;
    bool places_ = true;
    base::Metrics metrics_;
    std::unique_ptr<scheduler::Scheduler> scheduler_;  // null: a plain policy
    std::vector<std::optional<scheduler::SessionId>> sessions_;
    std::vector<std::uint32_t> worker_of_session_;
    sluice::proto::PlaceRequest request_;
    sluice::proto::PlaceReply reply_;
    sluice::proto::ReleaseRequest release_;
    sluice::proto::WorkerReport report_;
    const sluice::proto::Header header_;  // of reports

    // Of plain policies.
    std::vector<RoutedWorker> routed_;
    std::vector<std::uint64_t> lives_;
    std::vector<std::uint64_t> incarnations_;
    std::vector<scheduler::BlockNews> news_;
    scheduler::BlockIndex index_;
    std::map<AttemptKey, Sent> sent_;
    std::uint64_t turn_ = 0;
};

}  // namespace sim
