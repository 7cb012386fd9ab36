#include "kv_transfer/codec/chunk.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>
#include <utility>

#include "base/crc32c.h"

namespace kv_transfer {
namespace {

static_assert(std::endian::native == std::endian::little, "chunks are written as the processor has them");

constexpr std::uint32_t kMagic = 0x434b4c53;  // "SLKC"
constexpr std::size_t kPayloadCrcAt = 64;
constexpr std::size_t kHeaderCrcAt = 68;
constexpr std::size_t kPieceBytes = 24 * 1024;  // a multiple of what base::crc32c takes at once
constexpr std::uint8_t kStoredFlag = 0x80;      // of the byte of flags; the others are the codec's

/// The header's fields in their order, to be written or read by `field(value)`.
template <class Header, class Field>
void for_each_number(Header& header, const Field& field) {
    field(header.numerics_id);
    field(header.range.layer_begin);
    field(header.range.layer_end);
    field(header.range.token_begin);
    field(header.range.token_end);
    field(header.kv_heads);
    field(header.head_dim);
    field(header.parameters_bytes);
    field(header.plain_bytes);
    field(header.escapes_bytes);
    field(header.stream_bytes);
    field(header.groups);
    field(header.raw_first);
    field(header.raw_last);
    field(header.flags);
}

std::uint32_t crc_of(std::span<const std::byte> bytes) {
    return base::crc32c(bytes);
}

std::string text_of(const kv_cache::KvRange& range) {
    return "layers [" + std::to_string(range.layer_begin) + ", " + std::to_string(range.layer_end) + ") of tokens [" +
           std::to_string(range.token_begin) + ", " + std::to_string(range.token_end) + ")";
}

}  // namespace

ChunkShape ChunkShape::of(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range) {
    return {.layers = range.layers(),
            .heads = layout.kv_heads(),
            .head_dim = layout.head_dim(),
            .tokens = range.tokens(),
            .is_bf16 = layout.format().dtype == kv_cache::KvDtype::bf16};
}

void BackwardBytes::grow(std::size_t count) {
    const std::size_t used = memory_.size() - begin_;
    std::vector<std::byte> larger(std::max(2 * memory_.size(), used + count));
    begin_ = larger.size() - used;
    if (used > 0) { std::memcpy(larger.data() + begin_, memory_.data() + memory_.size() - used, used); }
    memory_ = std::move(larger);
}

std::size_t write_chunk(ChunkHeader header, const ChunkSections& sections, std::span<std::byte> out) {
    const std::span<const std::byte> parts[] = {sections.parameters.bytes(), sections.plain.bytes(),
                                                sections.escapes.bytes(), sections.stream};
    std::size_t bytes = kChunkHeaderBytes;
    for (const auto part : parts) {
        if (part.size() > std::numeric_limits<std::uint32_t>::max()) { return 0; }
        bytes += part.size();
    }
    if (bytes > out.size()) { return 0; }
    header.parameters_bytes = static_cast<std::uint32_t>(parts[0].size());
    header.plain_bytes = static_cast<std::uint32_t>(parts[1].size());
    header.escapes_bytes = static_cast<std::uint32_t>(parts[2].size());
    header.stream_bytes = static_cast<std::uint32_t>(parts[3].size());
    if (header.is_stored) { header.flags |= kStoredFlag; }

    std::size_t at = kChunkHeaderBytes;
    std::uint32_t payload_crc = 0;
    for (auto part : parts) {
        while (!part.empty()) {  // summed up while it is in the nearest cache
            const std::size_t piece = std::min(part.size(), kPieceBytes);
            std::memcpy(out.data() + at, part.data(), piece);
            payload_crc = base::crc32c(out.subspan(at, piece), payload_crc);
            part = part.subspan(piece);
            at += piece;
        }
    }
    at = 0;
    const auto put = [&](const auto& value) {
        std::memcpy(out.data() + at, &value, sizeof value);
        at += sizeof value;
    };
    put(kMagic);
    put(kChunkVersion);
    put(header.kind);
    put(header.level);
    put(static_cast<std::uint8_t>(header.dtype));
    for_each_number(header, put);
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(at), out.begin() + kPayloadCrcAt, std::byte{0});
    at = kPayloadCrcAt;
    put(payload_crc);
    put(crc_of(out.first(kHeaderCrcAt)));
    return bytes;
}

