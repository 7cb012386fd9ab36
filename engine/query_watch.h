#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/result.h"
#include "engine/engine.h"

namespace engine {

/// What a layer asks of its KV: `queries` [rows, heads_q * head_dim], rotated, of the tokens of one sequence from
/// `position` on. Called on the engine's compute thread before the layer's attention; valid during the call.
using QueryWatch = std::function<void(std::uint32_t layer, std::uint32_t position, std::span<const float> queries)>;

/// load_engine() for measurements that have to see queries, which nobody keeps. The host only. Error: also
/// unimplemented for a GPU, or an encoder.
base::Result<std::unique_ptr<Engine>> load_watched_engine(const EngineOptions& options, QueryWatch watch);

}  // namespace engine
