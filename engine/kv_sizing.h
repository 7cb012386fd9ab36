#pragma once

#include <cstdint>

#include "base/result.h"
#include "device/device.h"

namespace engine {

/// What an engine takes of its device beside KV.
struct MemoryUse {
    std::uint64_t weight_bytes = 0;
    std::uint64_t scratch_bytes = 0;   // activations and rows of logits, the decoder's and the backend's
    std::uint64_t kv_token_bytes = 0;  // KV of one token (not taken: what the pool is made of)
};

/// Of KV on the host where nobody says how much.
constexpr std::uint64_t kHostKvBytes = std::uint64_t{1} << 30;
/// Of a GPU, for the driver's context, the product library's workspace, partial results of attention, recorded steps.
constexpr std::uint64_t kDriverBytes = std::uint64_t{3} << 29;

/// Of a GPU's pool at most.
constexpr std::uint64_t kKvTokens = std::uint64_t{1} << 22;

/// The size of the KV pool where engine.kv_pool_bytes leaves it open: kHostKvBytes on the host; on a GPU what `share`
/// of its memory leaves beside `use` and kDriverBytes, but not more than kKvTokens tokens: of a small model that would
/// be millions of blocks, each with its books on the host. Two engines on one GPU get a share each, whichever is first.
/// Error: resource_exhausted, with the figures, when nothing is left.
base::Result<std::uint64_t> choose_kv_bytes(const device::Device& device, double share, const MemoryUse& use);

}  // namespace engine
