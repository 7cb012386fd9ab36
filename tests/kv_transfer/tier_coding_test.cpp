// Blocks that lie coded in a level: the same bits come back, in less room, or nothing does; and by what a level
// chooses.
#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "base/crc32c.h"
#include "kv_transfer/tier/block_coder.h"
#include "kv_transfer/tier/disk_rate.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/host_tier.h"
#include "kv_transfer/tier/tier_copier.h"
#include "kv_transfer/tier/tier_record.h"

#include "tests/kv_transfer/s3_world.h"
#include "tests/kv_transfer/tier_world.h"
#include "tests/support/catch.h"
#include "tests/support/distant_device.h"
#include "tests/support/seeds.h"

namespace fs = std::filesystem;
using base::BlockHash;
using base::ErrorCode;
using kv_cache::BlockId;
using kv_cache::BlockRun;
using kv_cache::KvDtype;
using kv_cache::TileOrder;
using kv_transfer::BlockCoder;
using kv_transfer::DiskRate;
using kv_transfer::FileTier;
using kv_transfer::HostTier;
using kv_transfer::TierCoding;
using test_support::chain_of;
using test_support::Folder;
using test_support::kBlocks;
using test_support::piece;
using test_support::Pool;

namespace {

kv_cache::KvLayout layout_of(KvDtype dtype, TileOrder order, std::uint32_t heads, std::uint32_t head_dim,
                             std::uint32_t layers = 4) {
    base::ModelShape shape;
    shape.layers = layers;
    shape.heads_kv = shape.heads_q = heads;
    shape.head_dim = head_dim;
    return kv_cache::KvLayout::make(shape, {dtype, order}, 16).value();
}

/// Blocks of 49,152 bytes, in slots of 36,864 where they are coded.
kv_cache::KvLayout usual_layout() {
    return layout_of(KvDtype::bf16, TileOrder::lanes, 3, 64);
}

/// Something like KV: normal, with a deviation of each block's own.
void fill_like_kv(Pool& pool, BlockRun run, std::uint32_t seed) {
    std::mt19937 random(seed);
    for (std::uint32_t i = 0; i < run.count; ++i) {
        std::normal_distribution<float> values(0.0f, 0.5f + static_cast<float>(random() % 4));
        std::byte* block = pool.store.block(BlockId{base::raw(run.first) + i});
        const std::size_t bytes = pool.layout.block_bytes();
        for (std::size_t at = 0; at < bytes;) {
            const auto bits = std::bit_cast<std::uint32_t>(values(random));
            if (pool.layout.format().dtype == KvDtype::f32) {
                std::memcpy(block + at, &bits, 4);
                at += 4;
            } else {
                const auto half = static_cast<std::uint16_t>(bits >> 16);
                std::memcpy(block + at, &half, 2);
                at += 2;
            }
        }
    }
}

/// Any bits at all: infinities, numbers that are none, the smallest.
void fill_with_anything(Pool& pool, BlockRun run, std::uint32_t seed) {
    std::mt19937_64 random(seed);
    for (std::uint32_t i = 0; i < run.count; ++i) {
        std::byte* block = pool.store.block(BlockId{base::raw(run.first) + i});
        for (std::size_t at = 0; at + 8 <= pool.layout.block_bytes(); at += 8) {
            const std::uint64_t bits = random();
            std::memcpy(block + at, &bits, 8);
        }
    }
}

std::vector<std::byte> bytes_of(const Pool& pool, std::uint32_t block) {
    const std::byte* bytes = pool.store.block(BlockId{block});
    return {bytes, bytes + pool.layout.block_bytes()};
}

void wipe(Pool& pool, BlockRun run) {
    pool.fill(run, 0xee);
}

FileTier::Options file_options(const Folder& folder, const Pool& pool, std::uint32_t slots, TierCoding coding,
                               bool page_cache) {
    FileTier::Options options = test_support::options_of(folder, pool, slots, page_cache);
    options.coding = coding;
    options.pool = pool.layout;
    return options;
}

std::unique_ptr<BlockCoder> coder_of(const Pool& pool, std::uint64_t numerics_id = 7) {
    return BlockCoder::make(pool.layout, numerics_id, pool.store.device()).value();
}

}  // namespace

