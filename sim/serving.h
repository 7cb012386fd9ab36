#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/result.h"
#include "proto/roles.h"
#include "scheduler/options.h"
#include "scheduler/planner/beside.h"
#include "scheduler/planner/host_work.h"
#include "scheduler/planner/step_times.h"
#include "sim/faults.h"
#include "sim/kv_level.h"
#include "sim/policies.h"
#include "worker/options.h"

namespace sim {

inline constexpr std::uint32_t kServingWorkersMax = 65'536;

/// Equal workers. `times` is borrowed.
struct ServingPool {
    proto::Role role = proto::Role::mixed;
    std::uint32_t count = 1;
    const scheduler::planner::StepTimes* times = nullptr;
    worker::WorkerOptions limits;
    double kv_tokens = 0;
    std::uint32_t threads = 1;         // compute threads of each worker, where workers share cores
    std::vector<KvLevel> levels = {};  // below each worker's pool, the nearest first; a death takes them with it
};

/// How KV goes from worker to worker. Each sends and receives one hand-off at a time.
struct ServingLinks {
    double kv_bytes_per_token = 0;  // on the wire
    double bytes_per_second = 0;    // of each worker, one way; 0: a hand-off takes no time
    double latency_seconds = 0;
    std::uint32_t layers = 1;  // KV leaves layer by layer while the last step of the prompt computes
    /// Processor time of a hand-off where it has no core of its own, for each token whose KV travels: so much longer
    /// takes the step that computes it, and the next step of who receives it.
    double sender_seconds_per_token = 0;
    double receiver_seconds_per_token = 0;
};

struct ServedRequest {
    double arrival_s = 0;             // ascending
    std::uint32_t prompt_tokens = 0;  // > 0
    std::uint32_t output_tokens = 0;  // > 0; told as its bound, and all generated
    std::uint64_t first_block = 0;    // of ServingTrace::blocks
    std::uint32_t blocks = 0;         // full ones of its prompt
};

/// What arrives. Blocks by name: equal names are equal KV, whatever stands before them.
struct ServingTrace {
    std::vector<ServedRequest> requests;
    std::vector<base::BlockHash> blocks;
    std::uint32_t block_tokens = 16;
};

struct ServingOptions {
    std::vector<ServingPool> pools;  // prefill and decode, or mixed
    ServingLinks links;
    /// Of the one machine that all workers compute on: while the threads of those that compute are more than these,
    /// all advance at cores / threads of their pace (decision 0093). 0: each worker has a machine of its own.
    std::uint32_t cores = 0;
    scheduler::planner::Beside beside = {};  // of workers on these cores
    scheduler::planner::HostWork host = {};  // on these cores
    double ttft_target_s = 0;                // told to the scheduler and the workers; 0: none
    double tpot_target_s = 0;
    Policy policy = Policy::sluice;
    scheduler::SchedulerOptions scheduler;
    std::vector<Fault> faults;
    std::uint64_t seed = 1;
    double noise = 0.02;  // steps take up to this share longer or shorter than the model says
    bool keeps_token_times = true;
    bool checks = false;  // every invariant after every event: for tests
    /// Where owners need not hear of every token: ends of steps that change nothing but how far each sequence is are
    /// passed one after the other when somebody next wants to know of their worker. What comes out is the same.
    bool passes_quiet_steps = true;
    /// Whether owners hear of every token, or only of those that change something for them.
    bool tells_every_token() const { return keeps_token_times || checks || !faults.empty(); }
};

struct ServedOutcome {
    double first_token_s = -1;  // from the start, like all times; negative: none
    double last_token_s = -1;
    double ended_s = -1;
    std::uint32_t tokens = 0;
    std::uint32_t cached_tokens = 0;
    std::uint32_t placements = 0;
    std::optional<base::ErrorCode> error = std::nullopt;
    std::vector<float> token_gaps_s = {};  // between neighbours, where they are kept
};

struct ServingCounts {
    std::uint64_t events = 0;
    std::uint64_t steps = 0;
    std::vector<std::uint64_t> steps_each = {};  // of each worker, in the order of the pools
    std::uint64_t quiet_steps = 0;               // of them, whose ends were passed; each is an event all the same
    std::uint64_t tokens = 0;
    std::uint64_t preemptions = 0;
    std::uint64_t placements = 0;
    std::uint64_t refused = 0;  // before anything was placed
    std::uint64_t placed_again = 0;
    std::uint64_t hand_offs = 0;
    double hand_off_seconds = 0;   // in sum, from the first token until the KV was there
    std::uint64_t recomputed = 0;  // hand-offs whose KV did not come
    double busy_seconds = 0;       // of all workers' engines
    std::uint64_t terms = 0;       // times that a scheduler began to lead, where one may fail
    LevelUse levels;               // of all workers
};

struct ServingResult {
    std::vector<ServedOutcome> outcomes;  // in the order of the requests
    ServingCounts counts;
    double ended_s = 0;
    std::optional<std::string> violation = std::nullopt;  // with ServingOptions::checks: the first, where it stopped
};

/// Plays the trace through the production scheduler (or a plain policy), step planning, plan of KV memory and KV pools,
/// over modelled engines and links, on a virtual clock. The same input gives the same output. Differences from the
/// processes: docs/planning.md, "What is played". Error: invalid_argument for pools, a target of a fault or a request
/// that cannot be.
base::Result<ServingResult> simulate_serving(const ServingOptions& options, const ServingTrace& trace);

}  // namespace sim
