// What the two fixed-order matrix products share: the cut along K, and the order inside an mma, so that they give the
// same bits for an output element.
//
// K is cut into at most 8 slices of a length that is a multiple of 64 and depends on K alone. Inside a slice, pieces of
// 32 are taken in ascending order, each as two mma of 16: of the 8 neighbouring elements 8t .. 8t + 7 that thread t of
// a quad loads with one 16-byte access, the first mma takes elements 0-3 and the second 4-7. (The sum over k does not
// care which k stands where, as long as both operands agree.) The operand with 16 rows is W, the one with 8 columns is
// x. Slices are then added in ascending order.
//
// FP8 goes the same way in units of two neighbouring elements: 16 bytes are 16 of them, an mma takes 32, and what is
// said of bytes and lanes holds word for word. The scales of output and row are multiplied to the finished sum.
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/linear.h"

namespace engine::cuda {

constexpr int kSlices = 8;
constexpr int kPiece = 32;

/// What the operands are made of. A unit of K is 16 bits: one bf16, or two e4m3.
enum class Element : std::uint8_t { bf16, fp8 };

/// A product as the kernels take it. `w`: [outputs][units], `x`: [rows][units], units a multiple of 8.
struct ProductArguments {
    const Bf16* w = nullptr;
    const Bf16* x = nullptr;
    const float* w_scales = nullptr;  // [outputs]; fp8 only
    const float* x_scales = nullptr;  // [rows]; fp8 only
    int outputs = 0;
    int units = 0;
    int rows = 0;
};

/// Units of K in a slice.
__host__ __device__ constexpr int slice_length(int units) {
    return ceil_div(ceil_div(units, 64), kSlices) * 64;
}
/// Slices that are not empty.
__host__ __device__ constexpr int slices_used(int units) {
    return ceil_div(units, slice_length(units));
}

/// c[16 outputs x 8 rows] += 32 units of K. w[0], w[1]: this thread's 8 units of outputs g and g + 8; x: of row g.
template <Element kElement>
__device__ __forceinline__ void multiply_add_piece(float (&c)[4], const uint4& w0, const uint4& w1, const uint4& x) {
    const unsigned first[4] = {w0.x, w1.x, w0.y, w1.y};
    const unsigned second[4] = {w0.z, w1.z, w0.w, w1.w};
    if constexpr (kElement == Element::bf16) {
        multiply_add(c, first, x.x, x.y);
        multiply_add(c, second, x.z, x.w);
    } else {
        multiply_add_fp8(c, first, x.x, x.y);
        multiply_add_fp8(c, second, x.z, x.w);
    }
}

/// The sum over K as an element of y.
template <Element kElement>
__device__ __forceinline__ float scaled(const ProductArguments& p, int row, int output, float sum) {
    if constexpr (kElement == Element::bf16) {
        return sum;
    } else {
        return __fmul_rn(__fmul_rn(sum, p.w_scales[output]), p.x_scales[row]);
    }
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

template <Element kElement>
cudaError_t linear_skinny(const ProductArguments& product, LinearOutput output, void* y, cudaStream_t stream);
template <Element kElement>
cudaError_t linear_wide(const ProductArguments& product, LinearOutput output, void* y, cudaStream_t stream);

}  // namespace engine::cuda
