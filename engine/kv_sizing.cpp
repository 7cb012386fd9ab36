#include "engine/kv_sizing.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace engine {

base::Result<std::uint64_t> choose_kv_bytes(const device::Device& device, double share, const MemoryUse& use) {
    if (device.is_host_memory()) { return kHostKvBytes; }
    const auto all = static_cast<std::uint64_t>(std::floor(static_cast<double>(device.memory_bytes()) * share));
    const std::uint64_t taken = use.weight_bytes + use.scratch_bytes + kDriverBytes;
    if (all > taken) { return std::min(all - taken, kKvTokens * use.kv_token_bytes); }
    return base::fail(base::ErrorCode::resource_exhausted,
                      "engine.gpu_memory_share gives this engine " + std::to_string(all) + " of " +
                          std::to_string(device.memory_bytes()) + " bytes of " + std::string(device.name()) +
                          ", and nothing is left for KV: weights take " + std::to_string(use.weight_bytes) +
                          ", a step " + std::to_string(use.scratch_bytes) + ", driver and libraries " +
                          std::to_string(kDriverBytes) +
                          ". Raise the share, lower worker.batch_tokens_max, or take a smaller model");
}

}  // namespace engine
