// Attention of single tokens over paged K and V: one block per (row, KV head, partition of keys); the query heads of
// the KV head are the rows of one mma tile. Four warps share the 64 keys of a step for the scores, and the dims of the
// head for the weighted sum. A second kernel merges the partitions in ascending order.
#include "engine/kernels/cuda/attention.cuh"

namespace engine::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStages = 2;
constexpr int kWeightStride = kStepKeys * 2 + 16;  // bytes from a row of weights to the next

template <int kHeadDim>
constexpr int kSharedBytes = kStages * 2 * kTileBytes<kHeadDim>;
/// Blocks of a multiprocessor: what 227 KiB of shared memory hold on Hopper, a few less for small heads.
template <int kHeadDim>
constexpr int kBlocksPerProcessor = kHeadDim == 128 ? 3 : 4;

/// Partial results of row i of a piece, head h, partition p are at index (i * heads_q + h) * partitions + p.
struct Partials {
    float* weighted;  // [...][head_dim]
    float2* largest_and_sum;
};

struct DecodeRows {
    const std::int32_t* sequence;
    const std::int32_t* position;
    const std::int32_t* index;
    int first;  // of this piece
};

__device__ __forceinline__ std::int32_t batch_row(const DecodeRows& rows, int i) {
    return rows.index == nullptr ? rows.first + i : rows.index[rows.first + i];
}

