// What prefill and decode attention share, so that they give the same bits for a row: the softmax step over 64 keys,
// the merge of partitions, the way keys and values come into shared memory.
// The recurrence is FlashAttention's (Dao et al. 2022; Dao 2023); the cut at fixed places is design 4.1's.
#pragma once

#include "engine/kernels/cuda/device.cuh"

namespace engine::cuda {

/// Keys of one softmax step.
constexpr int kStepKeys = 64;
constexpr int kStepsPerPartition = kPartitionTokens / kStepKeys;
constexpr float kMinusInfinity = -__builtin_huge_valf();
constexpr float kLog2E = 1.4426950408889634f;

/// Bytes from a row of a tile in shared memory to the next: 16 more than its elements, so that eight rows at the same
/// column lie in different banks (kHeadDim / 8 is even).
template <int kHeadDim>
constexpr int kTileStride = kHeadDim * 2 + 16;
template <int kHeadDim>
constexpr int kTileBytes = kStepKeys * kTileStride<kHeadDim>;

/// Where the keys and values of one head of one sequence are.
struct HeadSource {
    const std::byte* keys;       // of the pool, with layer and head added
    std::size_t values;          // bytes from a key to its value
    const std::int32_t* blocks;  // of the sequence
    std::size_t block_bytes;
    int groups_per_block;  // block_tokens / 16
};

__device__ __forceinline__ HeadSource head_source(const KvLayer& kv, const std::int32_t* blocks, int kv_head) {
    return {kv.base + kv.layer_offset + static_cast<std::size_t>(kv_head) * kv.tile_bytes,
            static_cast<std::size_t>(kv.kv_heads) * kv.tile_bytes, blocks, kv.block_bytes, kv.block_tokens / 16};
}

/// Starts the copy of keys and values [first, first + 64) into `stage` (keys, then values); those from `end` on become
/// zeros (also in V: a weight of zero times whatever lies there must be zero). `first` is a multiple of 64. All
/// kThreads threads take part.
template <int kHeadDim, int kThreads>
__device__ __forceinline__ void copy_step(const HeadSource& source, int first, int end, unsigned stage) {
    constexpr int kPieces = kHeadDim / 8;  // of 16 bytes, per key
    constexpr int kTotal = kStepKeys * kPieces;
    static_assert(kTotal % kThreads == 0);
#pragma unroll
    for (int j = 0; j < kTotal / kThreads; ++j) {
        const int i = j * kThreads + static_cast<int>(threadIdx.x);
        const int key = i / kPieces;
        const int piece = i % kPieces;
        const bool valid = first + key < end;
        const std::byte* from = source.keys;
        if (valid) {
            const int group = (first + key) / 16;
            const std::int32_t block = source.blocks[group / source.groups_per_block];
            from += static_cast<std::size_t>(block) * source.block_bytes;
            from += ((group % source.groups_per_block) * 16 + key % 16) * (kHeadDim * 2) + piece * 16;
        }
        const unsigned to = stage + static_cast<unsigned>(key * kTileStride<kHeadDim> + piece * 16);
        copy_async16(to, from, valid);
        copy_async16(to + static_cast<unsigned>(kTileBytes<kHeadDim>), from + source.values, valid);
    }
}

/// The query rows g and g + 8 of a 16-row tile as mma operands. A null pointer stands for a row of zeros.
template <int kHeadDim>
__device__ __forceinline__ void load_query(const Bf16* row_g, const Bf16* row_g8, unsigned (&q)[kHeadDim / 16][4]) {
    const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
        const int at = k * 16 + 2 * t;
        q[k][0] = row_g == nullptr ? 0u : *reinterpret_cast<const unsigned*>(row_g + at);
        q[k][1] = row_g8 == nullptr ? 0u : *reinterpret_cast<const unsigned*>(row_g8 + at);
        q[k][2] = row_g == nullptr ? 0u : *reinterpret_cast<const unsigned*>(row_g + at + 8);
        q[k][3] = row_g8 == nullptr ? 0u : *reinterpret_cast<const unsigned*>(row_g8 + at + 8);
    }
}

/// Scores of 16 query rows and the 16 keys that begin at row `key` of the tile at `keys`: two mma tiles of 8 keys.
template <int kHeadDim>
__device__ __forceinline__ void score_16_keys(const unsigned (&q)[kHeadDim / 16][4], unsigned keys, int key,
                                              float (&low)[4], float (&high)[4]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const unsigned at =
        keys + static_cast<unsigned>((key + lane / 16 * 8 + lane % 8) * kTileStride<kHeadDim> + lane / 8 % 2 * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        low[i] = 0;
        high[i] = 0;
    }
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
        unsigned b[4];
        load_matrices(b, at + static_cast<unsigned>(k * 32));
        multiply_add(low, q[k], b[0], b[1]);
        multiply_add(high, q[k], b[2], b[3]);
    }
}

