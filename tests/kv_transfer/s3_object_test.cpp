// What an object that holds a block is made of: only what was sealed opens, and nobody reads it without the key.
#include "kv_transfer/tier/s3_object.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "tests/support/catch.h"

using base::BlockHash;
using base::ErrorCode;
using base::HashKey;
using kv_transfer::S3Sealer;

namespace {

constexpr std::size_t kBlockBytes = 1000;
constexpr BlockHash kName{0x0123456789abcdef, 42};
constexpr HashKey kKey{{std::byte{7}}};
const std::vector<std::byte> kBlock(kBlockBytes, std::byte{0x5a});

std::vector<std::byte> sealed(const S3Sealer& sealer) {
    std::vector<std::byte> object(sealer.object_bytes());
    std::copy(kBlock.begin(), kBlock.end(), sealer.block_in(object).begin());
    sealer.seal(object, kName);
    return object;
}

base::Result<std::size_t> open(const S3Sealer& sealer, const std::vector<std::byte>& object,
                               const BlockHash& name = kName) {
    std::vector<std::byte> block(kBlockBytes);
    auto opened = sealer.open(object, name, block);
    if (opened) { REQUIRE(block == kBlock); }
    return opened;
}

}  // namespace

TEST_CASE("a block that was sealed opens, and does not lie there in the clear", "[kv_transfer]") {
    const S3Sealer sealer(kKey, 7, "f32/lanes", kBlockBytes);
    const auto object = sealed(sealer);
    REQUIRE(open(sealer, object));
    REQUIRE(open(S3Sealer(kKey, 7, "f32/lanes", kBlockBytes), object));  // of another process
    const auto run = std::search_n(object.begin(), object.end(), 8, std::byte{0x5a});
    REQUIRE(run == object.end());
    REQUIRE(sealed(sealer) != object);  // a nonce of its own
}

TEST_CASE("an object of which any bit is another one does not open", "[kv_transfer]") {
    const S3Sealer sealer(kKey, 7, "f32/lanes", kBlockBytes);
    auto object = sealed(sealer);
    for (std::size_t bit = 0; bit < object.size() * 8; ++bit) {
        const std::byte flipped{static_cast<unsigned char>(1u << bit % 8)};
        object[bit / 8] ^= flipped;
        INFO("bit " << bit);
        const auto opened = open(sealer, object);
        REQUIRE_FALSE(opened);
        REQUIRE(opened.error().code == ErrorCode::data_loss);
        object[bit / 8] ^= flipped;
    }
    REQUIRE(open(sealer, object));
}

TEST_CASE("an object of another key, model, layout, block or version does not open", "[kv_transfer]") {
    const S3Sealer sealer(kKey, 7, "f32/lanes", kBlockBytes);
    auto object = sealed(sealer);
    REQUIRE_FALSE(open(S3Sealer({{std::byte{8}}}, 7, "f32/lanes", kBlockBytes), object));
    REQUIRE_FALSE(open(S3Sealer(kKey, 8, "f32/lanes", kBlockBytes), object));
    REQUIRE_FALSE(open(S3Sealer(kKey, 7, "bf16/lanes", kBlockBytes), object));
    REQUIRE_FALSE(open(sealer, object, {kName.high, kName.low + 1}));
    auto longer = object;
    longer.push_back(std::byte{0});
    REQUIRE_FALSE(open(sealer, longer));
    const std::vector<std::byte> shorter(object.begin(), object.end() - 1);
    REQUIRE_FALSE(open(sealer, shorter));
    REQUIRE_FALSE(open(sealer, {}));
    object[8] = std::byte{S3Sealer::kFormat + 1};
    REQUIRE(open(sealer, object).error().message.find("another version") != std::string::npos);
}
