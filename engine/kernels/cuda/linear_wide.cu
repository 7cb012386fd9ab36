// Products with many rows: tiles of 128 outputs x 128 rows through shared memory, three stages of 64 units of K,
// eight warps of 32 outputs x 64 rows. The same order of sums as linear_skinny.cu.
#include "engine/kernels/cuda/linear.cuh"

namespace engine::cuda {
namespace {

constexpr int kTileOutputs = 128;
constexpr int kTileRows = 128;
constexpr int kStageUnits = 64;
constexpr int kStages = 3;
constexpr int kThreads = 256;
constexpr int kRowBytes = kStageUnits * 2;
constexpr int kOperandBytes = 128 * kRowBytes;  // of one operand and stage
constexpr int kStageBytes = kStages * 2 * kOperandBytes;
// The stages, then the sums of the slices before the current one: [16][kThreads] float4, each thread its own.
constexpr int kSharedBytes = kStageBytes + 16 * kThreads * 16;
constexpr int kSumStride = kTileOutputs + 4;  // floats; the tile of sums lies over the stages at the end
static_assert(kTileOutputs == 128 && kTileRows == 128);
static_assert(kTileRows * kSumStride * 4 <= kStageBytes);

/// Byte offset of 16-byte piece `piece` of row `row`: the pieces of odd rows change halves, so that the two rows that a
/// quarter of a warp reads lie in different banks.
__device__ __forceinline__ int piece_at(int row, int piece) {
    return row * kRowBytes + (piece ^ (row % 2 * 4)) * 16;
}

/// Starts the copy of units [k, k + 64) of rows [first, first + 128) of a row-major matrix; zeros beyond its edges.
__device__ __forceinline__ void copy_operand(const Bf16* matrix, int rows, int units, int first, int k,
                                             unsigned target) {
#pragma unroll
    for (int i = 0; i < 128 * 8 / kThreads; ++i) {
        const int index = i * kThreads + static_cast<int>(threadIdx.x);
        const int row = index / 8;
        const int piece = index % 8;
        const bool valid = first + row < rows && k + piece * 8 < units;
        const Bf16* from = matrix;
        if (valid) { from += static_cast<std::size_t>(first + row) * units + k + piece * 8; }
        copy_async16(target + static_cast<unsigned>(piece_at(row, piece)), from, valid);
    }
}

template <Element kElement, LinearOutput kOutput>
__global__ void __launch_bounds__(kThreads, 1) wide_kernel(ProductArguments product, void* y) {
    wait_for_previous();
    let_next_start();
    extern __shared__ __align__(128) unsigned char shared[];
    const int outputs = product.outputs;
    const int units = product.units;
    const int rows = product.rows;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4;
    const int t = lane % 4;
    const int warp_output = warp % 4 * 32;
    const int warp_row = warp / 4 * 64;
    const int output0 = static_cast<int>(blockIdx.y) * kTileOutputs;
    const int row0 = static_cast<int>(blockIdx.x) * kTileRows;  // neighbours share a tile of W
    const unsigned stage0 = shared_address(shared);
    const int steps = ceil_div(units, kStageUnits);
    const int steps_per_slice = slice_length(units) / kStageUnits;
    const auto start = [&](int step) {
        if (step < steps) {
            const unsigned stage = stage0 + static_cast<unsigned>(step % kStages * 2 * kOperandBytes);
            copy_operand(product.w, outputs, units, output0, step * kStageUnits, stage);
            copy_operand(product.x, rows, units, row0, step * kStageUnits, stage + kOperandBytes);
        }
        copy_async_commit();
    };
#pragma unroll
    for (int step = 0; step < kStages - 1; ++step) {
        start(step);
    }

    float acc[2][8][4];  // of the current slice
    float4* total = reinterpret_cast<float4*>(shared + kStageBytes) + threadIdx.x;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                acc[m][n][i] = 0;
            }
        }
    }
    int until_fold = steps_per_slice;
    bool first_slice = true;
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<kStages - 2>();
        __syncthreads();
        start(step + kStages - 1);
        const unsigned char* w_stage = shared + step % kStages * 2 * kOperandBytes;
        const unsigned char* x_stage = w_stage + kOperandBytes;
