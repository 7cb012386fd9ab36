// What writes and copies KV: bias, per-head norm and rotation of q and k with the append to the blocks; and copies of
// a layer range of a token range between the block-major pool and a contiguous buffer.
#include "engine/kernels/cuda/device.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kHeadDimMax = 256;

/// kUnit neighbouring elements at `from` as floats.
template <int kUnit>
__device__ __forceinline__ void load_unit(const Bf16* from, float (&x)[kUnit]) {
    if constexpr (kUnit == 2) {
        const unsigned pair = *reinterpret_cast<const unsigned*>(from);
        x[0] = low_float(pair);
        x[1] = high_float(pair);
    } else {
        x[0] = float_of(*from);
    }
}
template <int kUnit>
__device__ __forceinline__ void store_unit(Bf16* to, const float (&x)[kUnit]) {
    if constexpr (kUnit == 2) {
        *reinterpret_cast<unsigned*>(to) = bf16_pair(x[0], x[1]);
    } else {
        *to = bf16_of(x[0]);
    }
}

/// One warp per (row, head). A lane works on units of kUnit elements of the lower half of the head and on their
/// partners in the upper half. kUnit = 2 where head_dim is a multiple of 4.
template <int kUnit>
__global__ void __launch_bounds__(kThreads) rope_append_kernel(RopeAppendArguments a) {
    wait_for_previous();
    let_next_start();
    constexpr int kUnitsPerLane = kHeadDimMax / 2 / kUnit / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
    const int heads_kv = a.kv.kv_heads;
    const int heads = a.heads_q + 2 * heads_kv;
    if (head >= heads) { return; }
    const int d = a.kv.head_dim;
    const int half = d / 2;
    const std::size_t row = blockIdx.x;
    const std::int32_t position = a.map.row_position[row];
    const bool is_q = head < a.heads_q;
    const bool is_v = head >= a.heads_q + heads_kv;
    if (position < 0 && !is_q) { return; }  // idle: no KV

    Bf16* target;
    if (is_q) {
        target = a.q + (row * a.heads_q + head) * d;
    } else {
        // Planes of a layer: K heads, then V heads.
        const int plane = head - a.heads_q;
        const std::int32_t sequence = a.map.row_sequence[row];
        const std::int32_t block =
            a.map.block_tables[static_cast<std::size_t>(sequence) * a.map.table_stride + position / a.kv.block_tokens];
        std::byte* tile = a.kv.base + static_cast<std::size_t>(block) * a.kv.block_bytes + a.kv.layer_offset +
                          static_cast<std::size_t>(plane) * a.kv.tile_bytes;
        target = reinterpret_cast<Bf16*>(tile) + static_cast<std::size_t>(position % a.kv.block_tokens) * d;
    }

    const Bf16* source = a.qkv + (row * heads + head) * d;
    const float* bias = a.qkv_bias == nullptr ? nullptr : a.qkv_bias + static_cast<std::size_t>(head) * d;
    float low[kUnitsPerLane][kUnit];
    float high[kUnitsPerLane][kUnit];
    float squares = 0;
#pragma unroll
    for (int j = 0; j < kUnitsPerLane; ++j) {
        const int i = (j * kWarp + lane) * kUnit;
        if (i >= half) { continue; }
        load_unit<kUnit>(source + i, low[j]);
        load_unit<kUnit>(source + half + i, high[j]);
#pragma unroll
        for (int u = 0; u < kUnit; ++u) {
            if (bias != nullptr) {
                low[j][u] += bias[i + u];
                high[j][u] += bias[half + i + u];
            }
            squares += low[j][u] * low[j][u];
            squares += high[j][u] * high[j][u];
        }
    }
    const float* norm = is_v ? nullptr : is_q ? a.q_norm : a.k_norm;
    float scale = 1;
    if (norm != nullptr) {  // the same for the whole warp
        scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + a.norm_eps);
    }
#pragma unroll
    for (int j = 0; j < kUnitsPerLane; ++j) {
        const int i = (j * kWarp + lane) * kUnit;
        if (i >= half) { continue; }
#pragma unroll
        for (int u = 0; u < kUnit; ++u) {
            float x = low[j][u];
            float y = high[j][u];
            if (norm != nullptr) {
                x = x * scale * norm[i + u];
                y = y * scale * norm[half + i + u];
            }
            if (!is_v) {
                const std::size_t at = static_cast<std::size_t>(position < 0 ? 0 : position) * half + i + u;
                const float cosine = a.cosines[at];
                const float sine = a.sines[at];
                low[j][u] = x * cosine - y * sine;
                high[j][u] = y * cosine + x * sine;
            } else {
                low[j][u] = x;
                high[j][u] = y;
            }
            if (position < 0) {
                low[j][u] = 0;
                high[j][u] = 0;
            }
        }
        store_unit<kUnit>(target + i, low[j]);
        store_unit<kUnit>(target + half + i, high[j]);
    }
}

