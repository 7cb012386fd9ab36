#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "engine/kernels/cuda/launch.h"

namespace engine::cuda {

/// How the tensor memory accelerator of Hopper finds a tile of the KV pool: a CUtensorMap of [blocks][tiles of a
/// block][block_tokens][head_dim] bf16, read in boxes of 16 tokens x 64 dims. Passed to kernels by value.
struct alignas(128) KvPoolMap {
    std::byte bytes[128];
};

/// Describes the pool of `blocks` blocks that `kv` is a layer of (kv.layer_offset is not read). Asks the driver; once
/// per pool. Errors: cudaErrorInvalidValue (head_dim no multiple of 64, blocks that are not made of tiles),
/// cudaErrorNotSupported (a driver without tensor maps).
cudaError_t make_kv_pool_map(const KvLayer& kv, std::int64_t blocks, KvPoolMap* map);

}  // namespace engine::cuda
