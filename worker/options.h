#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/config.h"
#include "base/result.h"
#include "proto/roles.h"

namespace worker {

using proto::Role;
using proto::role_name;

/// Bounds and times of a worker's step loop and plumbing (config section `worker`).
struct WorkerOptions {
    std::uint32_t queue_requests_max = 256;  // accepted and not finished
    std::uint32_t commands_max = 4096;       // between I/O threads and the step thread
    std::uint32_t batch_sequences_max = 64;
    std::uint32_t batch_tokens_max = 512;
    std::uint32_t chunk_tokens_max = 128;         // prompt tokens of a step that also decodes
    std::chrono::milliseconds prompt_wait{5000};  // a prompt that waited longer, and four of its TTFT targets behind
                                                  // its deadline, is computed whatever was promised to others
    /// Waiting for KV memory for so long counts as one priority more (plan_memory.h).
    std::chrono::milliseconds priority_wait{10000};
    std::chrono::milliseconds heartbeat{500};  // on the streams of gateways; to the scheduler as that one says
    std::chrono::milliseconds drain_timeout{30000};
    std::chrono::milliseconds stall_limit{30000};  // a step longer than this: heartbeats stop, others take over
    std::chrono::milliseconds kv_wait{10000};  // decode: how long KV may take after Continue before it is recomputed
    std::chrono::milliseconds kv_lease{2000};  // decode: without a sign of life for so long the hand-off has failed
    std::chrono::milliseconds room_pending{
        5000};  // decode: how long a room request and its Start may wait for one another
    std::chrono::milliseconds handoff_timeout{30000};  // prefill: how long it keeps KV for a peer after the first token
    /// How long a step waits for the masks of its sequences once it has their logits; one that comes later ends its
    /// sequence. Masks take milliseconds, so this is for machines that are busy with other things.
    std::chrono::milliseconds mask_wait{10000};
    std::uint32_t grammar_threads = 1;             // that make masks; as many compile
    std::uint32_t forced_tokens_max = 0;           // of a grammar, that come in one step; 0: one by one
    std::uint32_t grammars_kept_max = 64;          // compiled ones, for requests that want the same again
    std::uint32_t gateways_max = 256;              // streams of gateways at once
    std::uint64_t output_buffer_bytes = 8u << 20;  // to one gateway; a slower one is cut off
    // KV that is fetched from another worker, and lent to others: fetches under way at once, in either direction; a
    // fetch is a run of up to kv_transfer::kFetchBlocksMax blocks. 0: neither asks nor answers.
    std::uint32_t fetches_max = 64;
    std::chrono::milliseconds fetch_answer{500};    // without an answer for so long the KV is computed
    std::chrono::milliseconds fetch_timeout{5000};  // as long as fetching all of a prompt may take
    /// Whether KV that is slow to load, to fetch or to receive may come from one end while steps compute it from the
    /// other (kv_transfer/rate/both_ends.h). False: either all of it comes or all of it is computed.
    bool kv_both_ends = true;
    /// Of the KV pool: so much may hold KV that was loaded ahead, from a level below, for those who get memory next
    /// (plan_memory.h). 0: nothing is loaded before its sequence has memory.
    std::uint32_t kv_ahead_percent = 0;

    /// How KV travels on hand-offs where the placement does not say: raw, exact, a lossy codec (int8, cachegen,
    /// sluice), or auto: each frame as the wire makes best. The other side answers with what it has. A lossy codec is
    /// used only for requests that may have loss, and exact for the others.
    std::string kv_codec = "raw";
    std::uint32_t kv_level = 4;     // of a lossy codec that is named
    bool kv_lossy_allowed = false;  // whether any request may have loss here
    std::string kv_profile = {};    // of the codec sluice (`sluice kv calibrate`); empty: none

    /// What holds where the config says nothing: the values above; on a GPU batches that keep it busy.
    static WorkerOptions defaults(bool on_gpu);
    static WorkerOptions read(base::Config& config, bool on_gpu);
};

}  // namespace worker
