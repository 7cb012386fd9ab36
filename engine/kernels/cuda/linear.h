#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/kernels/cuda/launch.h"

/// y = x * W^T on the device. See launch.h for what holds for every launch function.
namespace engine::cuda {

/// A weight matrix on the device: [outputs, inputs] bf16, row-major (inputs contiguous), aligned to 16 bytes.
struct DeviceMatrix {
    const Bf16* data = nullptr;
    std::int32_t outputs = 0;
    std::int32_t inputs = 0;
};

/// What becomes of a product.
enum class LinearOutput : std::uint8_t {
    bf16,        // y: bf16 [rows, outputs]
    f32,         // y: float [rows, outputs]
    accumulate,  // y: float [rows, outputs], y += x * W^T (the residual stream; the bias is the consumer's)
};

/// Own kernels: mma.sync with float accumulators. K is cut into slices that the shape alone fixes; slices are summed in
/// ascending order. Up to kSkinnyRows rows the weights stream from memory to registers; above, tiles go through shared
/// memory. Both give the same bits for a row, for every number of rows: the deterministic mode is this function alone.
/// Shapes whose inputs are no multiple of 8 take a slow plain kernel (the same bits for every number of rows too).
cudaError_t linear_fixed_order(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                               cudaStream_t stream);

/// Rows up to which linear_fixed_order streams weights.
constexpr std::int32_t kSkinnyRows = 64;
/// Rows up to which the engine should prefer linear_fixed_order to the library also outside the deterministic mode:
/// bound by memory, and no tile is wasted. To be settled by gpu_bench.
constexpr std::int32_t kStreamingRows = 16;

/// An FP8 (e4m3) matrix on the device with one scale per output: W[o][i] = float(data[o][i]) * scales[o].
struct DeviceMatrixFp8 {
    const std::uint8_t* data = nullptr;  // [outputs, inputs], inputs a multiple of 16
    const float* scales = nullptr;       // [outputs]
    std::int32_t outputs = 0;
    std::int32_t inputs = 0;
};

/// bf16 rows to e4m3 with one scale per row: scale = max(|x|) / 448 (1 for a row of zeros), out = e4m3(x / scale),
/// nearest even, saturating. For activations, and for weights (a row is an output channel). width: a multiple of 16.
cudaError_t quantize_rows_fp8(const Bf16* x, std::int32_t rows, std::int32_t width, std::uint8_t* out, float* scales,
                              cudaStream_t stream);

/// linear_fixed_order() of FP8 operands, on a device of compute capability 8.9 or more: y = x * W^T with both scales
/// multiplied to the finished sum. x: [rows, inputs] e4m3 with x_scales [rows] (quantize_rows_fp8). The same bits for a
/// row, for every number of rows.
cudaError_t linear_fixed_order(const DeviceMatrixFp8& w, const std::uint8_t* x, const float* x_scales,
                               std::int32_t rows, LinearOutput output, void* y, cudaStream_t stream);

/// cuBLASLt with one workspace of fixed place and one algorithm per (shape, output, bucket of rows), found at first use
/// by the library's heuristic and kept: call prepare() for the shapes and buckets of a graph before capturing it.
/// Not thread-safe; one stream at a time (the workspace is shared by all its launches).
class MatmulLibrary {
public:
    /// On the current device. `workspace_bytes`: 32 MiB or more is what the library wants on Hopper.
    /// Null when the library or the workspace cannot be had; *error then says why.
    static std::unique_ptr<MatmulLibrary> make(std::size_t workspace_bytes, cudaError_t* error);
    MatmulLibrary() = default;
    MatmulLibrary(const MatmulLibrary&) = delete;
    MatmulLibrary& operator=(const MatmulLibrary&) = delete;
    virtual ~MatmulLibrary() = default;

    /// Whether FP8 products with one scale per row of x and one per output can be had here (compute capability 8.9 or
    /// more, and the library has an algorithm: cuBLASLt's outer-vector scaling, Hopper since CUDA 12.9).
    virtual bool has_fp8() const = 0;

    /// Finds the algorithm of (w's shape, rows' bucket, output). Error: cudaErrorNotSupported when there is none.
    virtual cudaError_t prepare(const DeviceMatrix& w, std::int32_t rows, LinearOutput output) = 0;
    virtual cudaError_t prepare(const DeviceMatrixFp8& w, std::int32_t rows, LinearOutput output) = 0;

    /// y = x * W^T. x: [rows, inputs] bf16; y as `output` says. The order of sums is the library's: it may depend on
    /// rows.
    virtual cudaError_t linear(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                               cudaStream_t stream) = 0;
    /// x: [rows, inputs] e4m3 with x_scales [rows] (quantize_rows_fp8).
    virtual cudaError_t linear(const DeviceMatrixFp8& w, const std::uint8_t* x, const float* x_scales,
                               std::int32_t rows, LinearOutput output, void* y, cudaStream_t stream) = 0;
};

}  // namespace engine::cuda
