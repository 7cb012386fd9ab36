#pragma once

#include "proto/scheduler.pb.h"

namespace gateway {

/// What the workers of a model have to do by what they can, as they reported it last: 1 where as much waits as runs, or
/// where memory for KV is full. Of the pools (prefill, decode, mixed) the one that has most to do counts; workers that
/// drain or are silent do not. 0 without workers. Pure.
double pool_load(const sluice::proto::ModelState& state);

}  // namespace gateway
