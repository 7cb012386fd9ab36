#include "kv_cache/kv_pack.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "kv_cache/tile_kernels.h"

namespace kv_cache {
namespace {

/// The tokens of a range that lie in one block.
struct Slice {
    std::uint32_t token_begin;  // in the block
    std::uint32_t tokens;
};

// V in bf16 lanes: tokens 2i and 2i + 1 of the block share row i of the tile, [head_dim] pairs. A slice may begin or
// end with half a row; that token is moved element by element.

void copy_half_row(const std::byte* source, std::size_t source_step, std::byte* target, std::size_t target_step,
                   std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(target + i * target_step, source + i * source_step, 2);
    }
}

void pack_pairs(const std::byte* tile, Slice slice, std::size_t head_dim, std::byte* wire) {
    const std::size_t row_bytes = head_dim * 2;
    std::uint32_t token = slice.token_begin;
    const std::uint32_t end = slice.token_begin + slice.tokens;
    while (token < end) {
        const std::byte* row = tile + token / 2 * 2 * row_bytes;
        if (token % 2 == 0 && token + 2 <= end) {
            tile_kernels().split_pairs(row, wire, wire + row_bytes, head_dim);
            token += 2;
            wire += 2 * row_bytes;
        } else {
            copy_half_row(row + token % 2 * 2, 4, wire, 2, head_dim);
            token += 1;
            wire += row_bytes;
        }
    }
}

void unpack_pairs(const std::byte* wire, Slice slice, std::size_t head_dim, std::byte* tile) {
    const std::size_t row_bytes = head_dim * 2;
    std::uint32_t token = slice.token_begin;
    const std::uint32_t end = slice.token_begin + slice.tokens;
    while (token < end) {
        std::byte* row = tile + token / 2 * 2 * row_bytes;
        if (token % 2 == 0 && token + 2 <= end) {
            tile_kernels().join_pairs(wire, wire + row_bytes, row, head_dim);
            token += 2;
            wire += 2 * row_bytes;
        } else {
            copy_half_row(wire, 2, row + token % 2 * 2, 4, head_dim);
            token += 1;
            wire += row_bytes;
        }
    }
}

/// How the tokens of a tile follow each other in memory.
enum class Move : std::uint8_t { copy, transpose, pairs };

Move move_of(const KvLayout& layout, KvPart part) {
    if (layout.format().order == TileOrder::token_major) { return Move::copy; }
    if (part == KvPart::k) { return Move::transpose; }
    return layout.lane_elements() == 1 ? Move::copy : Move::pairs;
}

void pack_slice(const KvLayout& layout, Move move, const std::byte* tile, Slice slice, std::byte* wire) {
    const std::size_t row_bytes = std::size_t{layout.head_dim()} * element_bytes(layout.format().dtype);
    const std::size_t row_lanes = layout.head_dim() / layout.lane_elements();
    switch (move) {
        case Move::copy:
            std::memcpy(wire, tile + slice.token_begin * row_bytes, slice.tokens * row_bytes);
            return;
        case Move::transpose:
            tile_kernels().transpose(tile + slice.token_begin * 4, layout.block_tokens(), wire, row_lanes, row_lanes,
                                     slice.tokens);
            return;
        case Move::pairs:
            pack_pairs(tile, slice, layout.head_dim(), wire);
            return;
    }
}

void unpack_slice(const KvLayout& layout, Move move, const std::byte* wire, Slice slice, std::byte* tile) {
    const std::size_t row_bytes = std::size_t{layout.head_dim()} * element_bytes(layout.format().dtype);
    const std::size_t row_lanes = layout.head_dim() / layout.lane_elements();
    switch (move) {
        case Move::copy:
            std::memcpy(tile + slice.token_begin * row_bytes, wire, slice.tokens * row_bytes);
            return;
        case Move::transpose:
            tile_kernels().transpose(wire, row_lanes, tile + slice.token_begin * 4, layout.block_tokens(), slice.tokens,
                                     row_lanes);
            return;
        case Move::pairs:
            unpack_pairs(wire, slice, layout.head_dim(), tile);
            return;
    }
}

/// Calls visit(block, layer, part, kv_head, slice, offset on the wire in bytes) for every tile that the range touches.
/// Inside a layer block by block: a block's tiles of one layer are contiguous.
template <class Visit>
void for_each_tile(const KvLayout& layout, std::span<const BlockId> blocks, const KvRange& range, Visit visit) {
    CHECK(range.layer_begin <= range.layer_end && range.layer_end <= layout.layers(),
          "layers [" << range.layer_begin << ", " << range.layer_end << ") of " << layout.layers());
    CHECK(range.token_begin <= range.token_end && layout.blocks_for(range.token_end) <= blocks.size(),
          "tokens [" << range.token_begin << ", " << range.token_end << ") in " << blocks.size() << " blocks");
    const std::uint32_t block_tokens = layout.block_tokens();
    const std::size_t row_bytes = std::size_t{layout.head_dim()} * element_bytes(layout.format().dtype);
    const std::size_t plane_bytes = range.tokens() * row_bytes;  // one head of one part on the wire
    for (std::uint32_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
        const std::size_t planes_before = std::size_t{layer - range.layer_begin} * 2 * layout.kv_heads();
        for (std::uint32_t token = range.token_begin; token < range.token_end;) {
            const std::uint32_t begin = token % block_tokens;
            const Slice slice{begin, std::min(block_tokens - begin, range.token_end - token)};
            const std::size_t row_offset = (token - range.token_begin) * row_bytes;
            for (const KvPart part : {KvPart::k, KvPart::v}) {
                const std::size_t plane = planes_before + (part == KvPart::k ? 0 : layout.kv_heads());
                for (std::uint32_t head = 0; head < layout.kv_heads(); ++head) {
                    visit(blocks[token / block_tokens], layer, part, head, slice,
                          (plane + head) * plane_bytes + row_offset);
                }
            }
            token += slice.tokens;
        }
    }
}

}  // namespace

void pack(const KvStore& store, std::span<const BlockId> blocks, const KvRange& range, std::span<std::byte> out) {
    const KvLayout& layout = store.layout();
    CHECK(out.size() == layout.wire_bytes(range), out.size() << " bytes for " << layout.wire_bytes(range));
    for_each_tile(
        layout, blocks, range,
        [&](BlockId block, std::uint32_t layer, KvPart part, std::uint32_t head, Slice slice, std::size_t wire_offset) {
            pack_slice(layout, move_of(layout, part), store.tile(block, layer, part, head), slice,
                       out.data() + wire_offset);
        });
}

void unpack(KvStore& store, std::span<const BlockId> blocks, const KvRange& range, std::span<const std::byte> in) {
    const KvLayout& layout = store.layout();
    CHECK(in.size() == layout.wire_bytes(range), in.size() << " bytes for " << layout.wire_bytes(range));
    for_each_tile(
        layout, blocks, range,
        [&](BlockId block, std::uint32_t layer, KvPart part, std::uint32_t head, Slice slice, std::size_t wire_offset) {
            unpack_slice(layout, move_of(layout, part), in.data() + wire_offset, slice,
                         store.tile(block, layer, part, head));
        });
}

}  // namespace kv_cache
