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
    /// Whether objects hold blocks as they are, all of one size, or coded ones.
    enum class Sizes : std::uint8_t { equal, up_to };

    /// `block_bytes`, below 2 GiB: of the content of an object, at most where sizes differ. Coded blocks have another
    /// `layout`.
    S3Sealer(const base::HashKey& key, std::uint64_t numerics_id, std::string_view layout, std::size_t block_bytes,
             Sizes sizes = Sizes::equal);

    /// At most.
    std::size_t object_bytes() const { return object_bytes(block_bytes_); }
    static std::size_t object_bytes(std::size_t content_bytes) { return kHeaderBytes + content_bytes + kTagBytes; }
    /// Whether an object may have so many bytes.
    bool may_have(std::uint64_t bytes) const {
        return bytes == object_bytes() ||
               (sizes_ == Sizes::up_to && bytes < object_bytes() && bytes > kHeaderBytes + kTagBytes);
    }
    /// Where the block's bytes lie in an object.
    static std::span<std::byte> block_in(std::span<std::byte> object) {
        return object.subspan(kHeaderBytes, object.size() - kHeaderBytes - kTagBytes);
    }
    /// Seals, in place, what lies at block_in(object) as the block of this name. Each call has a nonce of its own from
    /// OpenSSL's random source.
    void seal(std::span<std::byte> object, const base::BlockHash& name) const;
    /// Puts the block of an object that should have this name to the beginning of `block`, block_bytes long, elsewhere:
    /// the bytes that it has. Error: data_loss, and then `block` holds nothing.
    base::Result<std::size_t> open(std::span<const std::byte> object, const base::BlockHash& name,
                                   std::span<std::byte> block) const;

private:
    static constexpr std::size_t kHeaderBytes = 64;
    static constexpr std::size_t kTagBytes = 16;

    const std::uint64_t numerics_id_;
    const std::size_t block_bytes_;
    const Sizes sizes_;
    std::array<std::byte, 32> key_{};
};

}  // namespace kv_transfer
