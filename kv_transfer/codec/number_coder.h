#pragma once

#include <cstdint>
#include <span>

#include "kv_transfer/codec/chunk_codec.h"
#include "kv_transfer/codec/lane_kernels.h"

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
};

/// Adds pieces in order; after the last one code_stream() makes the stream of `symbols`, which has kRansLanes for
/// each row of all pieces.
class NumberEncoder {
public:
    NumberEncoder(const ChunkShape& shape, ChunkWorkspace& workspace, std::span<std::uint8_t> symbols);
    void add(const NumberPiece& piece, const std::int16_t* numbers);

private:
    const ChunkShape shape_;
    ChunkWorkspace& workspace_;
    std::span<std::uint8_t> symbols_;
    std::size_t done_ = 0;
};

/// The run that a byte of parameters names, for `rows` rows.
RansRun run_of(std::uint8_t parameter, std::size_t rows);
/// Words of the plain section that a piece with this parameter has.
std::size_t low_words(std::uint8_t parameter, std::size_t rows);

/// Takes the pieces back, in the same order, from decoded symbols. Sections are read no further than they go.
class NumberDecoder {
public:
    NumberDecoder(const ChunkShape& shape, ChunkWorkspace& workspace, std::span<const std::uint8_t> symbols,
                  SectionReader plain, SectionReader escapes);
    /// False when a section ends too early.
    bool take(const NumberPiece& piece, std::uint8_t parameter, std::int16_t* numbers);
    /// Whether all of every section has been taken.
    bool at_end() const { return done_ == symbols_.size() && plain_.empty() && escapes_.empty(); }

private:
    const ChunkShape shape_;
    std::vector<std::uint32_t>& words_;
    std::span<const std::uint8_t> symbols_;
    SectionReader plain_;
    SectionReader escapes_;
    std::size_t done_ = 0;
};

}  // namespace kv_transfer
