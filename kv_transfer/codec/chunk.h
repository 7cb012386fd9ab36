#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/result.h"
#include "kv_cache/kv_layout.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/codec/rans.h"

namespace kv_transfer {

/// A chunk: the KV of one range as a codec of ours writes it. It can be decoded alone, by who has the model's shape
/// (and, for some levels of `sluice`, its profile). Little endian: the header, then four sections whose lengths it
/// names. docs/decisions/0028 has the format field by field.

inline constexpr std::size_t kChunkHeaderBytes = 72;
inline constexpr std::uint8_t kChunkVersion = 1;

/// Numbers of codecs in chunks.
enum class ChunkKind : std::uint8_t { exact = 1, int8 = 2, cachegen = 3, sluice = 4 };

struct ChunkHeader {
    ChunkKind kind = ChunkKind::exact;
    std::uint8_t level = 0;
    kv_cache::KvDtype dtype = kv_cache::KvDtype::bf16;
    bool is_stored = false;         // the payload is the raw bytes: coding would not have made them fewer
    std::uint64_t numerics_id = 0;  // 0: of nobody in particular
    kv_cache::KvRange range;
    std::uint32_t kv_heads = 0;
    std::uint32_t head_dim = 0;
    std::uint32_t parameters_bytes = 0;
    std::uint32_t plain_bytes = 0;    // what is not entropy coded
    std::uint32_t escapes_bytes = 0;  // values that have no symbol
    std::uint32_t stream_bytes = 0;   // rans.h
    std::uint8_t groups = 1;          // of the stream's states
    std::uint8_t raw_first = 0;       // tokens at the beginning and at the end that travel as they are
    std::uint8_t raw_last = 0;
    std::uint8_t flags = 0;  // the codec's own
};

/// Sizes of a range, as codecs go through it: planes (layer by layer, K then V) of channels (head by head), in groups
/// of kLanes channels. A group's lanes beyond the last channel are coded as zero.
struct ChunkShape {
    std::uint32_t layers = 0;
    std::uint32_t heads = 0;
    std::uint32_t head_dim = 0;
    std::uint32_t tokens = 0;
    bool is_bf16 = true;

    static ChunkShape of(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range);
    std::uint32_t planes() const { return 2 * layers; }
    std::uint32_t channels() const { return heads * head_dim; }
    std::uint32_t groups() const { return (channels() + kRansLanes - 1) / kRansLanes; }
    std::size_t plane_values() const { return std::size_t{channels()} * tokens; }
    std::size_t values() const { return planes() * plane_values(); }
    std::size_t value_bytes() const { return is_bf16 ? 2 : 4; }
    std::size_t raw_bytes() const { return values() * value_bytes(); }
};

/// Lanes of a group that belong to one head.
struct GroupPiece {
    std::uint32_t lane = 0;
    std::uint32_t lanes = 0;
    std::uint32_t head = 0;
    std::uint32_t dim = 0;
};

/// Calls visit(piece) for the pieces of a group, in order.
template <class Visit>
void for_each_piece(const ChunkShape& shape, std::uint32_t group, const Visit& visit) {
    const std::uint32_t begin = group * kRansLanes;
    const std::uint32_t end = begin + kRansLanes < shape.channels() ? begin + kRansLanes : shape.channels();
    for (std::uint32_t channel = begin; channel < end;) {
        GroupPiece piece{channel - begin, 0, channel / shape.head_dim, channel % shape.head_dim};
        const std::uint32_t left = shape.head_dim - piece.dim;
        piece.lanes = left < end - channel ? left : end - channel;
        visit(piece);
        channel += piece.lanes;
    }
}

/// Bytes that are written from their end to their beginning, as the entropy stage makes its stream: what is put later
/// comes before. Keeps its memory.
class BackwardBytes {
public:
    void clear() { begin_ = memory_.size(); }
    /// Room for `count` bytes in front of what is there, to be written in order; good until the next put().
    std::byte* put(std::size_t count) {
        if (count > begin_) { grow(count); }
        begin_ -= count;
        return memory_.data() + begin_;
    }
    void put(std::span<const std::byte> bytes) {
        if (!bytes.empty()) { std::memcpy(put(bytes.size()), bytes.data(), bytes.size()); }
    }
    template <class T>
    void put_number(const T& value) {
        std::memcpy(put(sizeof value), &value, sizeof value);
    }
    std::span<const std::byte> bytes() const { return std::span(memory_).subspan(begin_); }

private:
    void grow(std::size_t count);

    std::vector<std::byte> memory_;
    std::size_t begin_ = 0;
};

/// What an encoder has made: from the end to the beginning, the last plane first.
struct ChunkSections {
    BackwardBytes parameters;
    BackwardBytes plain;
    BackwardBytes escapes;
    std::span<const std::byte> stream;

    void clear() {
        parameters.clear();
        plain.clear();
        escapes.clear();
        stream = {};
    }
};

/// The same, of a chunk that is read.
struct ChunkView {
    ChunkHeader header;
    std::span<const std::byte> parameters, plain, escapes, stream;
};

/// Header (with the lengths of `sections`) and sections into `out`. The bytes written; 0 when `out` is too small.
std::size_t write_chunk(ChunkHeader header, const ChunkSections& sections, std::span<std::byte> out);

/// What the reader expects of a chunk; all of it is its own.
struct ChunkExpectation {
    ChunkKind kind;
    std::uint32_t level;
    std::uint64_t numerics_id;
    const kv_cache::KvLayout* layout;
    kv_cache::KvRange range;
};

/// Checks header, lengths and checksums: sections lie within `chunk` and are all of it. Error: data_loss, with what is
/// wrong and both values.
base::Result<ChunkView> read_chunk(std::span<const std::byte> chunk, const ChunkExpectation& expected);

/// Reads a section from its beginning.
class SectionReader {
public:
    explicit SectionReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
    bool has(std::size_t count) const { return count <= bytes_.size(); }
    /// `count` bytes; has(count) must hold.
    std::span<const std::byte> take(std::size_t count) {
        const auto taken = bytes_.first(count);
        bytes_ = bytes_.subspan(count);
        return taken;
    }
    /// A number, as it lies; has(sizeof(T)) must hold.
    template <class T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof value).data(), sizeof value);
        return value;
    }
    bool empty() const { return bytes_.empty(); }

private:
    std::span<const std::byte> bytes_;
};

}  // namespace kv_transfer
