#include "worker/pool_prefault.h"

#include "base/check.h"

namespace worker {
namespace {

/// Behind the highest block that is in use, or reserved, now.
std::uint32_t blocks_reached(const kv_cache::BlockPool& pool) {
    const auto& runs = pool.free_runs();
    if (runs.empty()) { return pool.blocks_total(); }
    const auto& [first, count] = *runs.rbegin();
    return first + count == pool.blocks_total() ? first : pool.blocks_total();
}

}  // namespace

PoolPrefault::PoolPrefault(kv_cache::KvStore& store, const kv_cache::KvCache& cache, std::uint64_t ahead_bytes)
    : cache_(cache),
      block_bytes_(store.layout().block_bytes()),
      prefault_(store.run({kv_cache::BlockId{0}, store.blocks_total()}), ahead_bytes) {
    CHECK(ahead_bytes > 0 && store.device().is_host_memory());
}

void PoolPrefault::tick() {
    prefault_.used(blocks_reached(cache_.pool()) * block_bytes_);
}

}  // namespace worker
