#include "kv_cache/kv_layout.h"

#include <string>
#include <vector>

#include "tests/support/catch.h"

using kv_cache::KvDtype;
using kv_cache::KvFormat;
using kv_cache::KvLayout;
using kv_cache::KvPart;
using kv_cache::TileOrder;

namespace {

base::ModelShape make_shape(std::uint32_t layers, std::uint32_t heads_kv, std::uint32_t head_dim) {
    base::ModelShape shape;
    shape.layers = layers;
    shape.heads_kv = heads_kv;
    shape.heads_q = heads_kv;
    shape.head_dim = head_dim;
    return shape;
}

constexpr KvFormat kFormats[] = {{KvDtype::f32, TileOrder::token_major},
                                 {KvDtype::f32, TileOrder::lanes},
                                 {KvDtype::bf16, TileOrder::token_major},
                                 {KvDtype::bf16, TileOrder::lanes}};

}  // namespace

TEST_CASE("every element of a block has its own place and no byte is left over", "[kv_cache]") {
    for (const KvFormat format : kFormats) {
        for (const std::uint32_t block_tokens : {16u, 48u}) {
            CAPTURE(format.name(), block_tokens);
            const auto layout = KvLayout::make(make_shape(3, 2, 10), format, block_tokens);
            REQUIRE(layout.has_value());
            const std::size_t element = kv_cache::element_bytes(format.dtype);
            std::vector<int> used(layout->block_bytes() / element, 0);
            for (std::uint32_t layer = 0; layer < 3; ++layer) {
                for (const KvPart part : {KvPart::k, KvPart::v}) {
                    for (std::uint32_t head = 0; head < 2; ++head) {
                        for (std::uint32_t token = 0; token < block_tokens; ++token) {
                            for (std::uint32_t dim = 0; dim < 10; ++dim) {
                                const std::size_t offset = layout->element_offset(layer, part, head, token, dim);
                                REQUIRE(offset % element == 0);
                                REQUIRE(offset < layout->block_bytes());
                                ++used[offset / element];
                            }
                        }
                    }
                }
            }
            REQUIRE(used == std::vector<int>(used.size(), 1));
        }
    }
}

TEST_CASE("a block is layers of K then V, heads of tiles", "[kv_cache]") {
    const auto layout = KvLayout::make(make_shape(4, 3, 8), {KvDtype::bf16, TileOrder::lanes}, 16);
    REQUIRE(layout.has_value());
    REQUIRE(layout->tile_bytes() == 16u * 8 * 2);
    REQUIRE(layout->layer_stride() == 6u * layout->tile_bytes());
    REQUIRE(layout->block_bytes() == 4u * layout->layer_stride());
    REQUIRE(layout->bytes_per_token() == 2u * 4 * 3 * 8 * 2);
    REQUIRE(layout->tile_offset(0, KvPart::k, 0) == 0);
    REQUIRE(layout->tile_offset(0, KvPart::k, 2) == 2 * layout->tile_bytes());
    REQUIRE(layout->tile_offset(0, KvPart::v, 0) == 3 * layout->tile_bytes());
    REQUIRE(layout->tile_offset(2, KvPart::v, 1) == 2 * layout->layer_stride() + 4 * layout->tile_bytes());
    REQUIRE(layout->wire_bytes({1, 3, 5, 22}) == 2u * 17 * 2 * 3 * 8 * 2);
    REQUIRE(layout->wire_bytes({1, 1, 5, 22}) == 0);
    REQUIRE(layout->blocks_for(0) == 0);
    REQUIRE(layout->blocks_for(16) == 1);
    REQUIRE(layout->blocks_for(17) == 2);
}