TEST_CASE("a coded block comes back with the same bits, whatever they are and however they lie", "[kv_transfer]") {
    const KvDtype dtype = GENERATE(KvDtype::f32, KvDtype::bf16);
    const TileOrder order = GENERATE(TileOrder::lanes, TileOrder::token_major);
    const auto [heads, head_dim] =
        GENERATE(std::pair(3u, 64u), std::pair(4u, 8u), std::pair(1u, 96u), std::pair(2u, 80u));
    CAPTURE(static_cast<int>(dtype), static_cast<int>(order), heads, head_dim);
    Pool pool(device::host_device(), layout_of(dtype, order, heads, head_dim));
    const auto coder = coder_of(pool);
    std::vector<std::byte> coded(coder->coded_bytes_max());
    const bool like_kv = GENERATE(true, false);
    (like_kv ? fill_like_kv : fill_with_anything)(pool, {BlockId{2}, 1}, 1);
    const auto before = bytes_of(pool, 2);
    const std::size_t bytes = coder->encode(pool.access, BlockId{2}, coded).value();
    wipe(pool, {BlockId{0}, kBlocks});
    REQUIRE(coder->decode(pool.access, BlockId{5}, std::span(coded).first(bytes)));
    REQUIRE(bytes_of(pool, 5) == before);
    if (like_kv) {
        CHECK(bytes <= coder->slot_bytes());
        CHECK(coder->slot_bytes() <= pool.layout.block_bytes());
    }
}

TEST_CASE("what is damaged, cut, or of another model or shape is not decoded", "[kv_transfer]") {
    Pool pool(device::host_device(), usual_layout());
    const auto coder = coder_of(pool);
    fill_like_kv(pool, {BlockId{2}, 1}, 1);
    std::vector<std::byte> coded(coder->coded_bytes_max());
    coded.resize(coder->encode(pool.access, BlockId{2}, coded).value());
    wipe(pool, {BlockId{5}, 1});
    const auto before = bytes_of(pool, 5);
    const auto refuses = [&](BlockCoder& of, std::span<const std::byte> bytes) {
        const auto decoded = of.decode(pool.access, BlockId{5}, bytes);
        REQUIRE_FALSE(decoded);
        REQUIRE(decoded.error().code == ErrorCode::data_loss);
        REQUIRE(bytes_of(pool, 5) == before);
    };
    for (std::size_t at = 0; at < coded.size(); at += 97) {
        coded[at] ^= std::byte{16};
        INFO("byte " << at);
        refuses(*coder, coded);
        coded[at] ^= std::byte{16};
    }
    refuses(*coder, std::span(coded).first(coded.size() - 1));
    refuses(*coder, {});
    refuses(*coder_of(pool, 8), coded);
    Pool wider(device::host_device(), layout_of(KvDtype::bf16, TileOrder::lanes, 3, 64, 8));
    refuses(*coder_of(wider), coded);
    REQUIRE(coder->decode(pool.access, BlockId{5}, coded));
}

TEST_CASE("a coder of heads that the codec cannot have is refused", "[kv_transfer]") {
    Pool pool(device::host_device(), layout_of(KvDtype::bf16, TileOrder::lanes, 1, 512, 1));
    const auto coder = BlockCoder::make(pool.layout, 7, pool.store.device());
    REQUIRE_FALSE(coder);
    REQUIRE(coder.error().code == ErrorCode::invalid_argument);
}

