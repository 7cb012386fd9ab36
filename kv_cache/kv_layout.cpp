#include "kv_cache/kv_layout.h"

namespace kv_cache {
namespace {

constexpr std::uint32_t kWireOrderVersion = 1;  // [layer][K|V][kv_head][token][head_dim]
constexpr std::uint32_t kBlockTokensUnit = 16;  // kernels work on 16 tokens of a tile at a time

}  // namespace

std::uint32_t KvFormat::wire_id() const {
    return kWireOrderVersion << 8 | (dtype == KvDtype::f32 ? 1u : 2u);
}

std::string KvFormat::name() const {
    return std::string(dtype == KvDtype::f32 ? "f32" : "bf16") +
           (order == TileOrder::token_major ? "/token_major" : "/lanes");
}

Result<KvLayout> KvLayout::make(const base::ModelShape& shape, KvFormat format, std::uint32_t block_tokens) {
    const auto refuse = [](const std::string& message) {
        return base::fail(base::ErrorCode::invalid_argument, "KV layout: " + message);
    };
    if (block_tokens == 0 || block_tokens % kBlockTokensUnit != 0) {
        return refuse("block_tokens must be a multiple of 16, got " + std::to_string(block_tokens));
    }
    if (shape.layers == 0) { return refuse("layers is 0"); }
    if (shape.heads_kv == 0) { return refuse("heads_kv is 0"); }
    if (shape.head_dim == 0) { return refuse("head_dim is 0"); }

    KvLayout layout;
    layout.format_ = format;
    layout.layers_ = shape.layers;
    layout.block_tokens_ = block_tokens;
    if (format.order == TileOrder::lanes && shape.head_dim % (4 / element_bytes(format.dtype)) != 0) {
        return refuse("head_dim must be even for " + format.name() + ", got " + std::to_string(shape.head_dim));
    }
    KvGroup group;
    group.layers = shape.layers;
    group.kv_heads = shape.heads_kv;
    group.head_dim = shape.head_dim;
    layout.tile_bytes_ = std::size_t{block_tokens} * shape.head_dim * element_bytes(format.dtype);
    group.bytes_per_block = shape.layers * (2 * shape.heads_kv * layout.tile_bytes_ + group.scale_bytes_per_layer);
    layout.groups_.push_back(group);
    layout.block_bytes_ = group.bytes_per_block;
    return layout;
}

}  // namespace kv_cache
