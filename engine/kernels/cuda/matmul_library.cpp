// cuBLASLt behind MatmulLibrary. Host code only.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "engine/kernels/cuda/dependent_launch.h"
#include "engine/kernels/cuda/linear.h"

namespace engine::cuda {
namespace {

/// Rows for which one algorithm serves: fine steps where a tile more or less matters, coarse ones above.
std::int32_t bucket_of(std::int32_t rows) {
    const std::int32_t step = rows <= 256 ? 16 : rows <= 2048 ? 128 : 512;
    return (rows + step - 1) / step * step;
}

/// All that one product is made of, on the caller's stack: no allocation per call.
struct Problem {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t w;
    cublasLtMatrixLayoutOpaque_t x;
    cublasLtMatrixLayoutOpaque_t y;
};

struct Shape {
    bool fp8 = false;
    std::int32_t outputs = 0;
    std::int32_t inputs = 0;
    LinearOutput output = LinearOutput::bf16;
};

/// cuBLASLt counts columns first: y^T [outputs, rows] = W (stored [inputs, outputs], transposed) * x^T [inputs, rows].
/// Error: what the library says.
cublasStatus_t describe(const Shape& shape, std::int32_t rows, const float* w_scales, const float* x_scales,
                        Problem& problem) {
    const cudaDataType_t operand = shape.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    const cudaDataType_t result = shape.output == LinearOutput::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const auto inputs = static_cast<std::uint64_t>(shape.inputs);
    const auto outputs = static_cast<std::uint64_t>(shape.outputs);
    const auto columns = static_cast<std::uint64_t>(rows);
    cublasStatus_t status = cublasLtMatmulDescInit(&problem.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
        if (status == CUBLAS_STATUS_SUCCESS) {
            status = cublasLtMatmulDescSetAttribute(&problem.operation, attribute, &value, sizeof(value));
        }
    };
    const auto layout = [&](cublasLtMatrixLayoutOpaque_t& to, cudaDataType_t type, std::uint64_t first,
                            std::uint64_t second) {
        if (status == CUBLAS_STATUS_SUCCESS) {
            status = cublasLtMatrixLayoutInit(&to, type, first, second, static_cast<std::int64_t>(first));
        }
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (shape.fp8) {
        const cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
        set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
        set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w_scales);
        set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scales);
    }
    layout(problem.w, operand, inputs, outputs);
    layout(problem.x, operand, inputs, columns);
    layout(problem.y, result, outputs, columns);
    return status;
}

class CublasLtLibrary final : public MatmulLibrary {
public:
    CublasLtLibrary(cublasLtHandle_t handle, void* workspace, std::size_t workspace_bytes)
        : handle_(handle), workspace_(workspace), workspace_bytes_(workspace_bytes) {
        // One product with scales per row and per output; whatever stands in the way, there is no FP8 then.
        has_fp8_ = find({.fp8 = true, .outputs = 4096, .inputs = 4096}, 64) != nullptr;
    }
    ~CublasLtLibrary() override {
        cublasLtDestroy(handle_);
        cudaFree(workspace_);
    }

    bool has_fp8() const override { return has_fp8_; }

    cudaError_t prepare(const DeviceMatrix& w, std::int32_t rows, LinearOutput output) override {
        return prepare_shape({.fp8 = false, .outputs = w.outputs, .inputs = w.inputs, .output = output}, rows);
    }
    cudaError_t prepare(const DeviceMatrixFp8& w, std::int32_t rows, LinearOutput output) override {
        return prepare_shape({.fp8 = true, .outputs = w.outputs, .inputs = w.inputs, .output = output}, rows);
    }

    cudaError_t linear(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                       cudaStream_t stream) override {
        return multiply({.fp8 = false, .outputs = w.outputs, .inputs = w.inputs, .output = output}, w.data, nullptr, x,
                        nullptr, rows, y, stream);
    }
    cudaError_t linear(const DeviceMatrixFp8& w, const std::uint8_t* x, const float* x_scales, std::int32_t rows,
                       LinearOutput output, void* y, cudaStream_t stream) override {
        return multiply({.fp8 = true, .outputs = w.outputs, .inputs = w.inputs, .output = output}, w.data, w.scales, x,
                        x_scales, rows, y, stream);
    }

private:
    using Key = std::tuple<bool, std::int32_t, std::int32_t, LinearOutput, std::int32_t>;

    cudaError_t prepare_shape(const Shape& shape, std::int32_t rows) {
        if (rows <= 0 || shape.outputs <= 0 || shape.inputs <= 0) { return cudaErrorInvalidValue; }
        return find(shape, bucket_of(rows)) == nullptr ? cudaErrorNotSupported : cudaSuccess;
    }

