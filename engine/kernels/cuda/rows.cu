// Operators that work on rows: embedding, norms, activation, gathering, conversions. All bound by memory: 16-byte
// accesses where the width allows them.
#include <cuda_fp16.h>

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/fp8.cuh"
#include "engine/kernels/cuda/linear.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kBlocksMax = 132 * 16;  // of grid-stride loops: enough for the largest chip

__global__ void __launch_bounds__(kThreads)
    embed_kernel(const Bf16* table, int vocabulary, int hidden, const std::int32_t* tokens, float* out) {
    wait_for_previous();
    let_next_start();
    const std::size_t row = blockIdx.x;
    const std::int32_t token = tokens[row];
    const bool idle = token < 0 || token >= vocabulary;
    const Bf16* source = table + static_cast<std::size_t>(idle ? 0 : token) * hidden;
    float* target = out + row * hidden;
    if (hidden % 8 == 0) {
        for (int i = threadIdx.x * 8; i < hidden; i += kThreads * 8) {
            uint4 v = make_uint4(0, 0, 0, 0);
            if (!idle) { v = *reinterpret_cast<const uint4*>(source + i); }
            float4* to = reinterpret_cast<float4*>(target + i);
            to[0] = make_float4(low_float(v.x), high_float(v.x), low_float(v.y), high_float(v.y));
            to[1] = make_float4(low_float(v.z), high_float(v.z), low_float(v.w), high_float(v.w));
        }
        return;
    }
    for (int i = threadIdx.x; i < hidden; i += kThreads) {
        target[i] = idle ? 0.0f : float_of(source[i]);
    }
}

/// One block per row. kVectors > 0: the row fits in kVectors float4 of each thread (width a multiple of 4) and is read
/// once; 0: any width, read twice. Which one is chosen depends on the width alone. kQuantize: also to FP8.
template <int kVectors, bool kQuantize>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const float* x, float* residual, const float* delta, const float* bias, const float* weight, float eps,
                int width, Bf16* out, QuantizedRows quantized) {
    wait_for_previous();
    let_next_start();
    static_assert(kVectors > 0 || !kQuantize);
    __shared__ float shared[kThreads / kWarp];
    const std::size_t begin = static_cast<std::size_t>(blockIdx.x) * width;
    const bool update = residual != nullptr && (delta != nullptr || bias != nullptr);
    float squares = 0;
    if constexpr (kVectors > 0) {
        float4 row[kVectors];
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
            const int i = (j * kThreads + static_cast<int>(threadIdx.x)) * 4;
            row[j] = make_float4(0, 0, 0, 0);
            if (i < width) {
                row[j] = *reinterpret_cast<const float4*>(x + begin + i);
                if (delta != nullptr) {
                    const float4 d = *reinterpret_cast<const float4*>(delta + begin + i);
                    row[j].x += d.x;
                    row[j].y += d.y;
                    row[j].z += d.z;
                    row[j].w += d.w;
                }
                if (bias != nullptr) {
                    const float4 b = *reinterpret_cast<const float4*>(bias + i);
                    row[j].x += b.x;
                    row[j].y += b.y;
                    row[j].z += b.z;
                    row[j].w += b.w;
                }
                if (update) { *reinterpret_cast<float4*>(residual + begin + i) = row[j]; }
            }
        }
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
            squares += row[j].x * row[j].x;
            squares += row[j].y * row[j].y;
            squares += row[j].z * row[j].z;
            squares += row[j].w * row[j].w;
        }
        const float mean = block_sum<kThreads>(squares, shared) / static_cast<float>(width);
        const float scale = 1.0f / sqrtf(mean + eps);
        uint2 packed[kVectors];
        float most = 0;
