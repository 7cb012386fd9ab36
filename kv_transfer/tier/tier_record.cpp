#include "kv_transfer/tier/tier_record.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "base/crc32c.h"

namespace kv_transfer {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

constexpr std::array<char, 8> kMagic{'s', 'l', 'u', 'i', 'c', 'e', 'k', 'v'};

/// As they lie in the file, without padding.
struct HeaderBytes {
    std::array<char, 8> magic = kMagic;
    std::uint32_t format = kTierFormat;
    std::uint32_t slots = 0;
    std::uint64_t block_bytes = 0;
    std::uint64_t numerics_id = 0;
    std::array<std::byte, 16> key_mark{};
    std::array<char, 32> layout{};
    std::uint32_t coding = 0;  // TierCoding, and above its 8 bits kTierCodingVersion; 0: raw
    std::uint32_t crc = 0;     // of what is before it
};
static_assert(sizeof(HeaderBytes) == 88 && sizeof(HeaderBytes) <= kTierHeaderBytes);

struct RecordBytes {
    std::uint64_t hash_high = 0;
    std::uint64_t hash_low = 0;
    std::uint64_t parent_high = 0;
    std::uint64_t parent_low = 0;
    std::uint64_t used = 0;
    std::uint32_t kind = 0;  // 0: nothing here; 1: begins a chain; 2: has a parent
    std::uint32_t block_crc = 0;
    std::uint32_t coded_bytes = 0;
    std::array<std::uint32_t, 2> reserved{};
    std::uint32_t crc = 0;  // of what is before it
};
static_assert(sizeof(RecordBytes) == kTierRecordBytes);

struct RateBytes {
    std::array<char, 8> magic{'s', 'l', 'k', 'v', 'r', 'a', 't', 'e'};
    double read_rate = 0;
    std::array<std::uint32_t, 3> reserved{};
    std::uint32_t crc = 0;  // of what is before it
};
static_assert(sizeof(RateBytes) == kTierRateBytes && kTierRateAt >= sizeof(HeaderBytes) &&
              kTierRateAt + kTierRateBytes <= kTierHeaderBytes);

std::uint32_t coding_word(TierCoding coding) {
    return coding == TierCoding::raw ? 0 : kTierCodingVersion << 8 | static_cast<std::uint32_t>(coding);
}

std::uint32_t format_of(TierCoding coding) {
    return coding == TierCoding::raw ? kTierFormat : kTierFormatCoded;
}

/// Of all bytes but the last four.
template <class Bytes>
std::uint32_t crc_of(const Bytes& bytes) {
    return base::crc32c(std::as_bytes(std::span(&bytes, 1)).first(sizeof(Bytes) - sizeof(std::uint32_t)));
}

}  // namespace

std::array<std::byte, kTierHeaderBytes> encode(const TierHeader& header) {
    HeaderBytes bytes;
    bytes.format = format_of(header.coding);
    bytes.coding = coding_word(header.coding);
    bytes.slots = header.slots;
    bytes.block_bytes = header.block_bytes;
    bytes.numerics_id = header.numerics_id;
    bytes.key_mark = header.key_mark;
    bytes.layout = header.layout;
    bytes.crc = crc_of(bytes);
    std::array<std::byte, kTierHeaderBytes> out{};
    std::memcpy(out.data(), &bytes, sizeof bytes);
    return out;
}

std::optional<TierHeader> decode_header(std::span<const std::byte> bytes) {
    HeaderBytes in;
    if (bytes.size() < sizeof in) { return std::nullopt; }
    std::memcpy(&in, bytes.data(), sizeof in);
    if (in.magic != kMagic || in.crc != crc_of(in)) { return std::nullopt; }
    for (const TierCoding coding : {TierCoding::raw, TierCoding::exact, TierCoding::automatic}) {
        if (in.format != format_of(coding) || in.coding != coding_word(coding)) { continue; }
        return TierHeader{in.block_bytes, in.numerics_id, in.slots, in.key_mark, in.layout, coding};
    }
    return std::nullopt;
}

std::array<std::byte, kTierRecordBytes> encode(const TierRecord& record) {
    std::array<std::byte, kTierRecordBytes> out{};
    if (!record.block) { return out; }
    RecordBytes bytes;
    bytes.hash_high = record.block->hash.high;
    bytes.hash_low = record.block->hash.low;
    bytes.kind = record.block->parent ? 2 : 1;
    if (record.block->parent) {
        bytes.parent_high = record.block->parent->high;
        bytes.parent_low = record.block->parent->low;
    }
    bytes.used = record.block->used;
    bytes.block_crc = record.block->crc;
    bytes.coded_bytes = record.block->coded_bytes;
    bytes.crc = crc_of(bytes);
    std::memcpy(out.data(), &bytes, sizeof bytes);
    return out;
}

TierRecord decode_record(std::span<const std::byte> bytes) {
    CHECK(bytes.size() == kTierRecordBytes);
    RecordBytes in;
    std::memcpy(&in, bytes.data(), sizeof in);
    if ((in.kind != 1 && in.kind != 2) || in.crc != crc_of(in)) { return {}; }
    TierRecord::Block block;
    block.hash = {in.hash_high, in.hash_low};
    if (in.kind == 2) { block.parent = base::BlockHash{in.parent_high, in.parent_low}; }
    block.crc = in.block_crc;
    block.used = in.used;
    block.coded_bytes = in.coded_bytes;
    return {block};
}

std::array<std::byte, kTierRateBytes> encode_rate(double read_rate) {
    RateBytes bytes;
    bytes.read_rate = read_rate;
    bytes.crc = crc_of(bytes);
    std::array<std::byte, kTierRateBytes> out{};
    std::memcpy(out.data(), &bytes, sizeof bytes);
    return out;
}

std::optional<double> decode_rate(std::span<const std::byte> bytes) {
    CHECK(bytes.size() == kTierRateBytes);
    RateBytes in;
    std::memcpy(&in, bytes.data(), sizeof in);
    if (in.magic != RateBytes{}.magic || in.crc != crc_of(in)) { return std::nullopt; }
    if (!(in.read_rate >= kTierRateMin && in.read_rate <= kTierRateMax)) { return std::nullopt; }
    return in.read_rate;
}

}  // namespace kv_transfer
