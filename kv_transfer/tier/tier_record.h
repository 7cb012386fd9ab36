#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/block_hash.h"

// What FileTier's file `names` is made of, little endian. Internal to this folder.
namespace kv_transfer {

inline constexpr std::uint32_t kTierFormat = 1;
inline constexpr std::size_t kTierHeaderBytes = 4096;
inline constexpr std::size_t kTierRecordBytes = 64;

/// For whom the blocks are: any difference, and they cannot be found.
struct TierHeader {
    std::uint64_t block_bytes = 0;
    std::uint64_t numerics_id = 0;
    std::uint32_t slots = 0;
    std::array<std::byte, 16> key_mark{};  // depends on the key, does not tell it
    std::array<char, 32> layout{};
    bool operator==(const TierHeader&) const = default;
};

/// One slot. Empty: it holds nothing.
struct TierRecord {
    struct Block {
        base::BlockHash hash;
        std::optional<base::BlockHash> parent;
        std::uint32_t crc = 0;   // CRC-32C of its bytes
        std::uint64_t used = 0;  // rises from use to use of the level
    };
    std::optional<Block> block;
};

std::array<std::byte, kTierHeaderBytes> encode(const TierHeader& header);
/// Empty: this is no header that we wrote.
std::optional<TierHeader> decode_header(std::span<const std::byte> bytes);
std::array<std::byte, kTierRecordBytes> encode(const TierRecord& record);
/// Empty where the record is torn, damaged, or of a slot that holds nothing. `bytes`: kTierRecordBytes.
TierRecord decode_record(std::span<const std::byte> bytes);

}  // namespace kv_transfer
