// Compiled with the flags of this instruction set (lane_kernels.h).
#include "kv_transfer/codec/lane_kernels.h"

namespace kv_transfer {
#if defined(__x86_64__)
namespace {
#include "kv_transfer/codec/lane_loops.inc"
}  // namespace

const LaneKernels* avx2_lane_kernels() {
    return &kLaneKernels;
}
#else
const LaneKernels* avx2_lane_kernels() {
    return nullptr;
}
#endif
}  // namespace kv_transfer
