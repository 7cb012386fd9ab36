// FP8 weights: which GPUs take them, rounding, and products. docs/decisions/0013-fp8-weights.md.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "device/cuda/cuda_native.h"
#include "engine/kernels/cuda/cuda_engine_backend.h"

namespace engine {

using base::ErrorCode;
using base::Result;
using cuda::Bf16;

/// All in bf16, whatever the checkpoint has, unless FP8 is asked for.
ModelFormats CudaBackend::choose_formats(WeightFormat /*stored*/) const {
    return {.weights = options_.weight_format == "fp8" ? WeightFormat::fp8 : WeightFormat::bf16,
            .kv = kv_cache::KvDtype::bf16};
}

Result<void> CudaBackend::check_fp8() const {
    constexpr std::uint32_t kSmMin = 89;  // of the conversions and the products
    if (options_.weight_format != "fp8" || sm_ >= kSmMin) { return {}; }
    return base::fail(ErrorCode::unimplemented, "weight_format is 'fp8', which needs compute capability 8.9 or more; " +
                                                    std::string(device_->name()) + " has " + std::to_string(sm_ / 10) +
                                                    "." + std::to_string(sm_ % 10) + ": set it to auto or bf16");
}

Result<void> CudaBackend::quantize_rows(const std::byte* rows, std::uint32_t count, std::uint32_t width, std::byte* out,
                                        float* scales, device::Stream& stream) {
    if (auto used = device::use_cuda_device(options_.device_index); !used) { return used; }
    const cudaError_t code = cuda::quantize_rows_fp8(
        reinterpret_cast<const Bf16*>(rows), static_cast<std::int32_t>(count), static_cast<std::int32_t>(width),
        reinterpret_cast<std::uint8_t*>(out), scales, device::native_stream(stream));
    if (code != cudaSuccess) { return tl::unexpected(device::cuda_error(code, "rounding weights to FP8")); }
    return {};
}

Result<void> CudaBackend::prepare_fp8(const ModelLimits& limits) {
    const base::ModelShape& shape = *limits.shape;
    const std::size_t widest =
        std::max({shape.hidden, shape.heads_q * shape.head_dim, shape.intermediate});  // a multiple of 16
    const std::size_t bytes = limits.batch_tokens * widest;
    auto buffer = device_->allocate(bytes + limits.batch_tokens * sizeof(float));
    if (!buffer) { return base::pass_on(buffer, "activations in FP8"); }
    fp8_ = std::move(*buffer);
    fp8_rows_.data = reinterpret_cast<std::uint8_t*>(fp8_.data());
    fp8_rows_.scales = reinterpret_cast<float*>(fp8_.data() + bytes);
    if (library_ != nullptr && library_->has_fp8()) {
        auto product = device_->allocate(std::size_t{limits.batch_tokens} * shape.hidden * sizeof(Bf16));
        if (!product) { return base::pass_on(product, "products in FP8"); }
        fp8_product_ = std::move(*product);
    } else if (library_ != nullptr) {
        spdlog::warn(
            "CUDA: this GPU or its cuBLASLt has no FP8 products with a scale per row and output: all of them "
            "are our own, which is slower for prompts");
    }
    return {};
}

cuda::QuantizedRows CudaBackend::quantized_rows(const void* out) {
    fp8_source_ = fp8_rows_.data == nullptr ? nullptr : out;
    return fp8_rows_;
}

cudaError_t CudaBackend::library_fp8(const cuda::DeviceMatrixFp8& w, std::int32_t rows, cuda::LinearOutput output,
                                     void* y) {
    if (library_ == nullptr || !library_->has_fp8()) { return cudaErrorNotSupported; }
    const auto multiply = [&](cuda::LinearOutput as, void* to) {
        return library_->linear(w, fp8_rows_.data, fp8_rows_.scales, rows, as, to, stream_);
    };
    const cudaError_t code = multiply(output, y);
    const std::size_t elements = static_cast<std::size_t>(rows) * static_cast<std::size_t>(w.outputs);
    if (code != cudaErrorNotSupported || output != cuda::LinearOutput::f32 ||
        elements * sizeof(Bf16) > fp8_product_.size()) {
        return code;
    }
    // Not every library writes floats here. Its bf16 has more bits than FP8 leaves.
    auto* const product = reinterpret_cast<Bf16*>(fp8_product_.data());
    if (const cudaError_t again = multiply(cuda::LinearOutput::bf16, product); again != cudaSuccess) { return again; }
    return cuda::to_float(product, elements, static_cast<float*>(y), stream_);
}

cudaError_t CudaBackend::linear_fp8(const PackedMatrix& w, const void* x, std::uint32_t rows, cuda::LinearOutput output,
                                    void* y) {
    CHECK(fp8_rows_.data != nullptr && rows <= limits_.batch_tokens);
    const cuda::DeviceMatrixFp8 matrix{.data = reinterpret_cast<const std::uint8_t*>(w.data),
                                       .scales = w.scales,
                                       .outputs = static_cast<std::int32_t>(w.outputs),
                                       .inputs = static_cast<std::int32_t>(w.inputs)};
    const auto count = static_cast<std::int32_t>(rows);
    if (x != fp8_source_) {
        const cudaError_t code = cuda::quantize_rows_fp8(static_cast<const Bf16*>(x), count, matrix.inputs,
                                                         fp8_rows_.data, fp8_rows_.scales, stream_);
        if (code != cudaSuccess) { return code; }
    }
    fp8_source_ = nullptr;  // x may be written again without our knowledge
    if (count > cuda::kStreamingRows) {
        const cudaError_t code = library_fp8(matrix, count, output, y);
        if (code != cudaErrorNotSupported) { return code; }
    }
    return cuda::linear_fixed_order(matrix, fp8_rows_.data, fp8_rows_.scales, count, output, y, stream_);
}

}  // namespace engine