__host__ __device__ inline std::size_t aligned256(std::size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/// blockIdx: (partition, KV head and run of 16 of its query heads, row). kDirect: there is one partition only, and the
/// output is written here.
template <int kHeadDim, bool kDirect>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor<kHeadDim>)
    decode_kernel(AttentionArguments a, DecodeRows rows, Partials partials) {
    wait_for_previous();
    let_next_start();
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ __align__(16) unsigned char weights_shared[16 * kWeightStride];
    __shared__ float largest_shared[kWarps][16];
    constexpr int kDims = kHeadDim / kWarps;  // of this warp
    constexpr int kDimTiles = kDims / 8;
    static_assert(kHeadDim % (8 * kWarps) == 0);

    const int partition = static_cast<int>(blockIdx.x);
    const int partitions = static_cast<int>(gridDim.x);
    const int group = a.heads_q / a.kv.kv_heads;
    const int runs = (group + 15) / 16;
    const int kv_head = static_cast<int>(blockIdx.y) / runs;
    const int head_in_group = static_cast<int>(blockIdx.y) % runs * 16;
    const int i_row = static_cast<int>(blockIdx.z);
    const std::int32_t row = batch_row(rows, i_row);
    if (row < 0) { return; }
    const std::int32_t position = rows.position[row];
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4;
    const int t = lane % 4;
    const int begin = partition * kPartitionTokens;
    if constexpr (kDirect) {
        if (position < 0) {  // idle
            for (int i = static_cast<int>(threadIdx.x); i < 16 * kHeadDim; i += kThreads) {
                const int head = head_in_group + i / kHeadDim;
                if (head < group) {
                    a.out[(static_cast<std::size_t>(row) * a.heads_q + kv_head * group + head) * kHeadDim +
                          i % kHeadDim] = 0;
                }
            }
            return;
        }
    }
    if (begin > position) { return; }
    const int end = min(position + 1, begin + kPartitionTokens);
    const int steps = (end - begin + kStepKeys - 1) / kStepKeys;
    const float scale_log2 = __fmul_rn(a.scale, kLog2E);

    const std::int32_t* blocks = a.block_tables + static_cast<std::size_t>(rows.sequence[row]) * a.table_stride;
    const HeadSource source = head_source(a.kv, blocks, kv_head);
    const unsigned stage0 = shared_address(shared);
    const auto start = [&](int step) {
        if (step < steps) {
            const unsigned stage = stage0 + static_cast<unsigned>(step % kStages * 2 * kTileBytes<kHeadDim>);
            copy_step<kHeadDim, kThreads>(source, begin + step * kStepKeys, end, stage);
        }
        copy_async_commit();
    };
#pragma unroll
    for (int step = 0; step < kStages; ++step) {
        start(step);
    }

    // Rows of the mma tile: query heads head_in_group + g and + g + 8 of this KV head.
    bool there[2];
    std::size_t head_at[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int head = head_in_group + g + 8 * i;
        there[i] = head < group;
        head_at[i] = kv_head * group + (there[i] ? head : 0);
    }
    const Bf16* q_row = a.q + static_cast<std::size_t>(row) * a.heads_q * kHeadDim;
    unsigned q[kHeadDim / 16][4];
    load_query<kHeadDim>(there[0] ? q_row + head_at[0] * kHeadDim : nullptr,
                         there[1] ? q_row + head_at[1] * kHeadDim : nullptr, q);

    RowState state[2];
    float acc[kDimTiles][4];
#pragma unroll
    for (int n = 0; n < kDimTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            acc[n][i] = 0;
        }
    }
    const unsigned weights_at = shared_address(weights_shared);

    for (int step = 0; step < steps; ++step) {
        copy_async_wait<kStages - 1>();
        __syncthreads();
        const unsigned k_tile = stage0 + static_cast<unsigned>(step % kStages * 2 * kTileBytes<kHeadDim>);
        const unsigned v_tile = k_tile + static_cast<unsigned>(kTileBytes<kHeadDim>);
        const int first = begin + step * kStepKeys + warp * 16;  // of this warp's 16 keys

        float scores[2][4];
        score_16_keys<kHeadDim>(q, k_tile, warp * 16, scores[0], scores[1]);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (first + n * 8 + 2 * t + i % 2 >= end) { scores[n][i] = kMinusInfinity; }
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float most = quad_max(
                fmaxf(fmaxf(scores[0][2 * i], scores[0][2 * i + 1]), fmaxf(scores[1][2 * i], scores[1][2 * i + 1])));
            if (t == 0) { largest_shared[warp][g + 8 * i] = most; }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float largest = state[i].largest;
#pragma unroll
            for (int w = 0; w < kWarps; ++w) {
                largest = fmaxf(largest, largest_shared[w][g + 8 * i]);
            }
            const float factor = rescale_of(state[i].largest, largest, scale_log2);
            state[i].largest = largest;
            state[i].sum = __fmul_rn(state[i].sum, factor);
            const float shifted = __fmul_rn(shift_of(largest), scale_log2);
#pragma unroll
            for (int n = 0; n < kDimTiles; ++n) {
                acc[n][2 * i] = __fmul_rn(acc[n][2 * i], factor);
                acc[n][2 * i + 1] = __fmul_rn(acc[n][2 * i + 1], factor);
            }
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                *reinterpret_cast<unsigned*>(weights_shared + (g + 8 * i) * kWeightStride +
                                             (warp * 16 + n * 8 + 2 * t) * 2) =
                    bf16_pair(weight_of(scores[n][2 * i], scale_log2, shifted),
                              weight_of(scores[n][2 * i + 1], scale_log2, shifted));
            }
        }
        __syncthreads();
        unsigned weights[kStepKeys / 16][4];
#pragma unroll
        for (int k = 0; k < kStepKeys / 16; ++k) {
            // Matrices: rows 0-7 and 8-15 of the first 8 keys, then of the next 8.
            load_matrices(weights[k],
                          weights_at + static_cast<unsigned>((lane % 16) * kWeightStride + k * 32 + lane / 16 * 16));
        }
#pragma unroll
        for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                state[i].sum = add_weights(state[i].sum, weights[n / 2][n % 2 * 2 + i]);
            }
        }
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
            weigh_8_dims<kHeadDim>(weights, v_tile, warp * kDims + n * 8, acc[n]);
        }
        __syncthreads();  // the stage and the weights are free
        start(step + kStages);
    }
    copy_async_wait<0>();

