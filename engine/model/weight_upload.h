#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "device/device.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weights.h"

namespace engine {

/// Copies the weights of a checkpoint into the memory of a device, at the places of the plan, which must be row_major:
/// read from the mapped files into two pinned buffers in turn, so that reading and copying overlap. The checkpoint's
/// tensors must have been checked against the plan. `progress(done, total)` in bytes, called from this thread.
/// Error: resource_exhausted when the memory does not suffice; internal when the device has failed.
base::Result<device::Buffer> upload_weights(const Checkpoint& checkpoint, const PackingPlan& plan,
                                            device::Device& device,
                                            const std::function<void(std::uint64_t, std::uint64_t)>& progress);

}  // namespace engine