TEST_CASE("host memory holds a third more of coded KV, and the same bits come back", "[kv_transfer]") {
    Pool pool(device::host_device(), usual_layout());
    const std::size_t block_bytes = pool.layout.block_bytes();
    auto tier = HostTier::make(pool.store, 6 * block_bytes, coder_of(pool)).value();
    REQUIRE(tier->slots_total() == 8);
    fill_like_kv(pool, {BlockId{0}, 8}, 3);
    std::vector<std::vector<std::byte>> before;
    for (std::uint32_t block = 0; block < 8; ++block) {
        before.push_back(bytes_of(pool, block));
    }
    const auto chain = chain_of(8);
    REQUIRE(tier->save(pool.access, std::array{piece(0, 3, 5), piece(5, 0, 3)}, chain, std::nullopt));
    const std::uint64_t moved = tier->take_moved();
    CHECK(moved < 8 * block_bytes * 3 / 4);
    CHECK(moved > 8 * block_bytes / 2);
    wipe(pool, {BlockId{0}, kBlocks});
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 5), piece(13, 0, 3)}, chain) == 8u);
    REQUIRE(tier->take_moved() == moved);
    for (std::uint32_t block = 0; block < 8; ++block) {
        REQUIRE(bytes_of(pool, 8 + block) == before[block]);
    }
    // What does not become as small is no KV of a model.
    fill_with_anything(pool, {BlockId{0}, 1}, 1);
    const auto refused = tier->save(pool.access, std::array{piece(0, 0, 1)}, chain_of(1, 2), std::nullopt);
    REQUIRE(refused.error().code == ErrorCode::resource_exhausted);
    REQUIRE(refused.error().message.find("engine.kv_host_codec") != std::string::npos);
}

TEST_CASE("a file holds a third more of coded KV, for later lives and either way of moving it", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool(device::host_device(), usual_layout());
    const Folder folder;
    auto options = file_options(folder, pool, 6, TierCoding::exact, page_cache);
    options.bytes += 1000;  // of their names
    fill_like_kv(pool, {BlockId{0}, 8}, 3);
    std::vector<std::vector<std::byte>> before;
    for (std::uint32_t block = 0; block < 8; ++block) {
        before.push_back(bytes_of(pool, block));
    }
    const auto chain = chain_of(8);
    {
        auto tier = FileTier::open(options).value();
        REQUIRE(tier->slots_total() == 8);
        REQUIRE_FALSE(tier->load_time());  // there is nothing to measure by
        REQUIRE(tier->save(pool.access, std::array{piece(0, 3, 5), piece(5, 0, 3)}, chain, std::nullopt));
        CHECK(tier->take_moved() < 8 * pool.layout.block_bytes() * 4 / 5);
    }
    wipe(pool, {BlockId{0}, kBlocks});
    auto other_way = options;
    other_way.page_cache = GENERATE(false, true);
    auto tier = FileTier::open(other_way).value();
    REQUIRE(tier->found().size() == 8);
    REQUIRE(tier->load_time());
    REQUIRE(*tier->load_time() > base::Duration::zero());
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 5), piece(0, 0, 3)}, chain) == 8u);
    for (std::uint32_t block = 0; block < 8; ++block) {
        REQUIRE(bytes_of(pool, block < 5 ? 8 + block : block - 5) == before[block]);
    }
    // What does not become as small is an error, and its slots hold nothing.
    fill_with_anything(pool, {BlockId{6}, 1}, 1);
    const auto refused = tier->save(pool.access, std::array{piece(6, 0, 1)}, chain_of(1, 2), std::nullopt);
    REQUIRE(refused.error().code == ErrorCode::resource_exhausted);
    REQUIRE(refused.error().message.find("engine.kv_disk.codec") != std::string::npos);
    REQUIRE(tier->found().size() == 7);
}

TEST_CASE("files of another coding, or another version of it, are begun anew", "[kv_transfer]") {
    Pool pool(device::host_device(), usual_layout());
    const Folder folder;
    fill_like_kv(pool, {BlockId{0}, 2}, 3);
    const TierCoding coding = GENERATE(TierCoding::raw, TierCoding::exact, TierCoding::automatic);
    const auto options = file_options(folder, pool, 8, coding, GENERATE(false, true));
    REQUIRE(FileTier::open(options).value()->save(pool.access, std::array{piece(0, 0, 2)}, chain_of(2), std::nullopt));
    REQUIRE(FileTier::open(options).value()->found().size() == 2);
    SECTION("another coding") {
        auto other = options;
        other.coding = coding == TierCoding::exact ? TierCoding::raw : TierCoding::exact;
        REQUIRE(FileTier::open(other).value()->found().empty());
        REQUIRE(FileTier::open(options).value()->found().empty());
    }
    SECTION("a later version of the coding, and a format that is not known") {
        // Format, slots, block_bytes, numerics_id, key mark and layout lie before the coding's word; CRC-32C behind it.
        const fs::path names = options.folder / "names";
        std::array<char, 88> header{};
        std::ifstream(names, std::ios::binary).read(header.data(), header.size());
        const std::size_t at = GENERATE(std::size_t{81}, std::size_t{8});
        header[at] = static_cast<char>(header[at] + 2);
        const std::uint32_t crc = base::crc32c(std::as_bytes(std::span(header).first(84)));
        std::memcpy(header.data() + 84, &crc, sizeof crc);
        std::fstream(names, std::ios::in | std::ios::out | std::ios::binary).write(header.data(), header.size());
        REQUIRE(FileTier::open(options).value()->found().empty());
    }
}