/// blockIdx.y: (layer, part, head); x and threads: (token, piece of its head_dim elements).
template <class Piece, bool kGather>
__global__ void __launch_bounds__(kThreads) kv_copy_kernel(KvCopyArguments a, Piece* buffer, int pieces) {
    wait_for_previous();
    let_next_start();
    const int tokens = a.token_end - a.token_begin;
    const int index = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
    if (index >= tokens * pieces) { return; }
    const int token = index / pieces;
    const int planes = 2 * a.kv.kv_heads;
    const int layer = static_cast<int>(blockIdx.y) / planes;
    const int plane = static_cast<int>(blockIdx.y) % planes;
    const int position = a.token_begin + token;
    const std::int32_t block = a.blocks[position / a.kv.block_tokens];
    std::byte* tile = a.kv.base + static_cast<std::size_t>(block) * a.kv.block_bytes +
                      static_cast<std::size_t>(a.layer_begin + layer) * a.layer_stride +
                      static_cast<std::size_t>(plane) * a.kv.tile_bytes;
    Piece* in_pool = reinterpret_cast<Piece*>(tile) + (position % a.kv.block_tokens) * pieces + index % pieces;
    Piece* in_buffer = buffer + static_cast<std::size_t>(blockIdx.y) * tokens * pieces + index;
    if constexpr (kGather) {
        *in_buffer = *in_pool;
    } else {
        *in_pool = *in_buffer;
    }
}

template <bool kGather>
cudaError_t kv_copy(const KvCopyArguments& a, void* buffer, cudaStream_t stream) {
    const int layers = a.layer_end - a.layer_begin;
    const int tokens = a.token_end - a.token_begin;
    if (layers < 0 || tokens < 0 || a.kv.head_dim <= 0 || a.kv.head_dim % 2 != 0 || a.kv.kv_heads <= 0) {
        return cudaErrorInvalidValue;
    }
    if (layers == 0 || tokens == 0) { return cudaSuccess; }
    const int row_bytes = a.kv.head_dim * 2;
    const bool wide = row_bytes % 16 == 0;
    const int pieces = row_bytes / (wide ? 16 : 4);
    const std::int64_t planes = std::int64_t{layers} * 2 * a.kv.kv_heads;
    const std::int64_t work = std::int64_t{tokens} * pieces;
    if (planes > 65535 || work > 0x7fffff00) { return cudaErrorInvalidValue; }
    const dim3 grid(static_cast<unsigned>((work + kThreads - 1) / kThreads), static_cast<unsigned>(planes));
    if (wide) {
        return launch_kernel(kv_copy_kernel<uint4, kGather>, grid, kThreads, 0, stream, a, static_cast<uint4*>(buffer),
                             pieces);
    }
    return launch_kernel(kv_copy_kernel<unsigned, kGather>, grid, kThreads, 0, stream, a,
                         static_cast<unsigned*>(buffer), pieces);
}

}  // namespace

cudaError_t rope_and_append(const RopeAppendArguments& a, cudaStream_t stream) {
    const int d = a.kv.head_dim;
    if (a.rows < 0 || d <= 0 || d % 2 != 0 || d > kHeadDimMax || a.heads_q <= 0 || a.kv.kv_heads <= 0 ||
        a.kv.block_tokens <= 0) {
        return cudaErrorInvalidValue;
    }
    if (a.rows == 0) { return cudaSuccess; }
    const dim3 grid(static_cast<unsigned>(a.rows),
                    static_cast<unsigned>(ceil_div(a.heads_q + 2 * a.kv.kv_heads, kWarps)));
    return launch_kernel(d % 4 == 0 ? rope_append_kernel<2> : rope_append_kernel<1>, grid, kThreads, 0, stream, a);
}

cudaError_t kv_gather(const KvCopyArguments& arguments, void* out, cudaStream_t stream) {
    return kv_copy<true>(arguments, out, stream);
}

cudaError_t kv_scatter(const KvCopyArguments& arguments, const void* source, cudaStream_t stream) {
    return kv_copy<false>(arguments, const_cast<void*>(source), stream);
}

}  // namespace engine::cuda
