#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/model_shape.h"
#include "base/result.h"

namespace kv_cache {

using base::BlockId;
using base::Result;

/// How one element is stored.
enum class KvDtype : std::uint8_t { f32, bf16 };

/// How the elements of a tile (one block of tokens of one head) follow each other.
enum class TileOrder : std::uint8_t {
    token_major,  // [token][head_dim], K and V alike: the plain order, and the order on the wire
    lanes,        // in 32-bit lanes of e elements (bf16: 2, f32: 1): K [head_dim/e][token][e], V [token/e][head_dim][e]
};

/// K or V.
enum class KvPart : std::uint8_t { k, v };

/// Bytes of one element.
constexpr std::uint32_t element_bytes(KvDtype dtype) {
    return dtype == KvDtype::f32 ? 4 : 2;
}

/// How KV is stored in blocks.
struct KvFormat {
    KvDtype dtype = KvDtype::bf16;
    TileOrder order = TileOrder::lanes;

    /// Number of what travels between workers: depends on dtype and the version of the wire order, not on `order`.
    /// Never 0.
    std::uint32_t wire_id() const;
    /// "bf16/lanes": for logs and `numerics_id`.
    std::string name() const;
    bool operator==(const KvFormat&) const = default;
};

/// Layers whose KV is kept in the same way. So far there is one group per model: full attention in all layers.
struct KvGroup {
    enum class Kind : std::uint8_t { full_attention };

    Kind kind = Kind::full_attention;
    std::uint32_t layer_begin = 0;
    std::uint32_t layers = 0;
    std::uint32_t kv_heads = 0;
    std::uint32_t head_dim = 0;
    std::uint64_t offset_in_block = 0;        // bytes
    std::uint64_t bytes_per_block = 0;        // bytes of all its layers, scales included
    std::uint64_t scale_bytes_per_layer = 0;  // room for scales behind each layer's tiles; no format has any yet
    bool operator==(const KvGroup&) const = default;
};

/// A rectangle of a sequence's KV: layers [layer_begin, layer_end) of tokens [token_begin, token_end).
struct KvRange {
    std::uint32_t layer_begin = 0;
    std::uint32_t layer_end = 0;
    std::uint32_t token_begin = 0;
    std::uint32_t token_end = 0;

    std::uint32_t layers() const { return layer_end - layer_begin; }
    std::uint32_t tokens() const { return token_end - token_begin; }
    bool operator==(const KvRange&) const = default;
};

/// Where each element of KV lies: the only place that computes an offset. A block of all layers is one contiguous
/// range,
/// `[layer][K|V][kv_head][tile]`; a tile is block_tokens x head_dim elements in the order of the format. A value;
/// immutable.
class KvLayout {
public:
    /// `block_tokens` is a multiple of 16. Error: invalid_argument, naming the field, for a shape without layers, heads
    /// or head_dim, or an odd head_dim in bf16 lanes.
    static Result<KvLayout> make(const base::ModelShape& shape, KvFormat format, std::uint32_t block_tokens);

    const KvFormat& format() const { return format_; }
    /// In order of layers; never empty.
    const std::vector<KvGroup>& groups() const { return groups_; }
    std::uint32_t layers() const { return layers_; }
    std::uint32_t kv_heads() const { return groups_.front().kv_heads; }
    std::uint32_t head_dim() const { return groups_.front().head_dim; }
    std::uint32_t block_tokens() const { return block_tokens_; }

    /// Bytes of one block of all layers.
    std::size_t block_bytes() const { return block_bytes_; }
    /// Bytes from a layer to the next inside a block.
    std::size_t layer_stride() const { return 2 * kv_heads() * tile_bytes() + groups_.front().scale_bytes_per_layer; }
    /// Bytes of one tile; also the distance from a head to the next.
    std::size_t tile_bytes() const { return tile_bytes_; }
    /// Bytes of K and V of one token over all layers, as stored and on the wire.
    std::size_t bytes_per_token() const { return block_bytes_ / block_tokens_; }
    /// Blocks that hold `tokens` tokens.
    std::uint32_t blocks_for(std::uint32_t tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

    /// Byte offset inside a block of the tile of (layer, part, kv_head).
    std::size_t tile_offset(std::uint32_t layer, KvPart part, std::uint32_t kv_head) const {
        const std::size_t plane = part == KvPart::k ? 0 : kv_heads();
        return layer * layer_stride() + (plane + kv_head) * tile_bytes_;
    }
    /// Index inside a tile, in elements, of (token in the block, dim).
    std::size_t element_index(KvPart part, std::uint32_t token, std::uint32_t dim) const {
        const std::size_t e = lane_elements();
        if (format_.order == TileOrder::token_major) { return std::size_t{token} * head_dim() + dim; }
        if (part == KvPart::k) { return (dim / e * block_tokens_ + token) * e + dim % e; }
        return (token / e * head_dim() + dim) * e + token % e;
    }
    /// Byte offset inside a block of one element.
    std::size_t element_offset(std::uint32_t layer, KvPart part, std::uint32_t kv_head, std::uint32_t token,
                               std::uint32_t dim) const {
        return tile_offset(layer, part, kv_head) + element_index(part, token, dim) * element_bytes(format_.dtype);
    }
    /// Elements that share a 32-bit lane.
    std::uint32_t lane_elements() const { return 4 / element_bytes(format_.dtype); }

    /// Bytes of `range` in the canonical wire order `[layer][K|V][kv_head][token][head_dim]`.
    std::size_t wire_bytes(const KvRange& range) const {
        return std::size_t{range.layers()} * 2 * kv_heads() * range.tokens() * head_dim() *
               element_bytes(format_.dtype);
    }

    bool operator==(const KvLayout&) const = default;

private:
    KvLayout() = default;

    KvFormat format_;
    std::vector<KvGroup> groups_;
    std::uint32_t layers_ = 0;
    std::uint32_t block_tokens_ = 0;
    std::size_t tile_bytes_ = 0;
    std::size_t block_bytes_ = 0;
};

}  // namespace kv_cache
