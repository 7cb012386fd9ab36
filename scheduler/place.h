#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/ids.h"
#include "base/result.h"
#include "scheduler/cluster_view.h"
#include "scheduler/level_index.h"

namespace scheduler {

/// A target that any time meets.
inline constexpr double kNoTarget = std::numeric_limits<double>::infinity();

/// A worker that is going to hold the first blocks of a prompt: the prompt of another request that was placed there.
struct ComingPrefix {
    base::Incarnation worker{};
    std::uint32_t blocks = 0;
};

/// A worker to which the request's conversation, or others of its group, went last.
struct Affinity {
    base::Incarnation worker{};
    /// What it is worth to come back there: this part of what is predicted for the uncached rest of the prompt (to
    /// compute it, on the worker for prefill; to move it, on the one for decode). 0 to 1.
    double share = 0;
};

/// A request, or the rest of one, that needs workers.
struct PlaceQuery {
    std::uint32_t prompt_tokens = 0;   // KV that is needed before the next token; > 0
    std::uint32_t new_tokens_max = 0;  // tokens that may follow
    std::uint64_t numerics_id = 0;     // 0: whatever the pool has; else the rest of a stream that began with this id
    /// Per worker among whom is decided (ClusterView::at): leading full blocks of the prompt that it is believed to
    /// hold. Empty: none.
    std::span<const std::uint32_t> cached_blocks = {};
    /// The same: of those blocks, what lies only below the worker's pool. Empty: nothing does.
    std::span<const BelowPool> below_pool = {};
    /// What reports do not show yet, and what names of conversations tell; a few entries. A worker's leading blocks are
    /// the more of those that it holds and those that are coming there: a prompt behind the one that brings them finds
    /// them when its turn comes.
    std::span<const ComingPrefix> coming = {};
    std::span<const Affinity> affinities = {};
    /// Lives that just failed this request.
    std::span<const base::Incarnation> avoid = {};
    double ttft_seconds_left = kNoTarget;    // until its first token is due; negative: it is late
    double tpot_seconds_target = kNoTarget;  // mean gap of the later ones
    bool may_refuse = true;                  // for its targets; false: it has begun
    /// Of the time that it could wait for its turn it may be predicted to wait for so much, or, if that is less, for
    /// what leaves room for another one like it behind it: less than 1 for who had more than others. Nothing of that
    /// for what need not wait.
    double queue_share = 1;
};

/// Where both phases run. Indices as ClusterView::at has them; equal when one worker does both ("local").
struct Placement {
    std::size_t prefill = 0;
    std::size_t decode = 0;
    std::uint32_t cached_prompt_tokens = 0;  // on the prefill worker, coming ones included; at most prompt - 1
    double queue_seconds = 0;                // until the prefill worker turns to this prompt
    double ttft_seconds = 0;                 // queue and uncached prefill: the first token leaves the prefill worker
    double handoff_seconds = 0;              // KV to the decode worker; 0 when local
    double tpot_seconds = 0;
    double cost_seconds = 0;                              // what was minimised: see place()
    std::optional<std::size_t> kv_source = std::nullopt;  // who has KV that the prefill worker lacks; to fetch it from
    std::uint32_t kv_source_tokens = 0;                   // that it is believed to have, from the first token on
    std::string_view reason;  // "cheapest", "probe", "no_prefill_worker", "last_resort" (suspect or avoided workers)
    bool is_probe = false;    // predicted to miss its targets, and let in to see: PlaceRules::probe_after_seconds
    bool encodes = false;     // a text of which a vector is wanted; prefill is decode then
    bool local() const { return prefill == decode; }
    std::string_view path() const { return encodes ? "encode" : local() ? "local" : "disaggregated"; }
};

/// Why a request has no place now. `resource_exhausted`: queues full, or too late for its targets; `unavailable`: no
/// worker; `invalid_argument`: fits no worker, ever.
struct Refusal {
    base::Error error;
    std::uint32_t retry_after_ms = 0;  // 0: do not retry
    std::string_view
        reason;  // label: "queues_full", "slo_infeasible", "over_share", "no_worker", "never_fits", "bad_request"
};

using PlaceOutcome = std::variant<Placement, Refusal>;

/// Tokens of the answer that weigh in a decision: the cost of an option is the predicted time to this token (fewer when
/// the request may not have as many). Long enough that a slow decode worker shows, short enough that TTFT leads.
inline constexpr std::uint32_t kWeighedTokens = 32;

/// Where this request gets its answer soonest. Pure: no clock, no I/O, no log. O(workers).
///
/// cost(prefill worker p, decode worker d) =
///     queue and uncached prefill on p                                    (the predicted TTFT; KV below its pool is
///                                                                        loaded meanwhile, or computed if that is
///                                                                        sooner)
///   + hand-off of the KV that d lacks                                    (0 when p is d)
///   + predicted TPOT of d, with this sequence, * min(kWeighedTokens, new_tokens_max)
///   + prefill seconds * sequences that decode there meanwhile            (only when p is d: what it costs the others;
///                                                                        whole steps that TTFT waits for are left
///                                                                        out then, since decode waits for them on
///                                                                        any d)
/// So the prefill worker of a split request is the one with the least predicted TTFT, and its decode worker the one
/// that takes it over soonest and fastest. Decode workers that will have room for the whole request (blocks for prompt
/// and new_tokens_max, a place in the batch) when the prompt has been computed come before all others; among those
/// without, the predicted wait from then on is part of the cost. Ties go to the lower worker id. A split request has at
/// most one mixed worker: a pool of mixed workers is colocated serving.
///
/// Affinity (PlaceQuery::affinities) is taken off the cost of an option when it is compared, and off nothing else: so
/// it decides between options that are about equal, is worth less the more of the prompt the worker is known to hold,
/// and lets no queue grow by more than a part of one prompt over another worker's. So is a quarter of the work that is
/// saved where another prompt brings what this one begins with (PlaceQuery::coming). Room and targets come first.
/// Both count nothing for a tenant that is held back (queue_share below 1).
///
/// Options that are predicted to meet the request's targets come before all others, at the same room. Where there is
/// none, PlaceRules::admit_by_prediction is set and prediction rests on what was measured, a request that has not begun
/// is refused (early rejection, Mooncake, FAST 2025, section 6): late answers would make others late, too. So is, then,
/// one that would wait for longer than PlaceQuery::queue_share allows: its tenant has had more than others.
///
/// Who is asked: workers of one numerics_id (unless rules allow otherwise) that could hold the request when empty.
/// Never draining ones (they take nothing new). Suspect ones only when there are no ready ones, avoided ones only when
/// there is nothing else. Without any worker for prefill, decode workers do both phases; with one, where
/// PlaceRules::local_prefill_by_prediction is set, p may be d for them too. Source: DistServe (OSDI 2024)
/// section 4.3 and Mooncake (FAST 2025) algorithm 1; the joint cost is ours.
PlaceOutcome place(const ClusterView& view, const PlaceQuery& query);

/// The numerics_id that new requests are placed on: that which has workers for both phases, then the most ready
/// workers, then the earliest registration. Encoders have no part in it. Empty without workers.
std::optional<std::uint64_t> pool_numerics(std::span<const WorkerView> workers);

/// Where the vector of a text (query.prompt_tokens; new_tokens_max and cached_blocks are not looked at) is made
/// soonest: of the workers that encode, with room before full, ready before suspect and avoided, then the least
/// predicted time of queue and text; ties go to the lower worker id. Of one numerics_id (encode_numerics(), unless
/// rules allow otherwise), never a draining one. Pure. O(workers).
PlaceOutcome place_encode(const ClusterView& view, const PlaceQuery& query);

/// That of the earliest registration among workers that encode, those that take new texts first. Empty without any.
std::optional<std::uint64_t> encode_numerics(std::span<const WorkerView> workers);

}  // namespace scheduler
