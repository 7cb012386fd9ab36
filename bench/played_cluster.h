#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/step_cost.h"
#include "scheduler/place.h"
#include "scheduler/registry.h"

namespace bench {

/// What is asked of a played cluster. Times are in seconds from its start.
struct PlayedRequest {
    double at = 0;
    std::uint32_t prompt_tokens = 0;
    std::uint32_t answer_tokens = 1;
    std::vector<base::BlockHash> chain = {};  // of the prompt's full blocks
    double ttft_seconds = scheduler::kNoTarget;
    double tpot_seconds = scheduler::kNoTarget;
};

/// Workers as a scheduler's registry sees them: they take what is placed, are busy for as long as their costs say, and
/// report load and prefixes. Plays what decisions are measured and compared on: no engine, no steps, no threads; a
/// prompt at a time on each worker. Not thread-safe.
class PlayedCluster {
public:
    struct Options {
        std::uint32_t workers = 100;
        double prefill_share = 0;  // of them for prefill only, the others for decode only; 0: all are mixed
        std::uint32_t block_tokens = 16;
        std::uint32_t blocks_total = 100'000;  // of each
        std::uint32_t context_tokens = 1'000'000;
        base::StepCost cost = {.prefill = {5e-3, 2e-5, 1e-10}, .decode = {8e-3, 2e-5, 2e-9}};
        double speed_spread = 0.2;  // workers take 1 - spread to 1 + spread of that
        bool reports_prefixes = true;
        std::uint32_t seed = 1;
    };
    /// Enrols its workers. Borrows the registry.
    PlayedCluster(const Options& options, scheduler::Registry& registry);

    /// Everything that happens until then: first tokens, ends, reports.
    void advance(double seconds);
    base::TimePoint now() const { return now_; }
    /// As place() is asked, without prefixes. Borrows nothing.
    scheduler::PlaceQuery query_of(const PlayedRequest& request) const;
    /// The request runs where it was placed: the registry hears of it, then the workers.
    void take(const PlayedRequest& request, const scheduler::Placement& placement) {
        run(request, placement, remember(request, placement));
    }
    /// The two by themselves: the first is the scheduler's work.
    base::RequestId remember(const PlayedRequest& request, const scheduler::Placement& placement);
    void run(const PlayedRequest& request, const scheduler::Placement& placement, base::RequestId id);
    /// The share of one request that a worker for prefill, or a mixed one, is busy with: for choosing a rate.
    double busy_seconds(const PlayedRequest& request) const;
    /// The worker holds these blocks, as it will report at once. The last of them is the first to be forgotten.
    void give_prefix(std::uint32_t slot, std::span<const base::BlockHash> chain);

private:
    struct Worker {
        scheduler::Registry::Life life;
        scheduler::Role role = scheduler::Role::mixed;
        base::StepCost cost;
        double free_at = 0;  // its prompts are computed
        std::uint32_t prompts = 0;
        std::uint64_t prompt_tokens = 0;
        std::uint32_t sequences = 0;
        std::uint64_t context = 0;
        std::uint64_t blocks_used = 0;
        std::uint64_t heartbeats = 0;
        std::uint64_t events = 0;
        // Cached blocks by their last use; a later block of a chain is older.
        std::set<std::pair<std::uint64_t, base::BlockHash>> by_use;
        std::unordered_map<base::BlockHash, std::uint64_t> used_at;
        std::unordered_map<base::BlockHash, bool> changed;  // since the last report: whether it is held now
    };
    struct Running {
        std::uint32_t prefill = 0;
        std::uint32_t decode = 0;
        std::uint32_t uncached = 0;
        std::uint32_t prompt_tokens = 0;
        std::uint32_t answer_tokens = 0;
        std::vector<base::BlockHash> chain;  // empty where no prefixes are reported
    };
    struct Event {
        double at;
        std::uint64_t request;  // 0: a report of the worker `slot`
        std::uint32_t slot;
        bool is_first_token;
        bool operator>(const Event& other) const { return at > other.at; }
    };
    void happen(const Event& event);
    void report(std::uint32_t slot);
    std::uint64_t blocks_of(std::uint32_t prompt_tokens, std::uint32_t answer_tokens) const;

    const Options options_;
    scheduler::Registry& registry_;
    std::vector<Worker> workers_;  // by slot
    std::map<std::uint64_t, Running> running_;
    std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
    std::mt19937_64 random_;
    base::TimePoint started_{};
    base::TimePoint now_{};
    double seconds_ = 0;
    std::uint64_t next_request_ = 1;
    std::uint64_t uses_ = 0;
};

}  // namespace bench
