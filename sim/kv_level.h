#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "sim/modelled_mover.h"

namespace sim {

/// A level below the KV pool of each worker of a pool (docs/kv-memory.md), as far as the simulator goes by it.
struct KvLevel {
    std::string name;                  // "host", "disk"
    double kv_tokens = 0;              // that it has room for
    double kv_bytes_per_token = 0;     // > 0
    double load_bytes_per_second = 0;  // > 0
    double save_bytes_per_second = 0;  // > 0
    double launch_seconds = 0;         // CopyCosts
    bool saves_through = false;  // KV goes there while it is computed, as to host memory; else when its sequence ends
    bool knows_rate = false;     // what a load takes is measured before the first one, as a disk's is
    bool gives_up = false;       // CopyCosts
};

/// What became of levels below a worker's pool.
struct LevelUse {
    std::uint64_t pool_hit_tokens = 0;  // found in the pool by who got KV memory
    std::uint64_t tokens_computed = 0;  // that a level had, and were computed: loading was predicted to be slower
    /// Sequences that gave way and have memory again, by where the KV that they had comes from.
    std::uint64_t back_from_pool = 0;
    std::uint64_t back_loaded = 0;
    std::uint64_t back_from_both_ends = 0;
    std::uint64_t back_computed = 0;
    std::map<std::string, CopyCounts> copies;  // by level

    LevelUse& operator+=(const LevelUse& other);
};

}  // namespace sim
