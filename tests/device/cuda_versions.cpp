// Links the runtime, cuBLASLt and NCCL in the ordinary way and asks each for its version: needs no device. The binary
// itself loads the last two when it needs them (device/cuda/cuda_library.h).
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstdio>

int main() {
    int runtime = 0;
    int nccl = 0;
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess || ncclGetVersion(&nccl) != ncclSuccess) { return 1; }
    std::printf("CUDA runtime %d, cuBLASLt %zu, NCCL %d\n", runtime, cublasLtGetVersion(), nccl);
    return runtime / 1000 == 13 && cublasLtGetVersion() >= 130000 && nccl >= 22800 ? 0 : 1;
}
