// Attention of prompt chunks on Hopper: 128 (token, head) pairs of one KV head per block, 64 per warpgroup; a ninth
// warp brings steps of 128 keys and values by TMA, two of each ahead. Both products are wgmma; while one warpgroup
// computes weights, the other keeps the matrix units busy. After FlashAttention-3 (Shah et al. 2024), without its
// ping-pong. Unlike attention_prefill() it does not cut keys into partitions: a row's bits depend on the row alone, but
// are not those of decode.
#include "engine/kernels/cuda/attention.cuh"
#include "engine/kernels/cuda/hopper.cuh"

namespace engine::cuda {
namespace {

constexpr int kWarpgroups = kPrefillTileRows / 64;
constexpr int kConsumers = kWarpgroups * kWarpgroup;
constexpr int kThreads = kConsumers + kWarpgroup;
/// Of 65536: 168 for each thread at first.
constexpr int kProducerRegisters = 24;
constexpr int kConsumerRegisters = 240;
constexpr int kKeys = 128;  // of a step
constexpr int kStages = 2;  // of keys, and of values
constexpr int kRowBytes = 128;
constexpr int kTileGroupBytes = 16 * kRowBytes;  // what one copy brings: 16 tokens, 64 dims

/// Shared memory: q [head_dim / 64][128 rows][128 bytes], then the stages of keys and those of values, each
/// [head_dim / 64][128 keys][128 bytes]; then the barriers. (Aligned to 1024 by the kernel.)
constexpr int kColumnBytes = 128 * kRowBytes;
template <int kHeadDim>
constexpr int kOperandBytes = kHeadDim / 64 * kColumnBytes;
template <int kHeadDim>
constexpr int kSharedBytes = (1 + 2 * kStages) * kOperandBytes<kHeadDim> + 4 * kStages * 8 + 1024;
static_assert(kPrefillTileRows == 128 && kKeys == 128);

/// Barriers of one kind of operand (keys or values): `full` one per stage, then `empty` one per stage.
__device__ __forceinline__ unsigned full_barrier(unsigned barriers, int step) {
    return barriers + static_cast<unsigned>(step % kStages * 8);
}
__device__ __forceinline__ unsigned empty_barrier(unsigned barriers, int step) {
    return barriers + static_cast<unsigned>((kStages + step % kStages) * 8);
}
__device__ __forceinline__ unsigned parity_of(int step) {
    return static_cast<unsigned>(step / kStages % 2);
}

/// What the warp that copies does. Lane l brings tokens 16 l to 16 l + 15 of each step.
template <int kHeadDim>
__device__ __forceinline__ void bring_steps(const KvPoolMap& map, const KvLayer& kv, const std::int32_t* blocks,
                                            int kv_head, int keys, int steps, unsigned k_stages, unsigned v_stages,
                                            unsigned k_barriers, unsigned v_barriers) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int groups_per_block = kv.block_tokens / 16;
    const int k_tile = static_cast<int>(kv.layer_offset / kv.tile_bytes) + kv_head;
    for (int step = 0; step < steps; ++step) {
        const int groups = min(kKeys / 16, ceil_div(keys - step * kKeys, 16));
        const bool mine = lane < groups;
        const int group = step * (kKeys / 16) + lane;
        const std::int32_t block = mine ? blocks[group / groups_per_block] : 0;
        const int token = group % groups_per_block * 16;
        const auto bring = [&](unsigned stages, unsigned barriers, int tile) {
            barrier_wait(empty_barrier(barriers, step), parity_of(step) ^ 1u);
            const unsigned full = full_barrier(barriers, step);
            if (lane == 0) { barrier_expect(full, static_cast<unsigned>(groups * (kHeadDim / 64) * kTileGroupBytes)); }
            __syncwarp();  // announced before the first copy begins
            if (!mine) { return; }
            const unsigned stage = stages + static_cast<unsigned>(step % kStages * kOperandBytes<kHeadDim>);
#pragma unroll
            for (int column = 0; column < kHeadDim / 64; ++column) {
                copy_pool_tile(stage + static_cast<unsigned>(column * kColumnBytes + lane * kTileGroupBytes), map,
                               column * 64, token, tile, block, full);
            }
        };
        bring(k_stages, k_barriers, k_tile);
        bring(v_stages, v_barriers, k_tile + kv.kv_heads);
    }
}

/// The tile's query rows of this warpgroup into shared memory; pairs beyond the tile become zeros.
template <int kHeadDim>
__device__ __forceinline__ void load_queries(const AttentionArguments& a, const PrefillTile& tile, int kv_head,
                                             unsigned char* q_shared, int warpgroup) {
    constexpr int kPieces = kHeadDim / 8;
    const int group = a.heads_q / a.kv.kv_heads;
    const int pairs = tile.rows * group;
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
#pragma unroll
    for (int j = 0; j < 64 * kPieces / kWarpgroup; ++j) {
        const int i = j * kWarpgroup + thread;
        const int pair = warpgroup * 64 + i / kPieces;
        const int piece = i % kPieces;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (pair < pairs) {
            const std::size_t row = static_cast<std::size_t>(tile.row_begin + pair / group);
            const Bf16* from = a.q + (row * a.heads_q + kv_head * group + pair % group) * kHeadDim + piece * 8;
            value = *reinterpret_cast<const uint4*>(from);
        }
        *reinterpret_cast<uint4*>(q_shared + piece / 8 * kColumnBytes + pair * kRowBytes +
                                  swizzled_piece(pair, piece % 8) * 16) = value;
    }
}

/// Values of the step from row `first` on become zeros: whatever lies there would meet weights of zero.
template <int kHeadDim>
__device__ __forceinline__ void clear_values(unsigned char* v_stage, int first) {
    const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int pieces = (kKeys - first) * 8;
#pragma unroll
    for (int column = 0; column < kHeadDim / 64; ++column) {
        for (int i = thread; i < pieces; i += kWarpgroup) {
            *reinterpret_cast<uint4*>(v_stage + column * kColumnBytes + first * kRowBytes + i * 16) =
                make_uint4(0, 0, 0, 0);
        }
    }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(AttentionArguments a, const __grid_constant__ KvPoolMap map, const PrefillTile* tiles) {
    wait_for_previous();
    let_next_start();
    extern __shared__ __align__(16) unsigned char raw_shared[];
    constexpr int kDimTiles = kHeadDim / 8;
    const PrefillTile tile = tiles[blockIdx.x];
    if (tile.rows <= 0) { return; }
    const int kv_head = static_cast<int>(blockIdx.y);
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;

    unsigned char* shared = raw_shared + (1024 - shared_address(raw_shared) % 1024) % 1024;
    unsigned char* v_shared = shared + (1 + kStages) * kOperandBytes<kHeadDim>;
    const unsigned q_at = shared_address(shared);
    const unsigned k_stages = q_at + kOperandBytes<kHeadDim>;
    const unsigned v_stages = k_stages + kStages * kOperandBytes<kHeadDim>;
    const unsigned k_barriers = v_stages + kStages * kOperandBytes<kHeadDim>;
    const unsigned v_barriers = k_barriers + 2 * kStages * 8;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int stage = 0; stage < kStages; ++stage) {
            barrier_init(full_barrier(k_barriers, stage), 1);
            barrier_init(full_barrier(v_barriers, stage), 1);
            barrier_init(empty_barrier(k_barriers, stage), kConsumers / kWarp);
            barrier_init(empty_barrier(v_barriers, stage), kConsumers / kWarp);
        }
        barrier_init_done();
        publish_to_async();
    }
    __syncthreads();

