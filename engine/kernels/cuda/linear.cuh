// What the two fixed-order matrix products share: the cut along K, and the order inside an mma, so that they give the
// same bits for an output element.
//
// K is cut into at most 8 slices of a length that is a multiple of 64 and depends on K alone. Inside a slice, pieces of
// 32 are taken in ascending order, each as two mma of 16: of the 8 neighbouring elements 8t .. 8t + 7 that thread t of
// a quad loads with one 16-byte access, the first mma takes elements 0-3 and the second 4-7. (The sum over k does not
// care which k stands where, as long as both operands agree.) The operand with 16 rows is W, the one with 8 columns is
// x. Slices are then added in ascending order.
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace engine::cuda {

constexpr int kSlices = 8;
constexpr int kPiece = 32;

/// Elements of K in a slice.
__host__ __device__ constexpr int slice_length(int inputs) {
    return ceil_div(ceil_div(inputs, 64), kSlices) * 64;
}
/// Slices that are not empty.
__host__ __device__ constexpr int slices_used(int inputs) {
    return ceil_div(inputs, slice_length(inputs));
}

/// c[16 outputs x 8 rows] += 32 elements of K. w[0], w[1]: this thread's 8 elements of outputs g and g + 8; x: of row
/// g.
__device__ __forceinline__ void multiply_add_piece(float (&c)[4], const uint4& w0, const uint4& w1, const uint4& x) {
    const unsigned first[4] = {w0.x, w1.x, w0.y, w1.y};
    multiply_add(c, first, x.x, x.y);
    const unsigned second[4] = {w0.z, w1.z, w0.w, w1.w};
    multiply_add(c, second, x.z, x.w);
}

/// Writes one element of y.
template <LinearOutput kOutput>
__device__ __forceinline__ void write_output(void* y, std::size_t at, float value) {
    if constexpr (kOutput == LinearOutput::bf16) {
        static_cast<Bf16*>(y)[at] = bf16_of(value);
    } else if constexpr (kOutput == LinearOutput::f32) {
        static_cast<float*>(y)[at] = value;
    } else {
        static_cast<float*>(y)[at] += value;
    }
}

cudaError_t linear_skinny(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                          cudaStream_t stream);
cudaError_t linear_wide(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                        cudaStream_t stream);

}  // namespace engine::cuda
