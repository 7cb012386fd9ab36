#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/rans.h"

namespace kv_transfer {

/// How whole numbers around 0 become sections of a chunk, for the codecs that quantise. They are coded in pieces: some
/// rows of one group of channels. Each piece has one byte of parameters, class (6 bits) | shift << 6: what the symbol
/// means is number >> shift, and the bits below go to the plain section, one word of 32 lanes a row and bit. A number
/// whose symbol would be outside -15 .. 15 is an escape, with 16 bits.

/// Numbers of a plane, [head][plane_rows][head_dim], and which of them a piece has.
struct NumberPiece {
    std::uint32_t group = 0;
    std::size_t plane_rows = 0;
    std::size_t row_begin = 0;
    std::size_t rows = 0;
    /// [channels]: the channel that each lane of each group in turn has; null: the groups are neighbours.
    const std::uint32_t* order = nullptr;
};

/// Channels in the order of what is said of each (below `kinds`), those of one kind as they lie: a permutation,
/// whatever is said.
void order_channels(std::span<const std::uint8_t> kinds_of, std::uint32_t kinds, std::vector<std::uint32_t>& order);

/// Makes the stream, and pieces' parts of the other sections, from the last piece to the first: the symbols of a piece
/// are coded while they are in the nearest cache.
class NumberEncoder {
public:
    /// `rows`: of all pieces together.
    NumberEncoder(const ChunkShape& shape, ChunkWorkspace& workspace, std::size_t rows, ChunkHeader& header);
    void add(const NumberPiece& piece, const std::int16_t* numbers);
    /// Behind the last one (which is the first of the chunk).
    void end() { workspace_.sections.stream = stream_.end(); }

private:
    const ChunkShape shape_;
    ChunkWorkspace& workspace_;
    RansEncoder stream_;
};

/// Takes the pieces back, from the first to the last. Sections are read no further than they go.
class NumberDecoder {
public:
    NumberDecoder(const ChunkShape& shape, ChunkWorkspace& workspace, SectionReader plain, SectionReader escapes);
    /// Error: data_loss, as all of these.
    base::Result<void> begin(const ChunkView& view) { return stream_.begin(view.stream, view.header.groups); }
    base::Result<void> take(const NumberPiece& piece, std::uint8_t parameter, std::int16_t* numbers);
    /// Behind the last one: whether all of every section has been taken.
    base::Result<void> end() const;

private:
    const ChunkShape shape_;
    ChunkWorkspace& workspace_;
    RansDecoder stream_;
    SectionReader plain_;
    SectionReader escapes_;
};

}  // namespace kv_transfer
