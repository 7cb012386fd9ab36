#include "engine/kernels/cuda/kv_pool_map.h"

#include <cuda.h>

#include <cstring>

namespace engine::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// cuTensorMapEncodeTiled of the driver that the runtime has loaded; null: too old, or no driver.
Encode find_encode() {
    constexpr unsigned kSince = 12000;  // CUDA 12.0
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t code =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince, cudaEnableDefault, &found);
    if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) { return nullptr; }
    return reinterpret_cast<Encode>(function);
}

}  // namespace

cudaError_t make_kv_pool_map(const KvLayer& kv, std::int64_t blocks, KvPoolMap* map) {
    static_assert(sizeof(KvPoolMap) == sizeof(CUtensorMap));
    constexpr cuuint64_t kElement = 2;
    const auto head_dim = static_cast<cuuint64_t>(kv.head_dim);
    const auto block_tokens = static_cast<cuuint64_t>(kv.block_tokens);
    if (kv.head_dim <= 0 || kv.head_dim % 64 != 0 || kv.block_tokens % 16 != 0 || blocks <= 0 ||
        kv.tile_bytes != head_dim * block_tokens * kElement || kv.block_bytes % kv.tile_bytes != 0) {
        return cudaErrorInvalidValue;
    }
    const Encode encode = find_encode();
    if (encode == nullptr) { return cudaErrorNotSupported; }
    const cuuint64_t extent[4] = {head_dim, block_tokens, kv.block_bytes / kv.tile_bytes,
                                  static_cast<cuuint64_t>(blocks)};
    const cuuint64_t stride[3] = {head_dim * kElement, kv.tile_bytes, kv.block_bytes};  // bytes, from dimension 1 on
    const cuuint32_t box[4] = {64, 16, 1, 1};
    const cuuint32_t every[4] = {1, 1, 1, 1};
    CUtensorMap encoded;
    const CUresult result = encode(&encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, kv.base, extent, stride, box, every,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) { return cudaErrorInvalidValue; }
    std::memcpy(map->bytes, &encoded, sizeof(encoded));
    return cudaSuccess;
}

}  // namespace engine::cuda