/// acc[16 rows x 8 dims] += weights[16 x 64] * values[64 x 8 dims from `dim`], in ascending order of keys.
template <int kHeadDim>
__device__ __forceinline__ void weigh_8_dims(const unsigned (&weights)[4][4], unsigned values, int dim,
                                             float (&acc)[4]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const unsigned at = values + static_cast<unsigned>(lane * kTileStride<kHeadDim> + dim * 2);
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        unsigned b[4];
        load_matrices_transposed(b, at + static_cast<unsigned>(k * 16 * kTileStride<kHeadDim>));
        multiply_add(acc, weights[k], b[0], b[1]);
        multiply_add(acc, weights[k + 1], b[2], b[3]);
    }
}

/// The running state of one query row in one thread: the largest score so far (unscaled) and the sum of the weights of
/// this thread's columns (2t and 2t + 1 of every 8 keys).
struct RowState {
    float largest = kMinusInfinity;
    float sum = 0;
};

/// What to subtract from scores whose largest is `largest`: not infinite, so that weights of masked keys are 0 and not
/// NaN.
__device__ __forceinline__ float shift_of(float largest) {
    return largest == kMinusInfinity ? 0.0f : largest;
}

/// 2^(scale * (score - shift)), as it goes into a weight. `shifted` = scale * shift.
__device__ __forceinline__ float weight_of(float score, float scale_log2, float shifted) {
    return exp2_fast(__fmaf_rn(score, scale_log2, -shifted));
}

/// By what sums and accumulators are multiplied when the largest score rises from `before` to `after`.
__device__ __forceinline__ float rescale_of(float before, float after, float scale_log2) {
    return exp2_fast(__fmul_rn(before - shift_of(after), scale_log2));
}

/// Largest over the four threads that share a row.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
/// Sum over the four threads that share a row, the same bits in all.
__device__ __forceinline__ float quad_sum(float x) {
    x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// Adds a step's weights, as rounded, to a row's sum: the words of the row in ascending order of keys.
__device__ __forceinline__ float add_weights(float sum, unsigned pair) {
    return __fadd_rn(sum, __fadd_rn(low_float(pair), high_float(pair)));
}

/// A partial result over some keys: largest score, sum of weights, and (elsewhere) the weighted sum of values.
/// How `next` is merged into what came before; before the first, largest is -infinity and all sums are 0.
struct Merge {
    float old_factor;
    float new_factor;
    float largest;
    bool skip;  // `next` has no keys
};
__device__ __forceinline__ Merge merge_of(float largest, float next_largest, float scale_log2) {
    Merge merge;
    merge.skip = next_largest == kMinusInfinity;
    merge.largest = fmaxf(largest, next_largest);
    merge.old_factor = rescale_of(largest, merge.largest, scale_log2);
    merge.new_factor = rescale_of(next_largest, merge.largest, scale_log2);
    return merge;
}
__device__ __forceinline__ float merged(const Merge& merge, float old_value, float new_value) {
    const float value = __fmaf_rn(old_value, merge.old_factor, __fmul_rn(new_value, merge.new_factor));
    return merge.skip ? old_value : value;
}

/// The output of a row from its merged sums. (+ 0: minus zero and zero are one.)
__device__ __forceinline__ float normalised(float weighted, float reciprocal) {
    return __fadd_rn(__fmul_rn(weighted, reciprocal), 0.0f);
}
__device__ __forceinline__ float reciprocal_of(float sum) {
    return sum > 0 ? __fdiv_rn(1.0f, sum) : 0.0f;
}

/// Any head_dim, one row and head at a time; for prefill (tiles) or decode (row arrays).
cudaError_t attention_plain_prefill(const AttentionArguments& a, const PrefillTile* tiles, std::int32_t tile_count,
                                    cudaStream_t stream);
cudaError_t attention_plain_decode(const AttentionArguments& a, const std::int32_t* row_sequence,
                                   const std::int32_t* row_position, const std::int32_t* row_index, std::int32_t rows,
                                   cudaStream_t stream);

inline bool attention_arguments_ok(const AttentionArguments& a) {
    return a.kv.kv_heads > 0 && a.heads_q > 0 && a.heads_q % a.kv.kv_heads == 0 && a.kv.head_dim > 0 &&
           a.kv.head_dim % 2 == 0 && a.kv.head_dim <= 256 && a.kv.block_tokens > 0 && a.kv.block_tokens % 16 == 0 &&
           a.scale > 0 && a.kv.kv_heads <= 65535;
}

}  // namespace engine::cuda