    const int keys = tile.position + tile.rows;
    const int steps = ceil_div(keys, kKeys);
    const std::int32_t* blocks = a.block_tables + static_cast<std::size_t>(tile.sequence) * a.table_stride;
    const int warpgroup = warp / 4;
    if (warpgroup == kWarpgroups) {
        give_registers<kProducerRegisters>();
        if (warp == kConsumers / kWarp) {
            bring_steps<kHeadDim>(map, a.kv, blocks, kv_head, keys, steps, k_stages, v_stages, k_barriers, v_barriers);
        }
        return;
    }
    take_registers<kConsumerRegisters>();
    load_queries<kHeadDim>(a, tile, kv_head, shared, warpgroup);
    publish_to_async();
    warpgroup_barrier(warpgroup);

    // This thread holds pairs pair[0] and pair[1] of the tile: pair r is (token r / group, head r % group).
    const int group = a.heads_q / a.kv.kv_heads;
    const int t = lane % 4;
    const int pair[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    int limit[2];  // position of the pair's token: the last key it sees; -1 for pairs beyond the tile
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        limit[i] = pair[i] < tile.rows * group ? tile.position + pair[i] / group : -1;
    }
    const float scale_log2 = __fmul_rn(a.scale, kLog2E);
    const unsigned q_rows = q_at + static_cast<unsigned>(warpgroup * 64 * kRowBytes);