#pragma unroll(kElement == Element::bf16 ? kStageUnits / kPiece : 1)  // FP8 would not fit in the registers
        for (int piece = 0; piece < kStageUnits / kPiece; ++piece) {
            uint4 w_piece[2][2];
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    w_piece[m][h] = *reinterpret_cast<const uint4*>(
                        w_stage + piece_at(warp_output + m * 16 + h * 8 + g, piece * 4 + t));
                }
            }
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const uint4 x_piece =
                    *reinterpret_cast<const uint4*>(x_stage + piece_at(warp_row + n * 8 + g, piece * 4 + t));
#pragma unroll
                for (int m = 0; m < 2; ++m) {
                    multiply_add_piece<kElement>(acc[m][n], w_piece[m][0], w_piece[m][1], x_piece);
                }
            }
        }
        const bool last = step + 1 == steps;
        if (--until_fold == 0 || last) {
#pragma unroll
            for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int n = 0; n < 8; ++n) {
                    float(&sum)[4] = acc[m][n];
                    float4& before = total[(m * 8 + n) * kThreads];
                    if (!first_slice) {
                        sum[0] = __fadd_rn(before.x, sum[0]);
                        sum[1] = __fadd_rn(before.y, sum[1]);
                        sum[2] = __fadd_rn(before.z, sum[2]);
                        sum[3] = __fadd_rn(before.w, sum[3]);
                    }
                    if (!last) {
                        before = make_float4(sum[0], sum[1], sum[2], sum[3]);
                        sum[0] = sum[1] = sum[2] = sum[3] = 0;
                    }
                }
            }
            first_slice = false;
            until_fold = steps_per_slice;
        }
    }
    copy_async_wait<0>();
    __syncthreads();                                 // the stages are free
    float* sums = reinterpret_cast<float*>(shared);  // [row][output]
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sums[(warp_row + n * 8 + 2 * t + i % 2) * kSumStride + warp_output + m * 16 + g + i / 2 * 8] =
                    acc[m][n][i];
            }
        }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kTileOutputs; i += kThreads) {
        const int row = i / kTileOutputs;
        const int output = i % kTileOutputs;
        if (row0 + row < rows && output0 + output < outputs) {
            write_output<kOutput>(
                y, static_cast<std::size_t>(row0 + row) * outputs + output0 + output,
                scaled<kElement>(product, row0 + row, output0 + output, sums[row * kSumStride + output]));
        }
    }
}

template <Element kElement, LinearOutput kOutput>
cudaError_t launch(const ProductArguments& product, void* y, cudaStream_t stream) {
    const cudaError_t error =
        cudaFuncSetAttribute(wide_kernel<kElement, kOutput>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
    if (error != cudaSuccess) { return error; }
    const int output_tiles = ceil_div(product.outputs, kTileOutputs);
    if (output_tiles > 65535) { return cudaErrorInvalidValue; }
    const dim3 grid(static_cast<unsigned>(ceil_div(product.rows, kTileRows)), static_cast<unsigned>(output_tiles));
    return launch_kernel(wide_kernel<kElement, kOutput>, grid, kThreads, kSharedBytes, stream, product, y);
}

}  // namespace

template <Element kElement>
cudaError_t linear_wide(const ProductArguments& product, LinearOutput output, void* y, cudaStream_t stream) {
    switch (output) {
        case LinearOutput::bf16:
            return launch<kElement, LinearOutput::bf16>(product, y, stream);
        case LinearOutput::f32:
            return launch<kElement, LinearOutput::f32>(product, y, stream);
        case LinearOutput::accumulate:
            return launch<kElement, LinearOutput::accumulate>(product, y, stream);
    }
    return cudaErrorInvalidValue;
}
template cudaError_t linear_wide<Element::bf16>(const ProductArguments&, LinearOutput, void*, cudaStream_t);
template cudaError_t linear_wide<Element::fp8>(const ProductArguments&, LinearOutput, void*, cudaStream_t);

}  // namespace engine::cuda
