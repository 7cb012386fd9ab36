#pragma once

#include <optional>

#include "base/model_shape.h"
#include "base/result.h"
#include "kv_cache/kv_cache.h"
#include "worker/sequence.h"

namespace worker {

/// Why this request can never run on a worker with this model and this KV pool; empty when it can. Pure.
std::optional<base::Error> check_start(const StartRequest& request, const base::ModelShape& shape,
                                       const kv_cache::KvCache& cache);

/// The same of a text whose vector is wanted (Part::encode).
std::optional<base::Error> check_text(const StartRequest& request, const base::ModelShape& shape);

}  // namespace worker
