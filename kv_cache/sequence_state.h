#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache/kv_cache.h"

namespace kv_cache {

/// What KvCache knows about an open sequence. Internal to this folder.
struct SequenceKv::State {
    explicit State(KvCache& owner) : cache(owner) {}

    KvCache& cache;
    std::uint64_t number = 0;            // order of opening
    std::vector<BlockId> blocks;         // the table; each is referenced once for it
    std::uint32_t tail = 0;              // blocks reserved right behind blocks.back()
    std::uint32_t blocks_prefix = 0;     // came from the match
    std::uint32_t blocks_published = 0;  // have a hash: indexed, or a private duplicate
    bool is_private = false;             // what is behind them gets none
    std::uint64_t conversation = 0;      // that it belongs to; 0: none
};

}  // namespace kv_cache
