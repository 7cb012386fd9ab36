#include "kv_transfer/codec/lane_kernels.h"

#include "kv_transfer/codec/rans.h"

namespace kv_transfer {
namespace {
#include "kv_transfer/codec/lane_loops.inc"
}  // namespace

const LaneKernels& plain_lane_kernels() {
    return kLaneKernels;
}

const LaneKernels& lane_kernels() {
    static const LaneKernels& fastest = [&]() -> const LaneKernels& {
        switch (rans_families().back()) {
            case RansFamily::avx512:
                return *avx512_lane_kernels();
            case RansFamily::avx2:
                return *avx2_lane_kernels();
            default:
                return kLaneKernels;
        }
    }();
    return fastest;
}

}  // namespace kv_transfer
