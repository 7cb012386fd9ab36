// Products with few rows: bound by the bytes of W, which stream from memory straight into the registers of the mma.
// One block makes 16 or 32 outputs of all rows; its eight warps take one slice of K each.
#include "engine/kernels/cuda/linear.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = kSlices * kWarp;
/// Pieces of 32 whose loads are in flight together, per warp; what 128 registers hold.
template <int kRowTiles>
constexpr int kPiecesAtOnce = kRowTiles == 1   ? 4
                              : kRowTiles == 2 ? 3
                                               : 2;

/// kOutputTiles tiles of 16 outputs, kRowTiles tiles of 8 rows.
template <int kOutputTiles, int kRowTiles, LinearOutput kOutput>
__global__ void __launch_bounds__(kThreads, 2)
    skinny_kernel(const Bf16* w, int outputs, int inputs, const Bf16* x, int rows, void* y) {
    constexpr int kOutputs = kOutputTiles * 16;
    constexpr int kRows = kRowTiles * 8;
    constexpr int kUnroll = kPiecesAtOnce<kRowTiles>;
    constexpr int kStride =
        kOutputs + 4;  // floats from a row of sums to the next: no two lanes of a store share a bank
    __shared__ float sums[kSlices][kRows][kStride];
    const int slice = static_cast<int>(threadIdx.x) / kWarp;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4;
    const int t = lane % 4;
    const int output0 = static_cast<int>(blockIdx.x) * kOutputs;
    const int begin = slice * slice_length(inputs);
    const int end = min(begin + slice_length(inputs), inputs);

    // Outputs beyond the last are computed from the last and not written.
    const Bf16* w_rows[kOutputTiles][2];
#pragma unroll
    for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int output = min(output0 + m * 16 + h * 8 + g, outputs - 1);
            w_rows[m][h] = w + static_cast<std::size_t>(output) * inputs + 8 * t;
        }
    }
    const Bf16* x_rows = x + static_cast<std::size_t>(g) * inputs + 8 * t;
    const std::size_t x_stride = static_cast<std::size_t>(8) * inputs;  // from a tile of rows to the next

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
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    // kUnroll pieces from k on: all loads of W first, so that they are in flight together. `there(at)`: whether this
    // thread's 8 elements of the piece at `at` are inside the slice.
    const auto add_pieces = [&](int k, auto there) {
        uint4 w_piece[kUnroll][kOutputTiles][2];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int at = k + u * kPiece;
#pragma unroll
            for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    w_piece[u][m][h] = there(at) ? load_streaming(w_rows[m][h] + at) : zeros;
                }
            }
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int at = k + u * kPiece;
#pragma unroll
            for (int n = 0; n < kRowTiles; ++n) {
                uint4 x_piece = zeros;
                if (row_there[n] && there(at)) {
                    x_piece = __ldg(reinterpret_cast<const uint4*>(x_rows + n * x_stride + at));
                }
#pragma unroll
                for (int m = 0; m < kOutputTiles; ++m) {
                    multiply_add_piece(acc[m][n], w_piece[u][m][0], w_piece[u][m][1], x_piece);
                }
            }
        }
    };
    int k = begin;
    for (; k + kUnroll * kPiece <= end; k += kUnroll * kPiece) {
        add_pieces(k, [](int) { return true; });
    }
    if (k < end) {  // inputs are a multiple of 8: all 8 elements of a thread or none
        add_pieces(k, [&](int at) { return at + 8 * t < end; });
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
    const int slices = slices_used(inputs);
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kOutputs; i += kThreads) {
        const int row = i / kOutputs;
        const int output = i % kOutputs;
        if (row >= rows || output0 + output >= outputs) { continue; }
        float sum = sums[0][row][output];
        for (int s = 1; s < slices; ++s) {
            sum = __fadd_rn(sum, sums[s][row][output]);
        }
        write_output<kOutput>(y, static_cast<std::size_t>(row) * outputs + output0 + output, sum);
    }
}

template <int kOutputTiles, int kRowTiles>
cudaError_t launch(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                   cudaStream_t stream) {
    const auto grid = static_cast<unsigned>(ceil_div(w.outputs, kOutputTiles * 16));
    const auto run = [&](auto kernel) {
        kernel<<<grid, kThreads, 0, stream>>>(w.data, w.outputs, w.inputs, x, rows, y);
    };
    switch (output) {
        case LinearOutput::bf16:
            run(skinny_kernel<kOutputTiles, kRowTiles, LinearOutput::bf16>);
            break;
        case LinearOutput::f32:
            run(skinny_kernel<kOutputTiles, kRowTiles, LinearOutput::f32>);
            break;
        case LinearOutput::accumulate:
            run(skinny_kernel<kOutputTiles, kRowTiles, LinearOutput::accumulate>);
            break;
    }
    return cudaGetLastError();
}

/// Outputs from which a block makes 32 of them: x is read half as often then, and there are still enough blocks.
constexpr int kManyOutputs = 8192;

}  // namespace

cudaError_t linear_skinny(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                          cudaStream_t stream) {
    const bool many = w.outputs >= kManyOutputs;
    if (rows <= 8) {
        return many ? launch<2, 1>(w, x, rows, output, y, stream) : launch<1, 1>(w, x, rows, output, y, stream);
    }
    if (rows <= 16) {
        return many ? launch<2, 2>(w, x, rows, output, y, stream) : launch<1, 2>(w, x, rows, output, y, stream);
    }
    if (rows <= 32) {
        return many ? launch<2, 4>(w, x, rows, output, y, stream) : launch<1, 4>(w, x, rows, output, y, stream);
    }
    return launch<1, 8>(w, x, rows, output, y, stream);
}

}  // namespace engine::cuda
