#pragma once

#include <cstdint>

#include "device/prefault.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/kv_store.h"
#include "worker/role_part.h"

namespace worker {

/// Has the memory of a KV pool on the host touched ahead of its use, so much behind the highest block that was ever in
/// use: blocks are given out from the lowest free one on (BlockPool), so that is where the next prompt's KV goes. A
/// helper of the step loop; its work is done on Prefault's thread.
class PoolPrefault final : public RolePart {
public:
    /// Both must outlive this. `ahead_bytes` > 0.
    PoolPrefault(kv_cache::KvStore& store, const kv_cache::KvCache& cache, std::uint64_t ahead_bytes);

    void tick() override;

    const device::Prefault& prefault() const { return prefault_; }

private:
    const kv_cache::KvCache& cache_;
    const std::size_t block_bytes_;
    device::Prefault prefault_;
};

}  // namespace worker
