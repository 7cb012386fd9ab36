#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kv_cache/kv_layout.h"

namespace kv_transfer {

/// Rotary tables of a model, [positions][head_dim / 2] each: x and y of a pair (i, i + head_dim / 2) became
/// x cos - y sin and y cos + x sin.
struct RotaryTable {
    std::uint32_t head_dim = 0;
    std::uint32_t positions = 0;
    std::vector<float> cosines;
    std::vector<float> sines;
};

/// What `sluice kv calibrate` finds out about the KV of a model, for the codec `sluice`.
struct KvProfile {
    std::uint64_t numerics_id = 0;
    std::uint32_t layers = 0;
    std::uint32_t kv_heads = 0;
    std::uint32_t head_dim = 0;
    /// [layers][K, V][kv_heads][head_dim]: of keys before their rotation.
    std::vector<float> means;
    /// [layers][K, V][kv_heads][head_dim], > 0: the step at factor 1. Where attention sees more, it is smaller.
    std::vector<float> steps;

    std::size_t channels() const { return std::size_t{2} * layers * kv_heads * head_dim; }
    /// Names the profile in chunks: never 0.
    std::uint32_t id() const;
    /// Error: failed_precondition, for KV of another shape or other numerics, with both.
    base::Result<void> fits(const kv_cache::KvLayout& layout, std::uint64_t numerics) const;
};

/// Error: unavailable, with the path.
base::Result<void> write_profile(const KvProfile& profile, const std::string& path);
/// Error: not_found, data_loss for a file that is not one, or damaged.
base::Result<KvProfile> read_profile(const std::string& path);
/// The bytes of a file.
std::vector<std::byte> profile_bytes(const KvProfile& profile);
base::Result<KvProfile> profile_from_bytes(std::span<const std::byte> bytes);

}  // namespace kv_transfer