    float scores[64];             // [128 keys / 8][4]
    float acc[kDimTiles * 4];     // [dims / 8][4]
    unsigned weights[8][4] = {};  // [128 keys / 16][4]
    RowState state[2];
#pragma unroll
    for (int i = 0; i < kDimTiles * 4; ++i) {
        acc[i] = 0;
    }
    // Starts the scores of a step, whose keys are awaited first.
    const auto start_scores = [&](int step) {
        barrier_wait(full_barrier(k_barriers, step), parity_of(step));
        const unsigned k_stage = k_stages + static_cast<unsigned>(step % kStages * kOperandBytes<kHeadDim>);
        products_begin();
#pragma unroll
        for (int k = 0; k < kHeadDim / 16; ++k) {
            const unsigned at = static_cast<unsigned>(k / 4 * kColumnBytes + k % 4 * 32);
            multiply_add_shared(scores, operand_at(q_rows + at), operand_at(k_stage + at), k > 0);
        }
        products_commit();
    };
    const auto release = [&](unsigned barriers, int step) {
        if (lane == 0) { barrier_arrive(empty_barrier(barriers, step)); }
    };

    float factor[2];   // by which sums and acc are multiplied in a step
    float shifted[2];  // scale_log2 * the largest score
    // Masks the scores of a step, and finds their largest.
    const auto find_largest = [&](int step) {
        const int first = step * kKeys;
        if (first + kKeys - 1 > tile.position) {  // some row sees less than this step
#pragma unroll
            for (int n = 0; n < kKeys / 8; ++n) {
                const int key = first + n * 8 + 2 * t;
                if (key > limit[0]) { scores[4 * n] = kMinusInfinity; }
                if (key + 1 > limit[0]) { scores[4 * n + 1] = kMinusInfinity; }
                if (key > limit[1]) { scores[4 * n + 2] = kMinusInfinity; }
                if (key + 1 > limit[1]) { scores[4 * n + 3] = kMinusInfinity; }
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float most = kMinusInfinity;
#pragma unroll
            for (int n = 0; n < kKeys / 8; ++n) {
                most = fmaxf(most, fmaxf(scores[4 * n + 2 * i], scores[4 * n + 2 * i + 1]));
            }
            const float largest = fmaxf(state[i].largest, quad_max(most));
            factor[i] = rescale_of(state[i].largest, largest, scale_log2);
            state[i].largest = largest;
            state[i].sum = __fmul_rn(state[i].sum, factor[i]);
            shifted[i] = __fmul_rn(shift_of(largest), scale_log2);
        }
    };
    const auto make_weights = [&] {
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const unsigned both = bf16_pair(weight_of(scores[4 * n + 2 * i], scale_log2, shifted[i]),
                                                weight_of(scores[4 * n + 2 * i + 1], scale_log2, shifted[i]));
                weights[n / 2][n % 2 * 2 + i] = both;
                state[i].sum = add_weights(state[i].sum, both);
            }
        }
    };
    const auto rescale = [&] {
#pragma unroll
        for (int i = 0; i < kDimTiles * 4; ++i) {
            acc[i] = __fmul_rn(acc[i], factor[i / 2 % 2]);
        }
    };
    // Starts acc += weights * values of a step, which are there.
    const auto start_weighing = [&](int step) {
        const unsigned v_stage = v_stages + static_cast<unsigned>(step % kStages * kOperandBytes<kHeadDim>);
        products_begin();
#pragma unroll
        for (int k = 0; k < kKeys / 16; ++k) {
            multiply_add_rows(acc, weights[k],
                              operand_at(v_stage + static_cast<unsigned>(k * kTileGroupBytes), kColumnBytes));
        }
        products_commit();
    };
    const auto wait_for_acc = [&](int steps_before) {
        products_wait<0>(acc);
        keep(weights);
        if (steps_before > 0) { release(v_barriers, steps_before - 1); }
    };

    start_scores(0);
    products_wait<0>(scores);
    release(k_barriers, 0);
    const int last = steps - 1;
    for (int step = 0; step < last; ++step) {
        find_largest(step);
        wait_for_acc(step);
        make_weights();
        start_scores(step + 1);
        rescale();
        barrier_wait(full_barrier(v_barriers, step), parity_of(step));
        start_weighing(step);
        products_wait<1>(scores);
        release(k_barriers, step + 1);
    }
    find_largest(last);
    wait_for_acc(last);
    make_weights();
    rescale();
    barrier_wait(full_barrier(v_barriers, last), parity_of(last));
    if (keys % kKeys != 0) {
        clear_values<kHeadDim>(v_shared + last % kStages * kOperandBytes<kHeadDim>, keys % kKeys);
        publish_to_async();
        warpgroup_barrier(warpgroup);
    }
    start_weighing(last);
    products_wait<0>(acc);
    keep(weights);