TEST_CASE("the order inside a tile is what the kernels expect", "[kv_cache]") {
    const auto bf16 = *KvLayout::make(make_shape(1, 1, 8), {KvDtype::bf16, TileOrder::lanes}, 16);
    REQUIRE(bf16.lane_elements() == 2);
    REQUIRE(bf16.element_index(KvPart::k, 3, 5) == (2 * 16 + 3) * 2 + 1);
    REQUIRE(bf16.element_index(KvPart::v, 3, 5) == (1 * 8 + 5) * 2 + 1);
    const auto f32 = *KvLayout::make(make_shape(1, 1, 8), {KvDtype::f32, TileOrder::lanes}, 16);
    REQUIRE(f32.lane_elements() == 1);
    REQUIRE(f32.element_index(KvPart::k, 3, 5) == 5 * 16 + 3);
    REQUIRE(f32.element_index(KvPart::v, 3, 5) == 3 * 8 + 5);
    const auto plain = *KvLayout::make(make_shape(1, 1, 8), {KvDtype::bf16, TileOrder::token_major}, 16);
    REQUIRE(plain.element_index(KvPart::k, 3, 5) == 3 * 8 + 5);
    REQUIRE(plain.element_index(KvPart::v, 3, 5) == 3 * 8 + 5);
}

TEST_CASE("the layout lists one group of full attention over all layers", "[kv_cache]") {
    const auto layout = *KvLayout::make(make_shape(4, 3, 8), {KvDtype::f32, TileOrder::lanes}, 16);
    REQUIRE(layout.groups().size() == 1);
    const kv_cache::KvGroup& group = layout.groups()[0];
    REQUIRE(group.kind == kv_cache::KvGroup::Kind::full_attention);
    REQUIRE(group.layer_begin == 0);
    REQUIRE(group.layers == 4);
    REQUIRE(group.kv_heads == 3);
    REQUIRE(group.head_dim == 8);
    REQUIRE(group.offset_in_block == 0);
    REQUIRE(group.bytes_per_block == layout.block_bytes());
}

TEST_CASE("the wire number depends on the dtype only, and never changes", "[kv_cache]") {
    REQUIRE(KvFormat{KvDtype::f32, TileOrder::lanes}.wire_id() == 257);
    REQUIRE(KvFormat{KvDtype::f32, TileOrder::token_major}.wire_id() == 257);
    REQUIRE(KvFormat{KvDtype::bf16, TileOrder::lanes}.wire_id() == 258);
    REQUIRE(KvFormat{KvDtype::bf16, TileOrder::token_major}.wire_id() == 258);
    REQUIRE(KvFormat{KvDtype::bf16, TileOrder::lanes}.name() == "bf16/lanes");
    REQUIRE(KvFormat{KvDtype::f32, TileOrder::token_major}.name() == "f32/token_major");
}

TEST_CASE("a layout that cannot be is refused with the field that is wrong", "[kv_cache]") {
    struct Row {
        base::ModelShape shape;
        std::uint32_t block_tokens;
        const char* named;
    };
    const Row rows[] = {{make_shape(1, 1, 8), 0, "block_tokens"}, {make_shape(1, 1, 8), 24, "block_tokens"},
                        {make_shape(0, 1, 8), 16, "layers"},      {make_shape(1, 0, 8), 16, "heads_kv"},
                        {make_shape(1, 1, 0), 16, "head_dim"},    {make_shape(1, 1, 7), 16, "head_dim"}};
    for (const Row& row : rows) {
        CAPTURE(row.named, row.block_tokens);
        const auto refused = KvLayout::make(row.shape, {KvDtype::bf16, TileOrder::lanes}, row.block_tokens);
        REQUIRE_FALSE(refused.has_value());
        REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
        REQUIRE(refused.error().message.find(row.named) != std::string::npos);
    }
    REQUIRE(KvLayout::make(make_shape(1, 1, 7), {KvDtype::bf16, TileOrder::token_major}, 16).has_value());
    REQUIRE(KvLayout::make(make_shape(1, 1, 7), {KvDtype::f32, TileOrder::lanes}, 16).has_value());
}
