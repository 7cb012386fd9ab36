#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "gateway/explain/cause.h"
#include "gateway/request/slo_targets.h"
#include "proto/version.h"
#include "proto/worker.pb.h"

namespace gateway {

/// What is kept of one sequence at most.
inline constexpr std::size_t kAttemptsKept = 4;
inline constexpr std::size_t kLateTokensKept = 8;

/// One placement of a sequence and what came of it. Ids of workers as logs write them; 0: none.
struct Attempt {
    base::TimePoint asked_at{};                        // the scheduler, first
    std::optional<base::TimePoint> placed_at{};        // empty: nobody took it
    std::optional<base::TimePoint> first_token_at{};   // of this attempt
    std::optional<base::TimePoint> second_token_at{};  // split: the first one of decode
    std::optional<base::TimePoint> lost_at{};          // it failed there
    base::ErrorCode lost_code = base::ErrorCode::internal;
    std::uint64_t prefill_worker = 0;
    std::uint64_t decode_worker = 0;
    std::uint64_t lost_worker = 0;
    bool is_split = false;
    base::Duration predicted_ttft{};  // from the placement
    base::Duration predicted_tpot{};
    std::uint32_t cached_believed = 0;          // of the prompt, at the prefill worker
    std::uint32_t cached_tokens = 0;            // that were
    bool kv_recomputed = false;                 // on decode
    std::string kv;                             // split: how it came (proto SequenceOutput.kv_codec)
    std::optional<proto::PartTrace> prefill{};  // until its first token
    std::optional<proto::PartTrace> decode{};   // split: from there to the next
};

/// A token that came later after the one before than its TPOT target.
struct LateToken {
    std::uint32_t token = 0;  // 1: the second of the answer
    base::Duration gap{};
    std::uint64_t worker = 0;
    Cause cause = Cause::gateway;
    std::optional<proto::PartTrace> trace{};
};

/// What happened to one sequence, from the gateway's side and as its workers tell. Bounded.
struct SequenceTimeline {
    std::uint64_t id = 0;  // as workers' logs write it
    base::TimePoint received_at{};
    base::TimePoint opened_at{};  // prompt ready, first asked for a place
    base::TimePoint ended_at{};
    std::optional<base::TimePoint> first_token_at{};  // of all
    base::Duration tpot{};                            // mean gap of the tokens after it
    std::uint32_t prompt_tokens = 0;
    std::uint32_t completion_tokens = 0;
    std::uint32_t placements = 0;                       // also of those that are not kept
    std::vector<Attempt> attempts;                      // the first and the latest
    std::uint32_t late_count = 0;                       // of all
    Shares late;                                        // sum over all of them
    std::array<std::uint64_t, kCauses> late_workers{};  // who it was, last, for each share
    std::vector<LateToken> late_tokens;                 // those with the longest gaps
    Shares unfinished;                                  // what it waited for when it failed
    bool was_refused = false;                           // by the scheduler: the last word
    bool can_retry = false;                             // and it said when to come again
};

/// A miss and its one cause. `worker`: where that time was spent; 0: none, or several.
struct Miss {
    Cause cause = Cause::gateway;
    std::uint64_t worker = 0;
};

/// How a request ended, as far as its targets go.
struct Outcome {
    unsigned status = 200;
    SloTargets targets = {};
    bool ttft_met = true;
    bool tpot_met = true;
    bool e2e_met = true;
    base::Duration took{};  // with a target for it: from the last byte of the request to the end of the answer
};

/// Why a request missed its targets. `all` is there exactly when the request counts as bad (or the client caused its
/// end); where several targets were missed it is the cause of the one that was missed by the largest factor.
struct Explanation {
    std::optional<Miss> ttft;
    std::optional<Miss> tpot;
    std::optional<Miss> e2e;
    std::optional<Miss> all;
};

/// Time until the first token, by what it was spent for.
Shares ttft_shares(const SequenceTimeline& sequence);
/// Of the sequences that are known of a request (maybe none). Pure.
Explanation explain(const std::vector<std::shared_ptr<const SequenceTimeline>>& sequences, const Outcome& outcome);

/// What a late token's time went for. `gap` is the gateway's measure; what the worker's account does not cover was on
/// the way. Without an account the worker was in time by its own measure, or (not `worker_tells`) says nothing. Pure.
Shares gap_shares(base::Duration gap, const proto::PartTrace* trace, bool worker_tells);

}  // namespace gateway