#pragma unroll
        for (int j = 0; j < kVectors; ++j) {
            const int i = (j * kThreads + static_cast<int>(threadIdx.x)) * 4;
            if (i < width) {
                const float4 w = *reinterpret_cast<const float4*>(weight + i);
                packed[j].x = bf16_pair(row[j].x * scale * w.x, row[j].y * scale * w.y);
                packed[j].y = bf16_pair(row[j].z * scale * w.z, row[j].w * scale * w.w);
                *reinterpret_cast<uint2*>(out + begin + i) = packed[j];
                if constexpr (kQuantize) { most = largest_of(largest_of(most, packed[j].x), packed[j].y); }
            }
        }
        if constexpr (kQuantize) {
            __shared__ float largest[kThreads / kWarp];
            const float fp8 = fp8_scale(block_max<kThreads>(most, largest));
            if (threadIdx.x == 0) { quantized.scales[blockIdx.x] = fp8; }
#pragma unroll
            for (int j = 0; j < kVectors; ++j) {
                const int i = (j * kThreads + static_cast<int>(threadIdx.x)) * 4;
                if (i < width) {
                    *reinterpret_cast<unsigned*>(quantized.data + begin + i) = fp8_quad(packed[j].x, packed[j].y, fp8);
                }
            }
        }
    } else {
        const auto sum_at = [&](int i) {
            float value = x[begin + i];
            if (delta != nullptr) { value += delta[begin + i]; }
            if (bias != nullptr) { value += bias[i]; }
            return value;
        };
        for (int i = threadIdx.x; i < width; i += kThreads) {
            const float value = sum_at(i);
            squares += value * value;
        }
        const float mean = block_sum<kThreads>(squares, shared) / static_cast<float>(width);
        const float scale = 1.0f / sqrtf(mean + eps);
        for (int i = threadIdx.x; i < width; i += kThreads) {  // each thread rereads only what it rewrites
            const float value = sum_at(i);
            if (update) { residual[begin + i] = value; }
            out[begin + i] = bf16_of(value * scale * weight[i]);
        }
    }
}

bool can_quantize(const QuantizedRows& quantized, std::int32_t width) {
    return quantized.data == nullptr || (quantized.scales != nullptr && width % 16 == 0);
}

cudaError_t launch_norm(const float* x, float* residual, const float* delta, const float* bias, const float* weight,
                        float eps, std::int32_t rows, std::int32_t width, Bf16* out, const QuantizedRows& quantized,
                        cudaStream_t stream) {
    if (rows < 0 || width <= 0 || !can_quantize(quantized, width)) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    const int vectors = width % 4 == 0 ? ceil_div(width, kThreads * 4) : 0;
    const bool quantize = quantized.data != nullptr;
    const auto run = [&](auto kernel) {
        return launch_kernel(kernel, static_cast<unsigned>(rows), kThreads, 0, stream, x, residual, delta, bias, weight,
                             eps, width, out, quantized);
    };
    if (vectors == 1) { return run(quantize ? norm_kernel<1, true> : norm_kernel<1, false>); }
    if (vectors == 2) { return run(quantize ? norm_kernel<2, true> : norm_kernel<2, false>); }
    if (vectors == 3 || vectors == 4) { return run(quantize ? norm_kernel<4, true> : norm_kernel<4, false>); }
    if (vectors > 4 && vectors <= 8) { return run(quantize ? norm_kernel<8, true> : norm_kernel<8, false>); }
    const cudaError_t error = run(norm_kernel<0, false>);
    if (!quantize || error != cudaSuccess) { return error; }
    return quantize_rows_fp8(out, rows, width, quantized.data, quantized.scales, stream);
}

__device__ __forceinline__ float swiglu_of(float gate, float up) {
    return gate / (1.0f + expf(-gate)) * up;
}

__device__ __forceinline__ unsigned swiglu_pair(unsigned gate, unsigned up) {
    return bf16_pair(swiglu_of(low_float(gate), low_float(up)), swiglu_of(high_float(gate), high_float(up)));
}

