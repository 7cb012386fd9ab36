// Attention of prompt chunks over paged K and V: 128 (token, head) pairs of one KV head per block, 16 per warp; steps
// of 64 keys come through a pipeline of asynchronous copies. mma.sync: compute capability 8.0 and above.
#include "engine/kernels/cuda/attention.cuh"

namespace engine::cuda {
namespace {

constexpr int kWarps = kPrefillTileRows / 16;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStages = 3;

/// The stages, then the merged sums of the partitions before the current one: [head_dim / 8][kThreads] float4, each
/// thread its own.
template <int kHeadDim>
constexpr int kStageBytes = kStages * 2 * kTileBytes<kHeadDim>;
template <int kHeadDim>
constexpr int kSharedBytes = kStageBytes<kHeadDim> + kHeadDim / 8 * kThreads * 16;

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) prefill_kernel(AttentionArguments a, const PrefillTile* tiles) {
    wait_for_previous();
    let_next_start();
    extern __shared__ __align__(16) unsigned char shared[];
    constexpr int kDimTiles = kHeadDim / 8;
    const PrefillTile tile = tiles[blockIdx.x];
    if (tile.rows <= 0) { return; }
    const int kv_head = static_cast<int>(blockIdx.y);
    const int group = a.heads_q / a.kv.kv_heads;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int t = lane % 4;
    const float scale_log2 = __fmul_rn(a.scale, kLog2E);

    // Pair r of the tile is (token r / group, head r % group). This thread holds pairs rows[0] and rows[1].
    const int rows[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    const int pairs = tile.rows * group;
    std::size_t offset[2];
    int limit[2];  // position of the row: the last key it sees; -1 for pairs beyond the tile
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const bool there = rows[i] < pairs;
        const int token = there ? rows[i] / group : 0;
        const int head = kv_head * group + (there ? rows[i] % group : 0);
        offset[i] = (static_cast<std::size_t>(tile.row_begin + token) * a.heads_q + head) * kHeadDim;
        limit[i] = there ? tile.position + token : -1;
    }
    unsigned q[kHeadDim / 16][4];
    load_query<kHeadDim>(limit[0] < 0 ? nullptr : a.q + offset[0], limit[1] < 0 ? nullptr : a.q + offset[1], q);

    const std::int32_t* blocks = a.block_tables + static_cast<std::size_t>(tile.sequence) * a.table_stride;
    const HeadSource source = head_source(a.kv, blocks, kv_head);
    const int keys = tile.position + tile.rows;
    const int steps = (keys + kStepKeys - 1) / kStepKeys;
    const unsigned stage0 = shared_address(shared);
    const auto start = [&](int step) {
        if (step < steps) {
            const unsigned stage = stage0 + static_cast<unsigned>(step % kStages * 2 * kTileBytes<kHeadDim>);
            copy_step<kHeadDim, kThreads>(source, step * kStepKeys, keys, stage);
        }
        copy_async_commit();  // an empty group too, so that counting holds
    };
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
        start(step);
    }

