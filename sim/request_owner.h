#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gateway/request/generation.h"
#include "gateway/request/retry_budget.h"
#include "sim/modelled_worker.h"
#include "sim/placer.h"
#include "sim/serving.h"
#include "sim/virtual_clock.h"

namespace sim {

/// The way from the owner of a request to workers. Calls return at once.
class AttemptPort {
public:
    virtual ~AttemptPort() = default;
    virtual void start(std::uint32_t worker, const LightStart& start, std::uint32_t peer) = 0;
    virtual void go_on(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens) = 0;
    virtual void cancel(std::uint32_t worker, AttemptKey key) = 0;
    virtual std::uint64_t incarnation(std::uint32_t worker) const = 0;
    /// RequestOwner::on_time is to be called then.
    virtual void wake(AttemptKey key, base::TimePoint at) = 0;
};

/// The light form of gateway::Generation and its table: moves each request from placement to its one end, elsewhere
/// when a worker fails, by the same rules and bounds (gateway::RequestOptions, gateway::RetryBudget), with the number
/// of a token in place of the token. Clients neither cancel nor come back.
class RequestOwner {
public:
    /// All are borrowed.
    RequestOwner(const ServingOptions& options, const ServingTrace& trace, PlacePort& placer, AttemptPort& port,
                 const VirtualClock& clock, ServingResult& result);

    void arrive(std::uint32_t request);
    /// The attempt has given so many tokens now: one more than before, or some (ServingOptions::tells_every_token).
    void on_token(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens, std::uint32_t cached_tokens);
    void on_failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code);
    void on_handed_over(AttemptKey key);
    /// Its stream has ended.
    void on_worker_lost(std::uint32_t worker);
    void on_time(AttemptKey key);

    /// Asks the processor to have ready what a token of this attempt will read and write.
    void fetch(AttemptKey key) const {
        __builtin_prefetch(&requests_[key.request], 1);
        __builtin_prefetch(&result_.outcomes[key.request], 1);
        __builtin_prefetch(&trace_.requests[key.request]);
    }

    std::size_t open() const { return open_; }
    /// The first thing that must not happen, and did.
    const std::optional<std::string>& violation() const { return violation_; }

private:
    /// What a token reads stands first, in one cache line.
    struct alignas(64) Open {
        AttemptKey key;
        std::uint32_t generated = 0;
        std::uint32_t epoch_tokens = 0;
        std::uint32_t prefill = 0;
        std::uint32_t decode = 0;
        bool is_open = false;  // it has arrived, and has not ended
        bool workers_known = false;
        bool is_split = false;
        bool prefill_done = false;
        bool decode_done = false;
        bool is_waiting = false;
        std::uint32_t placements = 0;
        base::TimePoint placed_at{};
        base::TimePoint first_token_at{};
        base::TimePoint last_token_at{};

        std::uint64_t prefill_life = 0;  // incarnations
        std::uint64_t decode_life = 0;
        std::optional<base::TimePoint> give_up_at;
        std::vector<std::uint64_t> avoid;
    };
    Open* find(AttemptKey key);
    void place(Open& open);
    void take(Open& open, const Placed& placed);
    void attempt_failed(Open& open, std::uint32_t worker, base::ErrorCode code);
    void wait_for_place(Open& open, base::ErrorCode code, std::uint32_t retry_after_ms);
    void close_epoch(Open& open);
    void end(Open& open, std::optional<base::ErrorCode> error);
    void violate(AttemptKey key, const std::string& what);

    const ServingOptions& options_;
    const ServingTrace& trace_;
    PlacePort& placer_;
    AttemptPort& port_;
    const VirtualClock& clock_;
    ServingResult& result_;
    const gateway::RequestOptions rules_;
    gateway::RetryBudget retries_;
    std::vector<Open> requests_;
    std::size_t open_ = 0;
    std::optional<std::string> violation_;
};

}  // namespace sim