#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float sum = quad_sum(state[i].sum);
        if (!there[i]) { continue; }
        if constexpr (kDirect) {
            const Merge merge = merge_of(kMinusInfinity, state[i].largest, scale_log2);
            const float reciprocal = reciprocal_of(merged(merge, 0.0f, sum));
            Bf16* out = a.out + (static_cast<std::size_t>(row) * a.heads_q + head_at[i]) * kHeadDim;
#pragma unroll
            for (int n = 0; n < kDimTiles; ++n) {
                *reinterpret_cast<unsigned*>(out + warp * kDims + n * 8 + 2 * t) =
                    bf16_pair(normalised(merged(merge, 0.0f, acc[n][2 * i]), reciprocal),
                              normalised(merged(merge, 0.0f, acc[n][2 * i + 1]), reciprocal));
            }
        } else {
            const std::size_t at = (static_cast<std::size_t>(i_row) * a.heads_q + head_at[i]) * partitions + partition;
            if (warp == 0 && t == 0) { partials.largest_and_sum[at] = make_float2(state[i].largest, sum); }
            float* weighted = partials.weighted + at * kHeadDim;
#pragma unroll
            for (int n = 0; n < kDimTiles; ++n) {
                *reinterpret_cast<float2*>(weighted + warp * kDims + n * 8 + 2 * t) =
                    make_float2(acc[n][2 * i], acc[n][2 * i + 1]);
            }
        }
    }
}

/// One warp per (row, query head): merges its partitions in ascending order.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads)
    merge_kernel(AttentionArguments a, DecodeRows rows, Partials partials, int partitions) {
    wait_for_previous();
    let_next_start();
    const int i_row = static_cast<int>(blockIdx.x);
    const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const std::int32_t row = batch_row(rows, i_row);
    if (row < 0 || head >= a.heads_q || lane * 4 >= kHeadDim) { return; }
    static_assert(kHeadDim <= kWarp * 4);
    const std::int32_t position = rows.position[row];
    const int used = position < 0 ? 0 : min(position / kPartitionTokens + 1, partitions);
    const float scale_log2 = __fmul_rn(a.scale, kLog2E);
    const std::size_t at = (static_cast<std::size_t>(i_row) * a.heads_q + head) * partitions;
    float largest = kMinusInfinity;
    float sum = 0;
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int p = 0; p < used; ++p) {
        const float2 next = partials.largest_and_sum[at + p];
        const float4 weighted = *reinterpret_cast<const float4*>(partials.weighted + (at + p) * kHeadDim + lane * 4);
        const Merge merge = merge_of(largest, next.x, scale_log2);
        largest = merge.largest;
        sum = merged(merge, sum, next.y);
        total.x = merged(merge, total.x, weighted.x);
        total.y = merged(merge, total.y, weighted.y);
        total.z = merged(merge, total.z, weighted.z);
        total.w = merged(merge, total.w, weighted.w);
    }
    const float reciprocal = reciprocal_of(sum);
    uint2 out;
    out.x = bf16_pair(normalised(total.x, reciprocal), normalised(total.y, reciprocal));
    out.y = bf16_pair(normalised(total.z, reciprocal), normalised(total.w, reciprocal));
    *reinterpret_cast<uint2*>(a.out + (static_cast<std::size_t>(row) * a.heads_q + head) * kHeadDim + lane * 4) = out;
}

std::size_t scratch_bytes_of(std::int32_t rows, std::int32_t heads_q, std::int32_t head_dim, int partitions) {
    const std::size_t items = static_cast<std::size_t>(rows) * heads_q * static_cast<std::size_t>(partitions);
    return aligned256(items * head_dim * sizeof(float)) + aligned256(items * sizeof(float2));
}

