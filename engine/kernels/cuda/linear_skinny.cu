// Products with few rows: bound by the bytes of W, which stream from memory straight into the registers of the mma.
// One block makes 16 or 32 outputs of all rows; its eight warps take one slice of K each.
#include "engine/kernels/cuda/linear.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = kSlices * kWarp;
/// Pieces of 32 units whose loads are in flight together, per warp; what 128 registers hold. FP8 needs more registers a
/// piece: Hopper multiplies half floats, made of it before.
template <Element kElement, int kOutputTiles, int kRowTiles>
__host__ __device__ constexpr int pieces_at_once() {
    if (kRowTiles == 1) { return 4; }
    if (kElement == Element::bf16) { return kRowTiles == 2 ? 3 : 2; }
    return kOutputTiles * kRowTiles <= 4 ? 2 : 1;
}

/// Blocks of a multiprocessor: two, or three where their registers are just a few too many for it else.
template <Element kElement, int kOutputTiles, int kRowTiles>
__host__ __device__ constexpr int blocks_per_processor() {
    return kElement == Element::fp8 && kOutputTiles == 1 && kRowTiles == 2 ? 3 : 2;
}

/// kOutputTiles tiles of 16 outputs, kRowTiles tiles of 8 rows.
template <Element kElement, int kOutputTiles, int kRowTiles, LinearOutput kOutput>
__global__ void __launch_bounds__(kThreads, blocks_per_processor<kElement, kOutputTiles, kRowTiles>())
    skinny_kernel(ProductArguments product, void* y) {
    const int outputs = product.outputs;
    const int units = product.units;
    const int rows = product.rows;
    constexpr int kOutputs = kOutputTiles * 16;
    constexpr int kRows = kRowTiles * 8;
    constexpr int kUnroll = pieces_at_once<kElement, kOutputTiles, kRowTiles>();
    constexpr int kStride =
        kOutputs + 4;  // floats from a row of sums to the next: no two lanes of a store share a bank
    __shared__ float sums[kSlices][kRows][kStride];
    const int slice = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4;
    const int t = lane % 4;
    const int output0 = static_cast<int>(blockIdx.x) * kOutputs;
    const int begin = slice * slice_length(units);
    const int end = min(begin + slice_length(units), units);

    // Outputs beyond the last are computed from the last and not written.
    const Bf16* w_rows[kOutputTiles][2];
#pragma unroll
    for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int output = min(output0 + m * 16 + h * 8 + g, outputs - 1);
            w_rows[m][h] = product.w + static_cast<std::size_t>(output) * units + 8 * t;
        }
    }
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    // kUnroll pieces of W, from k on: all loads first, so that they are in flight together. `there(at)`: whether this
    // thread's 8 units of the piece at `at` are inside the slice (units are a multiple of 8: all 8 or none).
    using Weights = uint4[kUnroll][kOutputTiles][2];
    const auto load_weights = [&](Weights& w_piece, int k, auto there, auto load) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int at = k + u * kPiece;
#pragma unroll
            for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    w_piece[u][m][h] = there(at) ? load(w_rows[m][h] + at) : zeros;
                }
            }
        }
    };
    const auto inside = [&](int at) { return at + 8 * t < end; };

    // Weights alone: the kernel before may still be writing x, and reading what will be y.
    constexpr bool kWeightsFirst = kRowTiles < 8;  // the registers hold no more there
    [[maybe_unused]] Weights first;
    if constexpr (kWeightsFirst) { load_weights(first, begin, inside, load_before_wait); }
    wait_for_previous();
    let_next_start();

    const Bf16* x_rows = product.x + static_cast<std::size_t>(g) * units + 8 * t;
    const std::size_t x_stride = static_cast<std::size_t>(8) * units;  // from a tile of rows to the next
    float acc[kOutputTiles][kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                acc[m][n][i] = 0;
            }
        }
    }
    bool row_there[kRowTiles];
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
        row_there[n] = n * 8 + g < rows;
    }
    // The products of what load_weights(w_piece, k, there) has brought.
    const auto add_pieces = [&](const Weights& w_piece, int k, auto there) {
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int at = k + u * kPiece;
#pragma unroll
            for (int n = 0; n < kRowTiles; ++n) {
                uint4 x_piece = zeros;
                if (row_there[n] && there(at)) {
                    x_piece = *reinterpret_cast<const uint4*>(x_rows + n * x_stride + at);
                }
#pragma unroll
                for (int m = 0; m < kOutputTiles; ++m) {
                    multiply_add_piece<kElement>(acc[m][n], w_piece[u][m][0], w_piece[u][m][1], x_piece);
                }
            }
        }
    };
    int k = begin;
    if constexpr (kWeightsFirst) {
        add_pieces(first, begin, inside);
        k += kUnroll * kPiece;
    }
    for (; k + kUnroll * kPiece <= end; k += kUnroll * kPiece) {
        const auto always = [](int) { return true; };
        Weights w_piece;
        load_weights(w_piece, k, always, load_streaming);
        add_pieces(w_piece, k, always);
    }
    if (k < end) {
        Weights w_piece;
        load_weights(w_piece, k, inside, load_streaming);
        add_pieces(w_piece, k, inside);
    }
