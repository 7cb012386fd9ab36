#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/result.h"
#include "device/device.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weights.h"

namespace engine {

/// Backend::quantize_rows().
using RowQuantizer = std::function<base::Result<void>(const std::byte* rows, std::uint32_t count, std::uint32_t width,
                                                      std::byte* out, float* scales, device::Stream& stream)>;

/// Copies the weights of a checkpoint into the memory of a device, at the places of the plan, which must be row_major:
/// read from the mapped files into two pinned buffers in turn, so that reading and copying overlap. Matrices in fp8 are
/// copied as they are where the checkpoint has them so, else as bf16 and rounded on the device by `quantize` (never
/// called for others). The checkpoint's tensors must have
/// been checked against the plan. `progress(done, total)` in bytes, called from this thread.
/// Error: resource_exhausted when the memory does not suffice; internal when the device has failed.
base::Result<device::Buffer> upload_weights(const Checkpoint& checkpoint, const PackingPlan& plan,
                                            device::Device& device, const RowQuantizer& quantize,
                                            const std::function<void(std::uint64_t, std::uint64_t)>& progress);

}  // namespace engine
