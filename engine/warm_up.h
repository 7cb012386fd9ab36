#pragma once

#include <cstdint>

#include "base/result.h"
#include "engine/engine.h"

namespace engine {

/// Runs steps that mean nothing, before the first that does: one chunk of each power of two up to `batch_tokens_max`,
/// then twice one token of every number of sequences up to `batch_sequences_max` for which a backend may record a step
/// of its own (CudaBackend: row_bucket()). On a GPU the first step of a size loads kernels and chooses algorithms, the
/// second is recorded; without this the first requests wait for it. Writes into blocks from 0 on: nothing may live
/// there yet. Error: the first of a step.
base::Result<void> warm_up(Engine& engine, std::uint32_t batch_tokens_max, std::uint32_t batch_sequences_max);

/// One step of a few tokens from all over the vocabulary, as the first request would have it: whether the model gives
/// numbers at all. Single weights may be in order and their products not, and a server that is healthy and answers
/// every request with the same error helps nobody. Writes into block 0. Error: that of the step, or data_loss.
base::Result<void> try_model(Engine& engine, std::uint32_t batch_tokens_max);

}  // namespace engine
