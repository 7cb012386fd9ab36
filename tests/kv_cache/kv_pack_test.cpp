#include "kv_cache/kv_pack.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "kv_cache/tile_kernels.h"
#include "tests/kv_cache/support.h"

#include "tests/support/catch.h"

using kv_cache::BlockId;
using kv_cache::KvDtype;
using kv_cache::KvFormat;
using kv_cache::KvLayout;
using kv_cache::KvPart;
using kv_cache::KvRange;
using kv_cache::KvStore;
using kv_cache::TileOrder;

namespace {

constexpr KvFormat kFormats[] = {{KvDtype::f32, TileOrder::token_major},
                                 {KvDtype::f32, TileOrder::lanes},
                                 {KvDtype::bf16, TileOrder::token_major},
                                 {KvDtype::bf16, TileOrder::lanes}};

std::uint32_t draw(std::mt19937& random, std::uint32_t low, std::uint32_t high) {
    return low + static_cast<std::uint32_t>(random()) % (high - low + 1);
}

void fill(std::span<std::byte> bytes, std::mt19937& random) {
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random() & 0xff);
    }
}

/// The definition, element by element: what `pack` must give.
std::vector<std::byte> pack_reference(const KvStore& store, std::span<const BlockId> blocks, const KvRange& range) {
    const KvLayout& layout = store.layout();
    const std::size_t element = kv_cache::element_bytes(layout.format().dtype);
    std::vector<std::byte> out;
    for (std::uint32_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
        for (const KvPart part : {KvPart::k, KvPart::v}) {
            for (std::uint32_t head = 0; head < layout.kv_heads(); ++head) {
                for (std::uint32_t token = range.token_begin; token < range.token_end; ++token) {
                    const std::byte* block = store.block(blocks[token / layout.block_tokens()]);
                    for (std::uint32_t dim = 0; dim < layout.head_dim(); ++dim) {
                        const std::byte* from =
                            block + layout.element_offset(layer, part, head, token % layout.block_tokens(), dim);
                        out.insert(out.end(), from, from + element);
                    }
                }
            }
        }
    }
    return out;
}

struct Case {
    KvLayout layout;
    std::uint32_t blocks_total;
    std::vector<BlockId> table;
    KvRange range;
};

Case make_case(KvFormat format, std::mt19937& random) {
    base::ModelShape shape;
    shape.layers = draw(random, 1, 4);
    shape.heads_kv = draw(random, 1, 3);
    shape.head_dim = 2 * draw(random, 1, 40);
    if (format.dtype == KvDtype::f32 && random() % 2 == 0) { shape.head_dim += 1; }
    Case made{*KvLayout::make(shape, format, 16 * draw(random, 1, 3)), draw(random, 4, 8), {}, {}};
    for (std::uint32_t i = 0; i < made.blocks_total; ++i) {
        made.table.push_back(BlockId{i});
    }
    std::shuffle(made.table.begin(), made.table.end(), random);
    made.table.resize(draw(random, 1, 4));
    const auto tokens = static_cast<std::uint32_t>(made.table.size()) * made.layout.block_tokens();
    made.range.layer_begin = draw(random, 0, shape.layers);
    made.range.layer_end = draw(random, made.range.layer_begin, shape.layers);
    made.range.token_begin = draw(random, 0, tokens);
    made.range.token_end = draw(random, made.range.token_begin, tokens);
    return made;
}

}  // namespace

TEST_CASE("pack gives the canonical order, element by element, for every format and range", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, 60u));
    for (const KvFormat format : kFormats) {
        CAPTURE(seed, format.name());
        std::mt19937 random{seed};
        const Case made = make_case(format, random);
        auto store = KvStore::make(device::host_device(), made.layout, made.blocks_total);
        REQUIRE(store.has_value());
        fill(store->run({BlockId{0}, made.blocks_total}), random);
        // One byte on either side of an unaligned place: written by nobody.
        std::vector<std::byte> out(made.layout.wire_bytes(made.range) + 2, std::byte{0x5a});
        kv_cache::pack(*store, made.table, made.range, std::span(out).subspan(1, out.size() - 2));
        const auto expected = pack_reference(*store, made.table, made.range);
        REQUIRE(out.front() == std::byte{0x5a});
        REQUIRE(out.back() == std::byte{0x5a});
        REQUIRE(std::equal(expected.begin(), expected.end(), out.begin() + 1, out.end() - 1));
    }
}

TEST_CASE("unpack puts back exactly its range and touches nothing else", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, 60u));
    for (const KvFormat format : kFormats) {
        CAPTURE(seed, format.name());
        std::mt19937 random{seed};
        const Case made = make_case(format, random);
        auto source = KvStore::make(device::host_device(), made.layout, made.blocks_total);
        auto target = KvStore::make(device::host_device(), made.layout, made.blocks_total);
        REQUIRE(source.has_value());
        REQUIRE(target.has_value());
        const kv_cache::BlockRun all{BlockId{0}, made.blocks_total};
        fill(source->run(all), random);
        fill(target->run(all), random);
        // Expected: the target with the elements of the range copied one by one.
        std::vector<std::byte> expected(target->run(all).begin(), target->run(all).end());
        const KvLayout& layout = made.layout;
        const std::size_t element = kv_cache::element_bytes(format.dtype);
        for (std::uint32_t layer = made.range.layer_begin; layer < made.range.layer_end; ++layer) {
            for (std::uint32_t token = made.range.token_begin; token < made.range.token_end; ++token) {
                const std::size_t block = base::raw(made.table[token / layout.block_tokens()]) * layout.block_bytes();
                for (const KvPart part : {KvPart::k, KvPart::v}) {
                    for (std::uint32_t head = 0; head < layout.kv_heads(); ++head) {
                        for (std::uint32_t dim = 0; dim < layout.head_dim(); ++dim) {
                            const std::size_t at =
                                block + layout.element_offset(layer, part, head, token % layout.block_tokens(), dim);
                            std::memcpy(expected.data() + at, source->run(all).data() + at, element);
                        }
                    }
                }
            }
        }
        std::vector<std::byte> wire(layout.wire_bytes(made.range));
        kv_cache::pack(*source, made.table, made.range, wire);
        kv_cache::unpack(*target, made.table, made.range, wire);
        REQUIRE(std::equal(expected.begin(), expected.end(), target->run(all).begin(), target->run(all).end()));
    }
}

