#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/block_hash.h"
#include "kv_transfer/tier/block_coder.h"

// What FileTier's file `names` is made of, little endian. Internal to this folder.
namespace kv_transfer {

inline constexpr std::uint32_t kTierFormat = 1;       // slots hold blocks as they are
inline constexpr std::uint32_t kTierFormatCoded = 2;  // or coded by kTierCodingVersion: nothing for who knows 1 only
inline constexpr std::uint32_t kTierCodingVersion = 1;
inline constexpr std::size_t kTierHeaderBytes = 4096;
inline constexpr std::size_t kTierRateAt = 2048;  // in the header's page, behind the header
inline constexpr std::size_t kTierRateBytes = 32;
inline constexpr std::size_t kTierRecordBytes = 64;

/// For whom the blocks are: any difference, and they cannot be found.
struct TierHeader {
    std::uint64_t block_bytes = 0;
    std::uint64_t numerics_id = 0;
    std::uint32_t slots = 0;
    std::array<std::byte, 16> key_mark{};  // depends on the key, does not tell it
    std::array<char, 32> layout{};
    TierCoding coding = TierCoding::raw;
    bool operator==(const TierHeader&) const = default;
};

/// One slot. Empty: it holds nothing.
struct TierRecord {
    struct Block {
        base::BlockHash hash;
        std::optional<base::BlockHash> parent;
        std::uint32_t crc = 0;          // CRC-32C of its bytes, as they lie there
        std::uint64_t used = 0;         // rises from use to use of the level
        std::uint32_t coded_bytes = 0;  // 0: it is not coded
    };
    std::optional<Block> block;
};

std::array<std::byte, kTierHeaderBytes> encode(const TierHeader& header);
/// Empty: this is no header that we wrote.
std::optional<TierHeader> decode_header(std::span<const std::byte> bytes);
std::array<std::byte, kTierRecordBytes> encode(const TierRecord& record);
/// Empty where the record is torn, damaged, or of a slot that holds nothing. `bytes`: kTierRecordBytes.
TierRecord decode_record(std::span<const std::byte> bytes);

/// What the level's disk gave lately, bytes a second: where a later process begins.
std::array<std::byte, kTierRateBytes> encode_rate(double read_rate);
/// Empty where nothing was kept, or nothing that a disk can do. `bytes`: kTierRateBytes.
std::optional<double> decode_rate(std::span<const std::byte> bytes);
inline constexpr double kTierRateMin = 1e4;
inline constexpr double kTierRateMax = 1e11;

}  // namespace kv_transfer