TEST_CASE("raw files are gone on with where blocks may be coded, and not the other way round", "[kv_transfer]") {
    Pool pool(device::host_device(), usual_layout());
    const Folder folder;
    fill_like_kv(pool, {BlockId{0}, 4}, 3);
    const bool page_cache = GENERATE(false, true);
    const auto raw = file_options(folder, pool, 8, TierCoding::raw, page_cache);
    auto either = file_options(folder, pool, 8, TierCoding::automatic, page_cache);
    either.read_rate = 1e6;  // a disk so slow that coding pays
    const auto chain = chain_of(4);
    REQUIRE(FileTier::open(raw).value()->save(pool.access, std::array{piece(0, 0, 2)}, std::span(chain).first(2),
                                              std::nullopt));
    {
        auto tier = FileTier::open(either).value();
        REQUIRE(tier->found().size() == 2);
        REQUIRE(tier->save(pool.access, std::array{piece(2, 5, 2)}, std::span(chain).last(2), chain[1]));
        CHECK(tier->take_moved() < 2 * pool.layout.block_bytes());
    }
    std::vector<std::vector<std::byte>> before;
    for (std::uint32_t block = 0; block < 4; ++block) {
        before.push_back(bytes_of(pool, block));
    }
    wipe(pool, {BlockId{0}, kBlocks});
    auto tier = FileTier::open(either).value();
    REQUIRE(tier->load(pool.access, std::array{piece(8, 0, 2), piece(10, 5, 2)}, chain) == 4u);
    for (std::uint32_t block = 0; block < 4; ++block) {
        REQUIRE(bytes_of(pool, 8 + block) == before[block]);
    }
    tier.reset();
    REQUIRE(FileTier::open(raw).value()->found().empty());
}

TEST_CASE("files of raw blocks have the format that they had before there was another", "[kv_transfer]") {
    kv_transfer::TierHeader header{.block_bytes = 4096, .numerics_id = 7, .slots = 3};
    const auto raw = kv_transfer::encode(header);
    std::uint32_t format = 0;
    std::memcpy(&format, raw.data() + 8, sizeof format);
    REQUIRE(format == 1);
    REQUIRE(kv_transfer::decode_header(raw) == header);
    header.coding = TierCoding::exact;
    const auto coded = kv_transfer::encode(header);
    std::memcpy(&format, coded.data() + 8, sizeof format);
    REQUIRE(format == 2);  // which who knows raw blocks only does not open
    REQUIRE(kv_transfer::decode_header(coded) == header);
}