TEST_CASE("the wire carries KV between workers of different tile orders and tables", "[kv_cache]") {
    for (const KvDtype dtype : {KvDtype::f32, KvDtype::bf16}) {
        base::ModelShape shape;
        shape.layers = 2;
        shape.heads_kv = 2;
        shape.head_dim = 64;
        const auto sender_layout = *KvLayout::make(shape, {dtype, TileOrder::lanes}, 16);
        const auto receiver_layout = *KvLayout::make(shape, {dtype, TileOrder::token_major}, 32);
        REQUIRE(sender_layout.format().wire_id() == receiver_layout.format().wire_id());
        auto sender = *KvStore::make(device::host_device(), sender_layout, 4);
        auto receiver = *KvStore::make(device::host_device(), receiver_layout, 4);
        std::mt19937 random{7};
        fill(sender.run({BlockId{0}, 4}), random);
        const std::vector<BlockId> sender_table{BlockId{3}, BlockId{0}, BlockId{2}};
        const std::vector<BlockId> receiver_table{BlockId{1}, BlockId{0}};
        const KvRange range{0, 2, 0, 45};
        std::vector<std::byte> wire(sender_layout.wire_bytes(range));
        kv_cache::pack(sender, sender_table, range, wire);
        kv_cache::unpack(receiver, receiver_table, range, wire);
        std::vector<std::byte> again(wire.size());
        kv_cache::pack(receiver, receiver_table, range, again);
        REQUIRE(again == wire);
    }
}

TEST_CASE("fast tile kernels equal the plain ones at every size", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, 10u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto& fast = kv_cache::tile_kernels();
    const auto& plain = kv_cache::plain_tile_kernels();
    for (int round = 0; round < 40; ++round) {
        const std::size_t rows = draw(random, 0, 70);
        const std::size_t columns = draw(random, 0, 70);
        const std::size_t source_stride = columns + draw(random, 0, 5);
        const std::size_t target_stride = rows + draw(random, 0, 5);
        CAPTURE(rows, columns, source_stride, target_stride);
        std::vector<std::byte> source(4 * rows * source_stride + 1);
        fill(source, random);
        std::vector<std::byte> expected(4 * columns * target_stride + 1, std::byte{1});
        std::vector<std::byte> got = expected;
        plain.transpose(source.data() + 1, source_stride, expected.data() + 1, target_stride, rows, columns);
        fast.transpose(source.data() + 1, source_stride, got.data() + 1, target_stride, rows, columns);
        REQUIRE(got == expected);

        std::vector<std::byte> pairs(4 * columns);
        fill(pairs, random);
        std::vector<std::byte> even(2 * columns);
        std::vector<std::byte> odd(2 * columns);
        std::vector<std::byte> even_expected(2 * columns);
        std::vector<std::byte> odd_expected(2 * columns);
        plain.split_pairs(pairs.data(), even_expected.data(), odd_expected.data(), columns);
        fast.split_pairs(pairs.data(), even.data(), odd.data(), columns);
        REQUIRE(even == even_expected);
        REQUIRE(odd == odd_expected);
        std::vector<std::byte> joined(4 * columns);
        fast.join_pairs(even.data(), odd.data(), joined.data(), columns);
        REQUIRE(joined == pairs);
    }
}

TEST_CASE("a range or a size that does not fit stops the process", "[kv_cache]") {
    base::ModelShape shape;
    shape.layers = 2;
    shape.heads_kv = 1;
    shape.head_dim = 8;
    const auto layout = *KvLayout::make(shape, {}, 16);
    auto store = *KvStore::make(device::host_device(), layout, 2);
    const std::vector<BlockId> table{BlockId{0}, BlockId{1}};
    const auto packs = [&](const KvRange& range, std::size_t bytes) {
        std::vector<std::byte> out(bytes);
        kv_cache::pack(store, table, range, out);
    };
    using kv_cache_test::stops_the_process;
    const KvRange fits{0, 2, 0, 32};
    REQUIRE_FALSE(stops_the_process([&] { packs(fits, layout.wire_bytes(fits)); }));
    REQUIRE(stops_the_process([&] { packs(fits, layout.wire_bytes(fits) - 1); }));
    const KvRange long_range{0, 2, 0, 33};
    REQUIRE(stops_the_process([&] { packs(long_range, layout.wire_bytes(long_range)); }));
    const KvRange deep_range{1, 3, 0, 32};
    REQUIRE(stops_the_process([&] { packs(deep_range, layout.wire_bytes(deep_range)); }));
}
