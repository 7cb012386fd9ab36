#pragma once

#include <cstdint>
#include <vector>

#include "base/model_shape.h"
#include "base/result.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// A model that is in memory and can compute batches: what LocalEngine drives. One thread calls, the engine's
/// coordinator, but for what is said to be constant.
class LoadedModel {
public:
    virtual ~LoadedModel() = default;

    /// Constant, like kv(): any thread.
    virtual const base::ModelShape& shape() const = 0;
    /// Null: an encoder.
    virtual kv_cache::KvStore* kv() = 0;
    /// CHECKs what an entry must be for this model, besides the bounds of all. The step thread, while no step runs.
    virtual void check(const BatchEntry& entry) const = 0;
    /// Error: as Engine::collect().
    virtual base::Result<std::vector<EntryResult>> run(const Batch& batch, const LayersDone& layers_done) = 0;
};

}  // namespace engine