TEST_CASE("coded and raw blocks lie in one file, are damaged, and come back up to where they are",
          "[kv_transfer][property]") {
    const std::uint32_t seed = GENERATE(range(0u, test_support::seeds_of(40)));
    CAPTURE(seed);
    std::mt19937 random(seed);
    test_device::DistantDevice distant;
    const bool in_host_memory = random() % 2 == 0;
    Pool pool(in_host_memory ? device::host_device() : distant,
              layout_of(random() % 2 == 0 ? KvDtype::bf16 : KvDtype::f32, TileOrder::token_major, 3, 32));
    const Folder folder;
    auto options = file_options(folder, pool, kBlocks, TierCoding::automatic, random() % 2 == 0);
    options.depth = 1 + static_cast<std::uint32_t>(random() % 5);
    if (!in_host_memory) { options.device = &distant; }
    const auto chain = chain_of(kBlocks);
    std::vector<std::vector<std::byte>> before(kBlocks);
    std::vector<std::uint32_t> slots(kBlocks);
    std::iota(slots.begin(), slots.end(), 0u);
    std::shuffle(slots.begin(), slots.end(), random);
    for (std::uint32_t at = 0; at < kBlocks;) {
        const std::uint32_t count = std::min(1 + static_cast<std::uint32_t>(random() % 4), kBlocks - at);
        (random() % 3 == 0 ? fill_with_anything : fill_like_kv)(pool, {BlockId{0}, count}, seed + at);
        for (std::uint32_t i = 0; i < count; ++i) {
            before[at + i] = bytes_of(pool, i);
        }
        std::vector<BlockId> from(count);
        std::vector<BlockId> to(count);
        for (std::uint32_t i = 0; i < count; ++i) {
            from[i] = BlockId{i};
            to[i] = BlockId{slots[at + i]};
        }
        auto of_save = options;
        // On the slowest of disks it is coded, on the quickest it is not.
        of_save.read_rate = random() % 2 == 0 ? kv_transfer::kTierRateMin : kv_transfer::kTierRateMax;
        auto tier = FileTier::open(of_save).value();
        REQUIRE(tier->save(pool.access, kv_transfer::tier_pieces(from, to), std::span(chain).subspan(at, count),
                           at == 0 ? std::nullopt : std::optional(chain[at - 1])));
        at += count;
    }
    const auto damaged = static_cast<std::uint32_t>(random() % (kBlocks + 1));  // kBlocks: none
    if (damaged < kBlocks) {
        std::fstream file(options.folder / "blocks", std::ios::in | std::ios::out | std::ios::binary);
        const auto at = static_cast<std::streamoff>(slots[damaged] * pool.layout.block_bytes() + random() % 1000);
        file.seekg(at);
        const char byte = static_cast<char>(file.get());
        file.seekp(at);
        file.put(static_cast<char>(byte ^ 1));
        REQUIRE(file.good());
    }
    wipe(pool, {BlockId{0}, kBlocks});
    auto tier = FileTier::open(options).value();
    std::vector<BlockId> to(kBlocks);
    std::vector<BlockId> from(kBlocks);
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
        from[i] = BlockId{slots[i]};
        to[i] = BlockId{(i + 5) % kBlocks};
    }
    REQUIRE(tier->load(pool.access, kv_transfer::tier_pieces(to, from), chain) == damaged);
    for (std::uint32_t i = 0; i < damaged; ++i) {
        REQUIRE(bytes_of(pool, base::raw(to[i])) == before[i]);
    }
    REQUIRE(tier->found().size() == kBlocks - (damaged < kBlocks ? 1 : 0));
}

TEST_CASE("a load that nobody waits for any more gives what has come", "[kv_transfer]") {
    const TierCoding coding = GENERATE(TierCoding::raw, TierCoding::exact);
    Pool pool(device::host_device(), usual_layout());
    const Folder folder;
    auto options = file_options(folder, pool, kBlocks, coding, true);
    fill_like_kv(pool, {BlockId{0}, 2}, 3);
    const auto chain = chain_of(2);
    auto tier = FileTier::open(options).value();
    REQUIRE(tier->save(pool.access, std::array{piece(0, 0, 1), piece(1, 5, 1)}, chain, std::nullopt));
    const std::array pieces{piece(8, 0, 1), piece(9, 5, 1)};
    int asked = 0;
    const int most = GENERATE(0, 1);
    tier->load_while([&] { return asked++ < most; });
    const auto loaded = tier->load(pool.access, pieces, chain);
    if (most == 0) {
        REQUIRE(loaded.error().code == ErrorCode::cancelled);
    } else {
        REQUIRE(loaded == 1u);
    }
    tier->load_while({});
    REQUIRE(tier->load(pool.access, pieces, chain) == 2u);  // nothing was forgotten
}

