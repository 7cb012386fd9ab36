// The functions of cuBLASLt that matmul_library.cpp calls, as forwarders to a library that is loaded at the first call:
// a binary with the CUDA backend starts where there is no libcublasLt (device/cuda/cuda_library.h). Linked instead of
// -lcublasLt. Where the library lacks a function, the caller hears that it is not supported.
#include <cublasLt.h>

#include "device/cuda/cuda_library.h"

namespace {

template <class Function>
Function blas_function(const char* name) {
    const auto library = device::blas_library();
    return library ? library->find<Function>(name) : nullptr;
}

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the library's names
#define SLUICE_FORWARD(name, parameters, arguments)                         \
    cublasStatus_t CUBLASWINAPI name parameters {                           \
        static const auto function = blas_function<decltype(&name)>(#name); \
        if (function == nullptr) { return CUBLAS_STATUS_NOT_SUPPORTED; }    \
        return function arguments;                                          \
    }

extern "C" {

SLUICE_FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
SLUICE_FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
SLUICE_FORWARD(cublasLtMatmulDescInit_internal,
               (cublasLtMatmulDesc_t description, size_t size, cublasComputeType_t compute, cudaDataType_t scale),
               (description, size, compute, scale))
SLUICE_FORWARD(cublasLtMatmulDescSetAttribute,
               (cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const void* value,
                size_t size),
               (description, attribute, value, size))
SLUICE_FORWARD(cublasLtMatrixLayoutInit_internal,
               (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows, uint64_t columns,
                int64_t leading),
               (layout, size, type, rows, columns, leading))
SLUICE_FORWARD(cublasLtMatmulPreferenceInit_internal, (cublasLtMatmulPreference_t preference, size_t size),
               (preference, size))
SLUICE_FORWARD(cublasLtMatmulPreferenceSetAttribute,
               (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                const void* value, size_t size),
               (preference, attribute, value, size))
SLUICE_FORWARD(cublasLtMatmulAlgoGetHeuristic,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[],
                int* count),
               (handle, operation, a, b, c, d, preference, wanted, results, count))
SLUICE_FORWARD(cublasLtMatmul,
               (cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes, cudaStream_t stream),
               (handle, description, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm,
                workspace, workspace_bytes, stream))

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
