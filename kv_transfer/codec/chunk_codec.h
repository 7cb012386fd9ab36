#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kv_transfer/codec/chunk.h"
#include "kv_transfer/codec/codec.h"
#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/rans.h"

namespace kv_transfer {

/// Memory that a thread's coding uses again and again. Grows to what the largest chunk took.
struct ChunkWorkspace {
    std::vector<std::uint8_t> symbols;  // of one piece
    std::vector<std::byte> stream;
    std::vector<std::int16_t> numbers;
    std::vector<std::int16_t> more_numbers;
    std::vector<std::int16_t> gathered;  // of one piece whose channels are no neighbours
    std::vector<std::uint32_t> words;
    std::vector<std::uint32_t> positions;  // of escapes of one piece
    std::vector<float> floats;
    ChunkSections sections;

    /// This thread's.
    static ChunkWorkspace& of_thread();
};

/// HeadRows of channels that are taken as they are.
struct PlainChannels {
    PlainChannels() { ones.fill(1.0f); }
    std::array<float, kHeadDimMax> zeros{};
    std::array<float, kHeadDimMax> ones{};
};

/// The first `count` elements of a vector that grows where it must.
template <class T>
std::span<T> grown(std::vector<T>& memory, std::size_t count) {
    if (memory.size() < count) { memory.resize(count); }
    return std::span(memory).first(count);
}

/// What the codecs of chunks share: headers, checksums, and that a chunk which would be longer than its KV holds that
/// as it is. Stateless but for what it is made with; thread-safe.
class ChunkCodec : public Codec {
public:
    std::size_t bound(std::size_t raw_bytes) const override { return raw_bytes + kChunkHeaderBytes; }
    base::Result<std::size_t> encode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                     std::uint32_t level, std::span<const std::byte> raw,
                                     std::span<std::byte> out) const override;
    base::Result<void> decode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range, std::uint32_t level,
                              std::span<const std::byte> payload, std::span<std::byte> out) const override;

protected:
    struct Job {
        ChunkShape shape;
        std::uint32_t level = 0;
        std::uint32_t layer_begin = 0;
        std::uint32_t layers_total = 0;  // of the model
        std::uint32_t token_begin = 0;
        std::uint32_t block_tokens = 0;
    };
    ChunkCodec(ChunkKind kind, std::uint64_t numerics_id) : kind_(kind), numerics_id_(numerics_id) {}

    /// Fills `workspace.sections` and the codec's own fields of `header`.
    virtual void encode_body(const Job& job, std::span<const std::byte> raw, ChunkWorkspace& workspace,
                             ChunkHeader& header) const = 0;
    /// Everything in `view` but its header may be anything. Error: data_loss.
    virtual base::Result<void> decode_body(const Job& job, const ChunkView& view, ChunkWorkspace& workspace,
                                           std::span<std::byte> out) const = 0;

    static base::Result<void> damaged(const char* what);

private:
    Job job_of(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range, std::uint32_t level) const;

    const ChunkKind kind_;
    const std::uint64_t numerics_id_;
};

/// The coder of a chunk's stream, of `rows` rows of symbols in all, in the workspace; says in `header` how many groups
/// it has.
RansEncoder begin_stream(ChunkWorkspace& workspace, std::size_t rows, ChunkHeader& header);

}  // namespace kv_transfer