TEST_CASE("objects of a store hold coded blocks, which others do not look for", "[kv_transfer]") {
    test_support::S3World world(usual_layout());
    auto options = world.options(8);
    options.is_coded = true;
    fill_like_kv(world.pool, {BlockId{0}, 4}, 3);
    const auto chain = chain_of(4);
    std::vector<std::vector<std::byte>> before;
    for (std::uint32_t block = 0; block < 4; ++block) {
        before.push_back(bytes_of(world.pool, block));
    }
    {
        auto tier = world.open(options);
        REQUIRE(tier->slots_total() == 10);
        REQUIRE(tier->save(world.pool.access, std::array{piece(0, 3, 4)}, chain, std::nullopt));
        CHECK(tier->take_moved() < 4 * world.pool.layout.block_bytes() * 3 / 4);
        if (GENERATE(false, true)) { world.wait_sent(); }
        wipe(world.pool, {BlockId{0}, kBlocks});
        REQUIRE(tier->load(world.pool.access, std::array{piece(8, 3, 4)}, chain) == 4u);
    }
    for (std::uint32_t block = 0; block < 4; ++block) {
        REQUIRE(bytes_of(world.pool, 8 + block) == before[block]);
    }
    for (const auto& [key, object] : world.server.objects()) {
        REQUIRE(object.size() < world.pool.layout.block_bytes() * 3 / 4 + 80);
    }
    REQUIRE(world.open(8)->found().empty());  // raw
    auto tier = world.open(options);
    REQUIRE(tier->found().size() == 4);
    wipe(world.pool, {BlockId{0}, kBlocks});
    for (const auto& [slot, block] : tier->found()) {
        REQUIRE(tier->load(world.pool.access, std::array{piece(8, slot, 1)}, std::array{block.hash}) == 1u);
        REQUIRE(bytes_of(world.pool, 8) == before[block.hash.low - 1]);
    }
    fill_with_anything(world.pool, {BlockId{0}, 1}, 1);
    const auto refused = tier->save(world.pool.access, std::array{piece(0, 9, 1)}, chain_of(1, 2), std::nullopt);
    REQUIRE(refused.error().code == ErrorCode::resource_exhausted);
    REQUIRE(refused.error().message.find("engine.kv_s3.codec") != std::string::npos);
    REQUIRE(world.server.wrong_signatures() == 0);
}

TEST_CASE("KV is coded where it is back sooner so", "[kv_transfer]") {
    using kv_transfer::coding_pays;
    CHECK(coding_pays({.read = 2e6, .decode = 1.5e9, .share = 0.68, .overlaps = false}));
    CHECK(coding_pays({.read = 5e8, .decode = 1.5e9, .share = 0.68, .overlaps = true}));
    CHECK_FALSE(
        coding_pays({.read = 5e8, .decode = 1.5e9, .share = 0.68, .overlaps = false}));  // 1.36 + 0.67 against 2
    CHECK_FALSE(coding_pays({.read = 3e9, .decode = 1.5e9, .share = 0.68, .overlaps = true}));
    CHECK_FALSE(coding_pays({.read = 2e6, .decode = 1.5e9, .share = 0.95, .overlaps = true}));  // not worth the trouble
}

