#pragma once

#include <cstdint>

#include "proto/scheduler.pb.h"

namespace gateway {

/// What the workers of a model have to do by what they can, as they reported it last: 1 where as much waits as runs, or
/// where memory for KV is full. Of the pools (prefill, decode, mixed) the one that has most to do counts; workers that
/// drain or are silent do not. 0 without workers. Pure.
double pool_load(const sluice::proto::ModelState& state);

/// What pickers of other projects look at (Gateway API Inference Extension): over all workers that are ready.
struct WorkersLoad {
    std::uint64_t waiting = 0;  // requests
    std::uint64_t running = 0;
    double kv_usage = 0;  // share of the KV memory in use, of the pool where it is largest
};
WorkersLoad workers_load(const sluice::proto::ModelState& state);

}  // namespace gateway