/// `rows`: all of them fit in the scratch memory, and in a grid.
template <int kHeadDim>
cudaError_t launch_piece(const AttentionArguments& a, const DecodeRows& decode_rows, std::int32_t rows, int partitions,
                         void* scratch, cudaStream_t stream) {
    const int head_runs = a.kv.kv_heads * ceil_div(a.heads_q / a.kv.kv_heads, 16);
    Partials partials;
    partials.weighted = static_cast<float*>(scratch);
    const std::size_t items = static_cast<std::size_t>(rows) * a.heads_q * partitions;
    partials.largest_and_sum =
        reinterpret_cast<float2*>(static_cast<std::byte*>(scratch) + aligned256(items * kHeadDim * sizeof(float)));
    const dim3 grid(static_cast<unsigned>(partitions), static_cast<unsigned>(head_runs), static_cast<unsigned>(rows));
    const auto run = [&](auto kernel) {
        const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<kHeadDim>);
        if (error != cudaSuccess) { return error; }
        return launch_kernel(kernel, grid, kThreads, kSharedBytes<kHeadDim>, stream, a, decode_rows, partials);
    };
    if (partitions == 1) { return run(decode_kernel<kHeadDim, true>); }
    const cudaError_t error = run(decode_kernel<kHeadDim, false>);
    if (error != cudaSuccess) { return error; }
    const dim3 merge_grid(static_cast<unsigned>(rows), static_cast<unsigned>(ceil_div(a.heads_q, kWarps)));
    return launch_kernel(merge_kernel<kHeadDim>, merge_grid, kThreads, 0, stream, a, decode_rows, partials, partitions);
}

constexpr int kRowsMax = 65535;  // of a piece: the grid's third dimension

template <int kHeadDim>
cudaError_t launch(const AttentionArguments& a, const DecodeRows& decode_rows, std::int32_t rows, int partitions,
                   void* scratch, std::size_t scratch_bytes, cudaStream_t stream) {
    if (a.kv.kv_heads * ceil_div(a.heads_q / a.kv.kv_heads, 16) > 65535) { return cudaErrorInvalidValue; }
    int at_once = kRowsMax;
    if (partitions > 1) {
        const std::size_t fit =
            scratch == nullptr ? 0 : scratch_bytes / scratch_bytes_of(1, a.heads_q, kHeadDim, partitions);
        if (fit == 0) { return cudaErrorInvalidValue; }
        if (fit < kRowsMax) { at_once = static_cast<int>(fit); }
    }
    DecodeRows piece = decode_rows;
    for (piece.first = 0; piece.first < rows; piece.first += at_once) {
        const int count = rows - piece.first < at_once ? rows - piece.first : at_once;
        const cudaError_t error = launch_piece<kHeadDim>(a, piece, count, partitions, scratch, stream);
        if (error != cudaSuccess) { return error; }
    }
    return cudaSuccess;
}

int partitions_of(std::int32_t context_tokens) {
    return context_tokens <= 0 ? 1 : (context_tokens - 1) / kPartitionTokens + 1;
}

}  // namespace

std::size_t attention_decode_scratch_bytes(std::int32_t rows, std::int32_t heads_q, std::int32_t head_dim,
                                           std::int32_t context_tokens_max) {
    return scratch_bytes_of(rows, heads_q, head_dim, partitions_of(context_tokens_max));
}

cudaError_t attention_decode(const AttentionArguments& a, const std::int32_t* row_sequence,
                             const std::int32_t* row_position, const std::int32_t* row_index, std::int32_t rows,
                             std::int32_t context_tokens_max, void* scratch, std::size_t scratch_bytes,
                             cudaStream_t stream) {
    if (!attention_arguments_ok(a) || rows < 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    const DecodeRows decode_rows{row_sequence, row_position, row_index, 0};
    const int partitions = partitions_of(context_tokens_max);
    if (a.kv.head_dim == 128) { return launch<128>(a, decode_rows, rows, partitions, scratch, scratch_bytes, stream); }
    if (a.kv.head_dim == 96) { return launch<96>(a, decode_rows, rows, partitions, scratch, scratch_bytes, stream); }
    if (a.kv.head_dim == 64) { return launch<64>(a, decode_rows, rows, partitions, scratch, scratch_bytes, stream); }
    return attention_plain_decode(a, row_sequence, row_position, row_index, rows, stream);
}

}  // namespace engine::cuda
