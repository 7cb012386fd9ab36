#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/block_hash.h"
#include "base/result.h"

namespace kv_transfer {

/// The content of an object that holds one block of KV: a header of 64 bytes (format, sizes, numerics, name, nonce),
/// the block sealed by AES-256-GCM under a key that follows from the cluster's, and the tag over both. Who has no key
/// can neither read a block nor make one up, and one that was damaged, cut, renamed, or written by another version,
/// model or layout does not open. All methods from any thread.
class S3Sealer {
public:
    static constexpr std::uint32_t kFormat = 1;

    /// `block_bytes` below 2 GiB.
    S3Sealer(const base::HashKey& key, std::uint64_t numerics_id, std::string_view layout, std::size_t block_bytes);

    std::size_t object_bytes() const { return kHeaderBytes + block_bytes_ + kTagBytes; }
    /// Where the block's bytes lie in an object.
    std::span<std::byte> block_in(std::span<std::byte> object) const {
        return object.subspan(kHeaderBytes, block_bytes_);
    }
    /// Seals, in place, what lies at block_in(object) as the block of this name. Each call has a nonce of its own from
    /// OpenSSL's random source.
    void seal(std::span<std::byte> object, const base::BlockHash& name) const;
    /// Puts the block of an object that should have this name into `block`, block_bytes long, elsewhere. Error:
    /// data_loss, and then `block` holds nothing.
    base::Result<void> open(std::span<const std::byte> object, const base::BlockHash& name,
                            std::span<std::byte> block) const;

private:
    static constexpr std::size_t kHeaderBytes = 64;
    static constexpr std::size_t kTagBytes = 16;

    const std::uint64_t numerics_id_;
    const std::size_t block_bytes_;
    std::array<std::byte, 32> key_{};
};

}  // namespace kv_transfer