/// Of 8 elements.
__device__ __forceinline__ uint4 swiglu_vector(const Bf16* gate, const Bf16* up) {
    const uint4 g = *reinterpret_cast<const uint4*>(gate);
    const uint4 u = *reinterpret_cast<const uint4*>(up);
    return make_uint4(swiglu_pair(g.x, u.x), swiglu_pair(g.y, u.y), swiglu_pair(g.z, u.z), swiglu_pair(g.w, u.w));
}

template <bool kWide>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const Bf16* gate_up, int width, Bf16* out) {
    wait_for_previous();
    let_next_start();
    const std::size_t row = blockIdx.x;
    const Bf16* gate = gate_up + row * 2 * width;
    const Bf16* up = gate + width;
    Bf16* target = out + row * width;
    const int i = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * (kWide ? 8 : 1);
    if (i >= width) { return; }
    if constexpr (kWide) {
        *reinterpret_cast<uint4*>(target + i) = swiglu_vector(gate + i, up + i);
    } else {
        target[i] = bf16_of(swiglu_of(float_of(gate[i]), float_of(up[i])));
    }
}

/// One block per row, which kVectors times 8 elements of each thread hold.
constexpr int kRowThreads = 1024;
template <int kVectors>
__global__ void __launch_bounds__(kRowThreads)
    swiglu_fp8_kernel(const Bf16* gate_up, int width, Bf16* out, QuantizedRows quantized) {
    wait_for_previous();
    let_next_start();
    __shared__ float shared[kRowThreads / kWarp];
    const std::size_t row = blockIdx.x;
    const Bf16* gate = gate_up + row * 2 * width;
    const Bf16* up = gate + width;
    uint4 made[kVectors];
    float most = 0;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
        const int i = (j * kRowThreads + static_cast<int>(threadIdx.x)) * 8;
        if (i < width) {
            made[j] = swiglu_vector(gate + i, up + i);
            *reinterpret_cast<uint4*>(out + row * width + i) = made[j];
            most = largest_of(most, made[j]);
        }
    }
    const float scale = fp8_scale(block_max<kRowThreads>(most, shared));
    if (threadIdx.x == 0) { quantized.scales[row] = scale; }
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
        const int i = (j * kRowThreads + static_cast<int>(threadIdx.x)) * 8;
        if (i < width) {
            *reinterpret_cast<uint2*>(quantized.data + row * width + i) =
                make_uint2(fp8_quad(made[j].x, made[j].y, scale), fp8_quad(made[j].z, made[j].w, scale));
        }
    }
}

template <class Piece>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const Piece* source, std::size_t pieces, const std::int32_t* row_index, Piece* out) {
    wait_for_previous();
    let_next_start();
    const std::size_t row = blockIdx.x;
    const std::int32_t from = row_index[row];
    for (std::size_t i = threadIdx.x; i < pieces; i += kThreads) {
        Piece piece{};
        if (from >= 0) { piece = source[static_cast<std::size_t>(from) * pieces + i]; }
        out[row * pieces + i] = piece;
    }
}

template <class From, class To, class Convert>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const From* source, std::size_t elements, To* out, Convert convert) {
    wait_for_previous();
    let_next_start();
    const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kThreads;
    for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements; i += stride) {
        out[i] = convert(source[i]);
    }
}

struct FloatToBf16 {
    __device__ Bf16 operator()(float x) const { return bf16_of(x); }
};
struct Bf16ToFloat {
    __device__ float operator()(Bf16 x) const { return float_of(x); }
};
struct HalfToBf16 {
    __device__ Bf16 operator()(std::uint16_t x) const { return bf16_of(__half2float(__ushort_as_half(x))); }
};

template <class Convert, class From, class To>
cudaError_t convert(const From* source, std::size_t elements, To* out, cudaStream_t stream) {
    if (elements == 0) { return cudaSuccess; }
    const auto blocks = static_cast<std::int64_t>((elements + kThreads - 1) / kThreads);
    return launch_kernel(convert_kernel<From, To, Convert>,
                         static_cast<unsigned>(blocks < kBlocksMax ? blocks : kBlocksMax), kThreads, 0, stream, source,
                         elements, out, Convert{});
}

}  // namespace