#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float reciprocal = reciprocal_of(quad_sum(state[i].sum));
        if (limit[i] < 0) { continue; }
        const std::size_t row = static_cast<std::size_t>(tile.row_begin + pair[i] / group);
        Bf16* out = a.out + (row * a.heads_q + kv_head * group + pair[i] % group) * kHeadDim + 2 * t;
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
            *reinterpret_cast<unsigned*>(out + n * 8) =
                bf16_pair(normalised(acc[4 * n + 2 * i], reciprocal), normalised(acc[4 * n + 2 * i + 1], reciprocal));
        }
    }
}

template <int kHeadDim>
cudaError_t launch(const AttentionArguments& a, const KvPoolMap& map, const PrefillTile* tiles, std::int32_t tile_count,
                   cudaStream_t stream) {
    const cudaError_t error = cudaFuncSetAttribute(hopper_kernel<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   kSharedBytes<kHeadDim>);
    if (error != cudaSuccess) { return error; }
    const dim3 grid(static_cast<unsigned>(tile_count), static_cast<unsigned>(a.kv.kv_heads));
    return launch_kernel(hopper_kernel<kHeadDim>, grid, kThreads, kSharedBytes<kHeadDim>, stream, a, map, tiles);
}

}  // namespace

bool attention_hopper_can(std::int32_t heads_q, std::int32_t kv_heads, std::int32_t head_dim) {
    return (head_dim == 64 || head_dim == 128) && heads_q / kv_heads <= kPrefillTileRows;
}

cudaError_t attention_prefill_hopper(const AttentionArguments& a, const KvPoolMap& map, const PrefillTile* tiles,
                                     std::int32_t tile_count, cudaStream_t stream) {
    if (!attention_arguments_ok(a) || tile_count < 0) { return cudaErrorInvalidValue; }
    if (!attention_hopper_can(a.heads_q, a.kv.kv_heads, a.kv.head_dim)) { return cudaErrorInvalidValue; }
    if (a.kv.layer_offset % a.kv.tile_bytes != 0) { return cudaErrorInvalidValue; }
    if (tile_count == 0) { return cudaSuccess; }
    if (a.kv.head_dim == 128) { return launch<128>(a, map, tiles, tile_count, stream); }
    return launch<64>(a, map, tiles, tile_count, stream);
}

}  // namespace engine::cuda
