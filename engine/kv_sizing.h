#pragma once

#include <cstdint>

#include "base/model_shape.h"
#include "base/result.h"
#include "device/device.h"

namespace engine {

/// What an engine takes of its device beside KV.
struct MemoryUse {
    std::uint64_t weight_bytes = 0;
    std::uint64_t scratch_bytes = 0;  // activations, partial results of attention, rows of logits
};

/// Of KV on the host where nobody says how much.
constexpr std::uint64_t kHostKvBytes = std::uint64_t{1} << 30;
/// Of a GPU, for the driver's context, the product library's workspace and recorded steps.
constexpr std::uint64_t kDriverBytes = std::uint64_t{1} << 30;

/// The size of the KV pool where engine.kv_pool_bytes leaves it open: kHostKvBytes on the host; on a GPU what `share`
/// of its memory leaves beside `use` and kDriverBytes. Two engines on one GPU get a share each, whichever is first.
/// Error: resource_exhausted, with the figures, when nothing is left.
base::Result<std::uint64_t> choose_kv_bytes(const device::Device& device, double share, const MemoryUse& use);

/// Bytes for partial results of attention over contexts of `context_tokens`, cut into partitions, `rows` at a time.
std::uint64_t attention_scratch_bytes(const base::ModelShape& shape, std::uint32_t rows, std::uint32_t context_tokens);

}  // namespace engine
