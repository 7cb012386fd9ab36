// Attention for every other head_dim: one block per (row, query head), plain arithmetic in float. Slow; prefill and
// decode run the same code for a row, so they agree bit for bit.
#include "engine/kernels/cuda/attention.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadDimMax = 256;

__device__ void attend_row(const AttentionArguments& a, std::size_t row, int head, int sequence, int position) {
    __shared__ float q[kHeadDimMax];
    __shared__ float weights[kThreads];
    __shared__ float reduced[kThreads / kWarp];
    const int d = a.kv.head_dim;
    const int kv_head = head / (a.heads_q / a.kv.kv_heads);
    const std::size_t at = (row * a.heads_q + head) * d;
    const std::int32_t* blocks = a.block_tables + static_cast<std::size_t>(sequence) * a.table_stride;
    const auto element = [&](int part, int key) {
        const std::byte* tile =
            a.kv.base + static_cast<std::size_t>(blocks[key / a.kv.block_tokens]) * a.kv.block_bytes +
            a.kv.layer_offset + static_cast<std::size_t>(part * a.kv.kv_heads + kv_head) * a.kv.tile_bytes;
        return reinterpret_cast<const Bf16*>(tile) + static_cast<std::size_t>(key % a.kv.block_tokens) * d;
    };
    for (int i = static_cast<int>(threadIdx.x); i < d; i += kThreads) {
        q[i] = float_of(a.q[at + i]) * (a.scale * kLog2E);
    }
    __syncthreads();
    constexpr int kDimsPerThread = kHeadDimMax / kThreads;
    float acc[kDimsPerThread] = {};
    float largest = kMinusInfinity;
    float sum = 0;
    for (int first = 0; first <= position; first += kThreads) {
        const int key = first + static_cast<int>(threadIdx.x);
        float score = kMinusInfinity;
        if (key <= position) {
            const Bf16* k = element(0, key);
            score = 0;
            for (int i = 0; i < d; ++i) {
                score += q[i] * float_of(k[i]);
            }
        }
        // Largest of the step, in every thread.
        const float warp_largest = warp_max(score);
        if (threadIdx.x % kWarp == 0) { reduced[threadIdx.x / kWarp] = warp_largest; }
        __syncthreads();
        float after = largest;
        for (int w = 0; w < kThreads / kWarp; ++w) {
            after = fmaxf(after, reduced[w]);
        }
        const float factor = exp2f(largest - after);  // the first key of a step is always visible: `after` is finite
        largest = after;
        weights[threadIdx.x] = exp2f(score - after);
        __syncthreads();
        sum *= factor;
        const int keys = min(kThreads, position + 1 - first);
        for (int k = 0; k < keys; ++k) {
            sum += weights[k];
        }
#pragma unroll
        for (int j = 0; j < kDimsPerThread; ++j) {
            const int i = j * kThreads + static_cast<int>(threadIdx.x);
            if (i >= d) { continue; }
            acc[j] *= factor;
            for (int k = 0; k < keys; ++k) {
                acc[j] += weights[k] * float_of(element(1, first + k)[i]);
            }
        }
        __syncthreads();  // weights and reduced are free
    }
#pragma unroll
    for (int j = 0; j < kDimsPerThread; ++j) {
        const int i = j * kThreads + static_cast<int>(threadIdx.x);
        if (i < d) { a.out[at + i] = bf16_of(position < 0 ? 0.0f : acc[j] / sum); }
    }
}

__global__ void __launch_bounds__(kThreads)
    plain_prefill_kernel(AttentionArguments a, const PrefillTile* tiles, int tile_tokens) {
    wait_for_previous();
    let_next_start();
    const PrefillTile tile = tiles[blockIdx.x / tile_tokens];
    const int token = static_cast<int>(blockIdx.x) % tile_tokens;
    if (token >= tile.rows) { return; }
    attend_row(a, static_cast<std::size_t>(tile.row_begin) + token, static_cast<int>(blockIdx.y), tile.sequence,
               tile.position + token);
}

__global__ void __launch_bounds__(kThreads)
    plain_decode_kernel(AttentionArguments a, const std::int32_t* row_sequence, const std::int32_t* row_position,
                        const std::int32_t* row_index) {
    wait_for_previous();
    let_next_start();
    const std::int32_t row = row_index == nullptr ? static_cast<std::int32_t>(blockIdx.x) : row_index[blockIdx.x];
    if (row < 0) { return; }
    const std::int32_t position = row_position[row];
    attend_row(a, static_cast<std::size_t>(row), static_cast<int>(blockIdx.y), position < 0 ? 0 : row_sequence[row],
               position);
}

}  // namespace

cudaError_t attention_plain_prefill(const AttentionArguments& a, const PrefillTile* tiles, std::int32_t tile_count,
                                    cudaStream_t stream) {
    const int tile_tokens = prefill_tile_tokens(a.heads_q, a.kv.kv_heads);
    if (std::int64_t{tile_count} * tile_tokens > 0x7fffffff || a.heads_q > 65535) { return cudaErrorInvalidValue; }
    const dim3 grid(static_cast<unsigned>(tile_count * tile_tokens), static_cast<unsigned>(a.heads_q));
    return launch_kernel(plain_prefill_kernel, grid, kThreads, 0, stream, a, tiles, tile_tokens);
}

cudaError_t attention_plain_decode(const AttentionArguments& a, const std::int32_t* row_sequence,
                                   const std::int32_t* row_position, const std::int32_t* row_index, std::int32_t rows,
                                   cudaStream_t stream) {
    if (a.heads_q > 65535) { return cudaErrorInvalidValue; }
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(a.heads_q));
    return launch_kernel(plain_decode_kernel, grid, kThreads, 0, stream, a, row_sequence, row_position, row_index);
}

}  // namespace engine::cuda