base::Result<ChunkView> read_chunk(std::span<const std::byte> chunk, const ChunkExpectation& expected) {
    const auto refuse = [](const std::string& what) {
        return base::fail(base::ErrorCode::data_loss, "KV chunk: " + what);
    };
    const auto differs = [&](const char* what, std::uint64_t got, std::uint64_t wanted) {
        return refuse(std::string(what) + " " + std::to_string(got) + ", expected " + std::to_string(wanted));
    };
    if (chunk.size() < kChunkHeaderBytes) {
        return refuse(std::to_string(chunk.size()) + " bytes, a header has " + std::to_string(kChunkHeaderBytes));
    }
    ChunkView view;
    ChunkHeader& header = view.header;
    std::size_t at = 0;
    const auto get = [&](auto& value) {
        std::memcpy(&value, chunk.data() + at, sizeof value);
        at += sizeof value;
    };
    std::uint32_t magic = 0;
    std::uint8_t version = 0;
    std::uint8_t kind = 0;
    std::uint8_t dtype = 0;
    get(magic);
    get(version);
    get(kind);
    get(header.level);
    get(dtype);
    for_each_number(header, get);
    at = kPayloadCrcAt;
    std::uint32_t payload_crc = 0;
    std::uint32_t header_crc = 0;
    get(payload_crc);
    get(header_crc);
    if (magic != kMagic) { return refuse("not one: it begins with other bytes"); }
    if (version != kChunkVersion) { return differs("version", version, kChunkVersion); }
    if (header_crc != crc_of(chunk.first(kHeaderCrcAt))) { return refuse("the header's checksum is another"); }
    if (kind != static_cast<std::uint8_t>(expected.kind)) {
        return differs("codec", kind, static_cast<std::uint8_t>(expected.kind));
    }
    if (header.level != expected.level) { return differs("level", header.level, expected.level); }
    const kv_cache::KvLayout& layout = *expected.layout;
    if (dtype != static_cast<std::uint8_t>(layout.format().dtype)) {
        return differs("dtype", dtype, static_cast<std::uint8_t>(layout.format().dtype));
    }
    if (header.numerics_id != expected.numerics_id) {
        return differs("numerics id", header.numerics_id, expected.numerics_id);
    }
    if (header.range != expected.range) {
        return refuse(text_of(header.range) + ", expected " + text_of(expected.range));
    }
    if (header.kv_heads != layout.kv_heads()) { return differs("kv heads", header.kv_heads, layout.kv_heads()); }
    if (header.head_dim != layout.head_dim()) { return differs("head dim", header.head_dim, layout.head_dim()); }
    if (header.groups != 1 && header.groups != 2 && header.groups != 4) {
        return differs("groups of states", header.groups, 1);
    }
    if (std::uint32_t{header.raw_first} + header.raw_last > header.range.tokens()) {
        return differs("raw tokens", std::uint64_t{header.raw_first} + header.raw_last, header.range.tokens());
    }
    header.kind = expected.kind;
    header.dtype = layout.format().dtype;
    header.is_stored = (header.flags & kStoredFlag) != 0;
    header.flags = static_cast<std::uint8_t>(header.flags & ~kStoredFlag);

    SectionReader rest(chunk.subspan(kChunkHeaderBytes));
    const std::uint32_t lengths[] = {header.parameters_bytes, header.plain_bytes, header.escapes_bytes,
                                     header.stream_bytes};
    std::span<const std::byte>* const parts[] = {&view.parameters, &view.plain, &view.escapes, &view.stream};
    for (std::size_t i = 0; i < std::size(lengths); ++i) {
        if (!rest.has(lengths[i])) { return refuse("shorter than the lengths in its header"); }
        *parts[i] = rest.take(lengths[i]);
    }
    if (!rest.empty()) { return refuse("longer than the lengths in its header"); }
    if (payload_crc != crc_of(chunk.subspan(kChunkHeaderBytes))) { return refuse("the payload's checksum is another"); }
    return view;
}

}  // namespace kv_transfer