    /// The kept or newly found algorithm for exactly `rows` rows; null when the library has none. A failed search is
    /// kept too.
    const cublasLtMatmulAlgo_t* find(const Shape& shape, std::int32_t rows) {
        const Key key{shape.fp8, shape.outputs, shape.inputs, shape.output, rows};
        const auto known = algorithms_.find(key);
        if (known != algorithms_.end()) { return known->second.found ? &known->second.algorithm : nullptr; }
        Entry& entry = algorithms_[key];
        Problem problem;
        // Any address will do for the scales here: the search does not read them.
        const auto* scales = static_cast<const float*>(workspace_);
        if (describe(shape, rows, scales, scales, problem) != CUBLAS_STATUS_SUCCESS) { return nullptr; }
        cublasLtMatmulPreferenceOpaque_t preference;
        if (cublasLtMatmulPreferenceInit(&preference) != CUBLAS_STATUS_SUCCESS) { return nullptr; }
        const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
            return cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)) ==
                   CUBLAS_STATUS_SUCCESS;
        };
        const std::uint64_t workspace_bytes = workspace_bytes_;
        const std::uint32_t alignment = 16;  // what launch.h promises; the library would assume 256
        const bool is_set = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes) &&
                            set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment) &&
                            set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment) &&
                            set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment) &&
                            set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
        if (!is_set) { return nullptr; }
        cublasLtMatmulHeuristicResult_t result{};
        int count = 0;
        const cublasStatus_t status =
            cublasLtMatmulAlgoGetHeuristic(handle_, &problem.operation, &problem.w, &problem.x, &problem.y, &problem.y,
                                           &preference, 1, &result, &count);
        if (status != CUBLAS_STATUS_SUCCESS || count == 0 || result.state != CUBLAS_STATUS_SUCCESS) { return nullptr; }
        entry = {true, result.algo};
        return &entry.algorithm;
    }

    cudaError_t multiply(const Shape& shape, const void* w, const float* w_scales, const void* x, const float* x_scales,
                         std::int32_t rows, void* y, cudaStream_t stream) {
        if (rows < 0 || shape.outputs <= 0 || shape.inputs <= 0) { return cudaErrorInvalidValue; }
        if (rows == 0) { return cudaSuccess; }
        Problem problem;
        if (describe(shape, rows, w_scales, x_scales, problem) != CUBLAS_STATUS_SUCCESS) {
            return cudaErrorNotSupported;
        }
        interrupt_dependent_launches();  // the library's kernels let the next one start when they like
        const float alpha = 1;
        const float beta = shape.output == LinearOutput::accumulate ? 1.0f : 0.0f;
        // The bucket's algorithm; where the library refuses it for this number of rows, one of its own.
        const std::int32_t bucket = bucket_of(rows);
        for (const std::int32_t searched : {bucket, rows}) {
            const cublasLtMatmulAlgo_t* algorithm = find(shape, searched);
            if (algorithm == nullptr) { continue; }
            const cublasStatus_t status =
                cublasLtMatmul(handle_, &problem.operation, &alpha, w, &problem.w, x, &problem.x, &beta, y, &problem.y,
                               y, &problem.y, algorithm, workspace_, workspace_bytes_, stream);
            if (status == CUBLAS_STATUS_SUCCESS) { return cudaGetLastError(); }
            if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) {
                const cudaError_t error = cudaGetLastError();
                return error == cudaSuccess ? cudaErrorUnknown : error;
            }
        }
        return cudaErrorNotSupported;
    }

    struct Entry {
        bool found = false;
        cublasLtMatmulAlgo_t algorithm{};
    };

    cublasLtHandle_t handle_;
    void* workspace_;
    std::size_t workspace_bytes_;
    bool has_fp8_ = false;
    std::map<Key, Entry> algorithms_;
};

}  // namespace

std::unique_ptr<MatmulLibrary> MatmulLibrary::make(std::size_t workspace_bytes, cudaError_t* error) {
    void* workspace = nullptr;
    *error = cudaMalloc(&workspace, std::max<std::size_t>(workspace_bytes, 256));
    if (*error != cudaSuccess) { return nullptr; }
    cublasLtHandle_t handle = nullptr;
    if (cublasLtCreate(&handle) != CUBLAS_STATUS_SUCCESS) {
        cudaFree(workspace);
        *error = cudaErrorInitializationError;
        return nullptr;
    }
    return std::make_unique<CublasLtLibrary>(handle, workspace, workspace_bytes);
}

}  // namespace engine::cuda