#pragma unroll
    for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sums[slice][n * 8 + 2 * t + i % 2][m * 16 + g + i / 2 * 8] = acc[m][n][i];
            }
        }
    }
    __syncthreads();
    const int slices = slices_used(units);
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kOutputs; i += kThreads) {
        const int row = i / kOutputs;
        const int output = i % kOutputs;
        if (row >= rows || output0 + output >= outputs) { continue; }
        float sum = sums[0][row][output];
        for (int s = 1; s < slices; ++s) {
            sum = __fadd_rn(sum, sums[s][row][output]);
        }
        write_output<kOutput>(y, static_cast<std::size_t>(row) * outputs + output0 + output,
                              scaled<kElement>(product, row, output0 + output, sum));
    }
}

template <Element kElement, int kOutputTiles, int kRowTiles>
cudaError_t launch(const ProductArguments& product, LinearOutput output, void* y, cudaStream_t stream) {
    const auto grid = static_cast<unsigned>(ceil_div(product.outputs, kOutputTiles * 16));
    const auto run = [&](auto kernel) { return launch_kernel(kernel, grid, kThreads, 0, stream, product, y); };
    switch (output) {
        case LinearOutput::bf16:
            return run(skinny_kernel<kElement, kOutputTiles, kRowTiles, LinearOutput::bf16>);
        case LinearOutput::f32:
            return run(skinny_kernel<kElement, kOutputTiles, kRowTiles, LinearOutput::f32>);
        case LinearOutput::accumulate:
            return run(skinny_kernel<kElement, kOutputTiles, kRowTiles, LinearOutput::accumulate>);
    }
    return cudaErrorInvalidValue;
}

/// Outputs from which a block makes 32 of them: x is read half as often then, and there are still enough blocks.
constexpr int kManyOutputs = 8192;

}  // namespace

template <Element kElement>
cudaError_t linear_skinny(const ProductArguments& product, LinearOutput output, void* y, cudaStream_t stream) {
    const bool many = product.outputs >= kManyOutputs;
    if (product.rows <= 8) {
        return many ? launch<kElement, 2, 1>(product, output, y, stream)
                    : launch<kElement, 1, 1>(product, output, y, stream);
    }
    if (product.rows <= 16) {
        return many ? launch<kElement, 2, 2>(product, output, y, stream)
                    : launch<kElement, 1, 2>(product, output, y, stream);
    }
    if (product.rows <= 32) {
        constexpr int kMost = kElement == Element::fp8 ? 1 : 2;  // what the registers hold
        return many ? launch<kElement, kMost, 4>(product, output, y, stream)
                    : launch<kElement, 1, 4>(product, output, y, stream);
    }
    return launch<kElement, 1, 8>(product, output, y, stream);
}
template cudaError_t linear_skinny<Element::bf16>(const ProductArguments&, LinearOutput, void*, cudaStream_t);
template cudaError_t linear_skinny<Element::fp8>(const ProductArguments&, LinearOutput, void*, cudaStream_t);

}  // namespace engine::cuda
