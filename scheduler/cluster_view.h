#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "base/ids.h"
#include "proto/roles.h"
#include "scheduler/costs.h"

namespace scheduler {

using proto::Role;

/// How a worker stands. `suspect`: a heartbeat is late. `ejected`: it has failed too many requests in a row
/// (ejections.h). `gone`: an empty place in the list of workers.
enum class WorkerStatus { ready, draining, suspect, ejected, gone };

/// What a worker said about itself when it registered; constant during its life.
struct WorkerLimits {
    std::uint32_t kv_blocks_total = 0;
    std::uint32_t block_tokens = 16;
    std::uint32_t context_tokens = 0;
    std::uint32_t batch_sequences_max = 0;
    std::uint32_t batch_tokens_max = 0;
    std::uint32_t queue_requests_max = 0;  // accepted and not finished; it refuses more
    std::uint64_t kv_bytes_per_token = 0;
    bool lends_kv = false;  // others may fetch KV from it
};

/// What a worker reported last.
struct ReportedLoad {
    std::uint32_t requests_waiting = 0;
    std::uint32_t requests_running = 0;
    std::uint64_t prefill_tokens_queued = 0;
    std::uint32_t decode_sequences = 0;
    std::uint64_t decode_context_tokens = 0;
    std::uint32_t blocks_room = 0;  // free or cached: can be had without taking anything from a sequence
    std::uint32_t blocks_used = 0;
    std::uint32_t kv_awaited = 0;  // hand-offs to it whose prompts are computed and that it has room for
    bool operator==(const ReportedLoad&) const = default;
};

/// What the scheduler has sent to a worker and the worker's reports cannot show yet.
struct PendingLoad {
    std::uint32_t prefill_requests = 0;
    std::uint64_t prefill_tokens = 0;  // uncached
    std::uint32_t decode_sequences = 0;
    std::uint64_t decode_context_tokens = 0;
    std::uint64_t decode_blocks = 0;
    bool operator==(const PendingLoad&) const = default;
};

/// Prompts whose first token should have been there by now.
struct LatePrompts {
    double prompts = 0;
    double tokens = 0;       // of them
    double next_tokens = 0;  // of the oldest prompt that is not late; 0: there is none
};

/// What a worker is expected to have left to do now (Backlog). What predictions go by; bounds go by the two above.
struct ExpectedLoad {
    double prompts = 0;              // without a first token
    double prompt_tokens = 0;        // of them, not computed yet
    double first_tokens = 0;         // of these, what the prompt whose turn it is has left ...
    double first_since_seconds = 0;  // ... or had so long ago
    LatePrompts late = {};           // of `prompts`
    double decoding = 0;             // sequences
    double decode_context = 0;       // their tokens
    double coming = 0;               // prompts, there or elsewhere, that will decode here
    double residual_seconds = 0;     // that a decoding sequence goes on, on average; 0: unknown
    double idle_seconds = 0;         // that it has had nothing to do; 0: it has
    /// That nothing was given to it beside other work, halved for each probe (Placement::is_probe) in a row before.
    double unjoined_seconds = 0;
    /// The least mean gap that was promised to one of those who decode here or will.
    double tpot_seconds_strictest = std::numeric_limits<double>::infinity();
};

/// One worker, as a decision sees it.
struct WorkerView {
    base::WorkerId id{};
    base::Incarnation incarnation{};
    Role role = Role::mixed;
    WorkerStatus status = WorkerStatus::gone;
    std::uint64_t numerics_id = 0;
    std::uint64_t registration = 0;  // 0, 1, ... in order of registration
    WorkerLimits limits;
    ReportedLoad load;
    PendingLoad pending;
    ExpectedLoad expected;
    Costs costs;
};

/// Settings of placement.
struct PlaceRules {
    /// True: workers of different numerics_id may share a request. Off: bit-identical tokens hold.
    bool allow_mixed_numerics = false;
    /// A decode worker prefills a prompt itself where that is predicted to be cheaper than a hand-off, what it costs
    /// those who decode there included, and keeps what they were promised. Off: never, as long as there is a worker
    /// for prefill.
    bool local_prefill_by_prediction = false;
    /// A worker that is believed to hold so many more tokens of the prompt than the prefill worker is named as the one
    /// to fetch them from; 0: none ever. What fetching costs is not weighed, nor what it saves predicted.
    std::uint32_t fetch_tokens_min = 0;
    /// What cannot be in time by prediction is refused, unless it has begun.
    bool admit_by_prediction = true;
    /// A worker that had nothing to do for so long is given the next request that asks for it, whatever is predicted,
    /// and so is one with sequences that decode, and no prompt, which nothing has joined for so long: a prediction that
    /// lets nobody in would never be put right. Infinite: never.
    double probe_after_seconds = 1;
};

/// All workers at one instant. Borrowed for the decision. Entries with status `gone` are skipped.
struct ClusterView {
    std::span<const WorkerView> workers;
    PlaceRules rules = {};
    /// Of `workers`, those among whom is decided; their order is that of the decision's indices. Empty: all.
    std::span<const std::uint32_t> among = {};

    std::size_t size() const { return among.empty() ? workers.size() : among.size(); }
    const WorkerView& at(std::size_t index) const { return workers[among.empty() ? index : among[index]]; }
};

inline bool can_prefill(const WorkerView& worker) {
    return proto::can_prefill(worker.role);
}
inline bool can_decode(const WorkerView& worker) {
    return proto::can_decode(worker.role);
}
/// Takes something new where nobody else can.
inline bool is_doubtful(const WorkerView& worker) {
    return worker.status == WorkerStatus::suspect || worker.status == WorkerStatus::ejected;
}

/// Requests that the worker holds, or will when what was sent to it arrives: against queue_requests_max.
inline std::uint64_t prefill_requests_held(const WorkerView& worker) {
    return std::uint64_t{worker.load.requests_running} + worker.load.requests_waiting + worker.pending.prefill_requests;
}
/// A decode worker counts a request as waiting from its Start until its KV is there, and we count it as pending for
/// about the same time: the larger of the two, not the sum.
inline std::uint64_t decode_requests_held(const WorkerView& worker) {
    return std::uint64_t{worker.load.requests_running} +
           std::max(worker.load.requests_waiting, worker.pending.decode_sequences);
}

}  // namespace scheduler
