#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "kv_transfer/codec/codec.h"

namespace bench {

/// The system's zstd, found when it is asked for: no build needs its headers.
struct SystemZstd {
    std::size_t (*compress_bound)(std::size_t) = nullptr;
    /// At level 1. Bytes written; 0: failed.
    std::size_t compress(std::span<const std::byte> in, std::span<std::byte> out) const;
    std::size_t decompress(std::span<const std::byte> in, std::span<std::byte> out) const;

    std::size_t (*compress_function)(void*, std::size_t, const void*, std::size_t, int) = nullptr;
    std::size_t (*decompress_function)(void*, std::size_t, const void*, std::size_t) = nullptr;
};
/// Null where the system has none.
const SystemZstd* system_zstd();

/// What generic compression makes of KV, to compare with: chunks of the codec int8, compressed by zstd -1. Level 0,
/// lossy as int8 is. Null where the system has no zstd.
std::unique_ptr<kv_transfer::Codec> make_zstd_codec(std::uint64_t numerics_id);

}  // namespace bench