    // Of the current partition, and of the partitions before it.
    RowState state[2];
    float acc[kDimTiles][4];
    float total_largest[2] = {kMinusInfinity, kMinusInfinity};
    float total_sum[2] = {0, 0};
    float4* total = reinterpret_cast<float4*>(shared + kStageBytes<kHeadDim>) + threadIdx.x;
#pragma unroll
    for (int n = 0; n < kDimTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            acc[n][i] = 0;
        }
    }

    for (int step = 0; step < steps; ++step) {
        copy_async_wait<kStages - 2>();
        __syncthreads();            // this step's copies of all threads are there; the slot before it is free
        start(step + kStages - 1);  // into that slot
        const unsigned k_tile = stage0 + static_cast<unsigned>(step % kStages * 2 * kTileBytes<kHeadDim>);
        const unsigned v_tile = k_tile + static_cast<unsigned>(kTileBytes<kHeadDim>);
        const int first = step * kStepKeys;

        float scores[kStepKeys / 8][4];
#pragma unroll
        for (int n = 0; n < kStepKeys / 8; n += 2) {
            score_16_keys<kHeadDim>(q, k_tile, n * 8, scores[n], scores[n + 1]);
        }
        if (first + kStepKeys - 1 > tile.position) {  // some row sees less than this step
#pragma unroll
            for (int n = 0; n < kStepKeys / 8; ++n) {
                const int key = first + n * 8 + 2 * t;
                if (key > limit[0]) { scores[n][0] = kMinusInfinity; }
                if (key + 1 > limit[0]) { scores[n][1] = kMinusInfinity; }
                if (key > limit[1]) { scores[n][2] = kMinusInfinity; }
                if (key + 1 > limit[1]) { scores[n][3] = kMinusInfinity; }
            }
        }
        float shifted[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float most = kMinusInfinity;
#pragma unroll
            for (int n = 0; n < kStepKeys / 8; ++n) {
                most = fmaxf(most, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
            }
            const float largest = fmaxf(state[i].largest, quad_max(most));
            const float factor = rescale_of(state[i].largest, largest, scale_log2);
            state[i].largest = largest;
            state[i].sum = __fmul_rn(state[i].sum, factor);
            shifted[i] = __fmul_rn(shift_of(largest), scale_log2);
#pragma unroll
            for (int n = 0; n < kDimTiles; ++n) {
                acc[n][2 * i] = __fmul_rn(acc[n][2 * i], factor);
                acc[n][2 * i + 1] = __fmul_rn(acc[n][2 * i + 1], factor);
            }
        }
        unsigned weights[kStepKeys / 16][4];
#pragma unroll
        for (int n = 0; n < kStepKeys / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const unsigned pair = bf16_pair(weight_of(scores[n][2 * i], scale_log2, shifted[i]),
                                                weight_of(scores[n][2 * i + 1], scale_log2, shifted[i]));
                weights[n / 2][n % 2 * 2 + i] = pair;
                state[i].sum = add_weights(state[i].sum, pair);
            }
        }
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
            weigh_8_dims<kHeadDim>(weights, v_tile, n * 8, acc[n]);
        }

        const bool last = step + 1 == steps;
        if (step % kStepsPerPartition == kStepsPerPartition - 1 || last) {
            Merge merge[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                merge[i] = merge_of(total_largest[i], state[i].largest, scale_log2);
                total_largest[i] = merge[i].largest;
                total_sum[i] = merged(merge[i], total_sum[i], quad_sum(state[i].sum));
                state[i] = RowState{};
            }
#pragma unroll
            for (int n = 0; n < kDimTiles; ++n) {
                const float4 before = step < kStepsPerPartition ? make_float4(0, 0, 0, 0) : total[n * kThreads];
                acc[n][0] = merged(merge[0], before.x, acc[n][0]);
                acc[n][1] = merged(merge[0], before.y, acc[n][1]);
                acc[n][2] = merged(merge[1], before.z, acc[n][2]);
                acc[n][3] = merged(merge[1], before.w, acc[n][3]);
                if (!last) {
                    total[n * kThreads] = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
                    acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0;
                }
            }
        }
    }
    copy_async_wait<0>();

#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if (limit[i] < 0) { continue; }
        const float reciprocal = reciprocal_of(total_sum[i]);
        Bf16* out = a.out + offset[i] + 2 * t;
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
            *reinterpret_cast<unsigned*>(out + n * 8) =
                bf16_pair(normalised(acc[n][2 * i], reciprocal), normalised(acc[n][2 * i + 1], reciprocal));
        }
    }
}

template <int kHeadDim>
cudaError_t launch(const AttentionArguments& a, const PrefillTile* tiles, std::int32_t tile_count,
                   cudaStream_t stream) {
    const cudaError_t error = cudaFuncSetAttribute(prefill_kernel<kHeadDim>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes<kHeadDim>);
    if (error != cudaSuccess) { return error; }
    const dim3 grid(static_cast<unsigned>(tile_count), static_cast<unsigned>(a.kv.kv_heads));
    return launch_kernel(prefill_kernel<kHeadDim>, grid, kThreads, kSharedBytes<kHeadDim>, stream, a, tiles);
}

}  // namespace

cudaError_t attention_prefill(const AttentionArguments& a, const PrefillTile* tiles, std::int32_t tile_count,
                              cudaStream_t stream) {
    if (!attention_arguments_ok(a) || tile_count < 0) { return cudaErrorInvalidValue; }
    if (tile_count == 0) { return cudaSuccess; }
    const bool fast = a.heads_q / a.kv.kv_heads <= kPrefillTileRows;
    if (fast && a.kv.head_dim == 128) { return launch<128>(a, tiles, tile_count, stream); }
    if (fast && a.kv.head_dim == 96) { return launch<96>(a, tiles, tile_count, stream); }
    if (fast && a.kv.head_dim == 64) { return launch<64>(a, tiles, tile_count, stream); }
    return attention_plain_prefill(a, tiles, tile_count, stream);
}

}  // namespace engine::cuda