cudaError_t embed(const Bf16* table, std::int32_t vocabulary, std::int32_t hidden, const std::int32_t* tokens,
                  std::int32_t rows, float* out, cudaStream_t stream) {
    if (rows < 0 || hidden <= 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    return launch_kernel(embed_kernel, static_cast<unsigned>(rows), kThreads, 0, stream, table, vocabulary, hidden,
                         tokens, out);
}

cudaError_t rms_norm(const float* x, const float* weight, float eps, std::int32_t rows, std::int32_t width, Bf16* out,
                     cudaStream_t stream, const QuantizedRows& quantized) {
    return launch_norm(x, nullptr, nullptr, nullptr, weight, eps, rows, width, out, quantized, stream);
}

cudaError_t add_rms_norm(float* residual, const float* delta, const float* bias, const float* weight, float eps,
                         std::int32_t rows, std::int32_t width, Bf16* out, cudaStream_t stream,
                         const QuantizedRows& quantized) {
    return launch_norm(residual, residual, delta, bias, weight, eps, rows, width, out, quantized, stream);
}

cudaError_t swiglu(const Bf16* gate_up, std::int32_t rows, std::int32_t width, Bf16* out, cudaStream_t stream,
                   const QuantizedRows& quantized) {
    if (rows < 0 || width <= 0 || !can_quantize(quantized, width)) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    const bool quantize = quantized.data != nullptr;
    const int vectors = ceil_div(width, kRowThreads * 8);
    if (quantize && vectors <= 4) {
        const auto run = [&](auto kernel) {
            return launch_kernel(kernel, static_cast<unsigned>(rows), kRowThreads, 0, stream, gate_up, width, out,
                                 quantized);
        };
        return run(vectors == 1 ? swiglu_fp8_kernel<1> : vectors == 2 ? swiglu_fp8_kernel<2> : swiglu_fp8_kernel<4>);
    }
    const bool wide = width % 8 == 0;
    const int blocks = ceil_div(width, kThreads * (wide ? 8 : 1));
    if (blocks > 65535) { return cudaErrorInvalidValue; }
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(blocks));
    const cudaError_t error = launch_kernel(wide ? swiglu_kernel<true> : swiglu_kernel<false>, grid, kThreads, 0,
                                            stream, gate_up, width, out);
    if (!quantize || error != cudaSuccess) { return error; }
    return quantize_rows_fp8(out, rows, width, quantized.data, quantized.scales, stream);
}

cudaError_t gather_rows(const void* source, std::size_t row_bytes, const std::int32_t* row_index, std::int32_t rows,
                        void* out, cudaStream_t stream) {
    if (rows < 0 || row_bytes % 4 != 0) { return cudaErrorInvalidValue; }
    if (rows == 0 || row_bytes == 0) { return cudaSuccess; }
    const auto grid = static_cast<unsigned>(rows);
    if (row_bytes % 16 == 0) {
        return launch_kernel(gather_kernel<uint4>, grid, kThreads, 0, stream, static_cast<const uint4*>(source),
                             row_bytes / 16, row_index, static_cast<uint4*>(out));
    }
    return launch_kernel(gather_kernel<unsigned>, grid, kThreads, 0, stream, static_cast<const unsigned*>(source),
                         row_bytes / 4, row_index, static_cast<unsigned*>(out));
}

cudaError_t to_bf16(const float* source, std::size_t elements, Bf16* out, cudaStream_t stream) {
    return convert<FloatToBf16>(source, elements, out, stream);
}

cudaError_t to_float(const Bf16* source, std::size_t elements, float* out, cudaStream_t stream) {
    return convert<Bf16ToFloat>(source, elements, out, stream);
}

cudaError_t half_to_bf16(const std::uint16_t* source, std::size_t elements, Bf16* out, cudaStream_t stream) {
    return convert<HalfToBf16>(source, elements, out, stream);
}

}  // namespace engine::cuda