TEST_CASE("what a disk gives is told by reads at start, by what was kept, then by loads", "[kv_transfer]") {
    using std::chrono::milliseconds;
    using std::chrono::seconds;
    DiskRate rate;
    REQUIRE_FALSE(rate.value());
    REQUIRE_FALSE(rate.take_changed());
    SECTION("nothing was kept") {
        rate.begin(100'000, milliseconds(50), std::nullopt);
        REQUIRE(*rate.value() == 2e6);
    }
    SECTION("what was kept says about the same: it is the better measurement") {
        rate.begin(100'000, milliseconds(50), 6e6);
        REQUIRE(*rate.value() == 6e6);
        REQUIRE_FALSE(rate.take_changed());  // it is kept already
    }
    SECTION("what was kept says something else") {
        rate.begin(100'000, milliseconds(50), GENERATE(1e9, 1e5));
        REQUIRE(*rate.value() == 2e6);
    }
    SECTION("no read came") {
        rate.begin(0, milliseconds(50), 1e9);
        REQUIRE_FALSE(rate.value());
    }
    SECTION("nothing but a load") {
        rate.add(1'000'000, seconds(1), seconds(1), true);
        REQUIRE(*rate.value() == 1e6);
        REQUIRE(rate.take_changed() == 1e6);
        REQUIRE_FALSE(rate.take_changed());
        return;
    }
    if (!rate.value()) { return; }
    rate.add(1'000, seconds(1), seconds(1), true);  // too little to say anything
    REQUIRE(*rate.value() >= 2e6);
    rate.add(10'000'000, seconds(1), seconds(1), true);
    REQUIRE(*rate.value() == 1e7);  // reads at start were a guess
    REQUIRE(rate.take_changed() == 1e7);
    rate.add(20'000'000, seconds(1), milliseconds(500), true);
    REQUIRE(*rate.value() == 1.5e7);
    // Decoding took most of it: the disk gives so much at least.
    rate.add(1'000'000, seconds(1), milliseconds(10), true);
    REQUIRE(*rate.value() == 1.5e7);
    rate.add(40'000'000, seconds(1), milliseconds(10), true);
    REQUIRE(*rate.value() == 4e7);
    // One after the other: the waiting alone was the disk's.
    rate.add(1'000'000, seconds(1), milliseconds(10), false);
    REQUIRE(std::abs(*rate.value() - 7e7) < 1);
}

TEST_CASE("a kept rate that no disk has, or that is damaged, is none", "[kv_transfer]") {
    auto kept = kv_transfer::encode_rate(2e6);
    REQUIRE(kv_transfer::decode_rate(kept) == 2e6);
    for (std::size_t bit = 0; bit < kept.size() * 8; ++bit) {
        kept[bit / 8] ^= std::byte{static_cast<unsigned char>(1u << bit % 8)};
        INFO("bit " << bit);
        REQUIRE_FALSE(kv_transfer::decode_rate(kept));
        kept[bit / 8] ^= std::byte{static_cast<unsigned char>(1u << bit % 8)};
    }
    for (const double wrong : {0.0, -1.0, 1e3, 1e13, std::nan(""), HUGE_VAL}) {
        REQUIRE_FALSE(kv_transfer::decode_rate(kv_transfer::encode_rate(wrong)));
    }
    REQUIRE_FALSE(kv_transfer::decode_rate(std::array<std::byte, kv_transfer::kTierRateBytes>{}));
}

TEST_CASE("a copier gives a load up when its time is over, and says so", "[kv_transfer]") {
    Pool pool(device::host_device(), usual_layout());
    const Folder folder;
    base::FakeClock clock;
    const auto chain = chain_of(2);
    fill_like_kv(pool, {BlockId{0}, 2}, 3);
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<kv_transfer::TierEvent> events;
    const auto wait_for = [&](std::size_t count) {
        std::unique_lock lock(mutex);
        return changed.wait_for(lock, std::chrono::minutes(5), [&] { return events.size() >= count; });
    };
    auto copier =
        kv_transfer::TierCopier::start(
            pool.store, FileTier::open(file_options(folder, pool, 8, TierCoding::exact, true)).value(), 4, clock,
            [&](kv_transfer::TierEvent event) {
                const std::scoped_lock lock(mutex);
                events.push_back(std::move(event));
                changed.notify_all();
            })
            .value();
    kv_transfer::TierJob job;
    job.id = 1;
    job.pieces = {piece(0, 0, 2)};
    job.hashes = chain;
    REQUIRE(copier->submit(job));
    REQUIRE(wait_for(1));
    REQUIRE(events[0].moved > 0);
    REQUIRE(events[0].moved < 2 * pool.layout.block_bytes());
    job.id = 2;
    job.kind = kv_transfer::TierJob::Kind::load;
    job.pieces = {piece(8, 0, 2)};
    job.until = clock.now();
    REQUIRE(copier->submit(job));
    REQUIRE(wait_for(2));
    REQUIRE(events[1].given_up);
    REQUIRE(events[1].blocks_done == 0);
    REQUIRE(events[1].error->code == ErrorCode::cancelled);
    job.id = 3;
    job.until = clock.now() + std::chrono::seconds(1);
    REQUIRE(copier->submit(job));
    REQUIRE(wait_for(3));
    REQUIRE_FALSE(events[2].given_up);
    REQUIRE(events[2].blocks_done == 2);
    REQUIRE(events[2].moved == events[0].moved);
}
