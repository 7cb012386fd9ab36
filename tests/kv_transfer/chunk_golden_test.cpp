// Chunks of version 1 are the same bytes for ever: what another build wrote, on a disk or a wire, is read.
#include <array>

#include "base/crc32c.h"
#include "tests/kv_transfer/chunk_test.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::ChunkCase;
using kv_test::encode_chunk;

namespace {

/// Numbers that do not depend on any library.
class Numbers {
public:
    std::uint32_t next() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<std::uint32_t>(state_ >> 33);
    }

private:
    std::uint64_t state_ = 42;
};

/// Channels of different sizes, some with a mean, and now and then a value far outside.
ChunkCase golden_case(std::uint32_t head_dim, std::uint32_t heads, std::uint32_t token_begin, std::uint32_t tokens,
                      bool is_bf16) {
    Numbers numbers;
    ChunkCase made{kv_test::chunk_layout(3, heads, head_dim, is_bf16), {1, 3, token_begin, token_begin + tokens}, {}};
    made.raw.resize(made.layout.wire_bytes(made.range));
    for (std::size_t head = 0; head < std::size_t{4} * heads; ++head) {
        for (std::uint32_t token = 0; token < tokens; ++token) {
            for (std::uint32_t dim = 0; dim < head_dim; ++dim) {
                const auto around_zero = static_cast<float>(static_cast<std::int32_t>(numbers.next() % 2001) +
                                                            static_cast<std::int32_t>(numbers.next() % 2001) - 2000);
                float value = around_zero * (0.0005f * static_cast<float>(1 + dim % 5));
                if (dim % 7 == 3) { value += 3; }
                if (numbers.next() % 211 == 0) { value *= 64; }
                kv_test::put_value(made.raw, is_bf16, (head * tokens + token) * head_dim + dim, value);
            }
        }
    }
    return made;
}

/// Turns by angles whose sine and cosine are short numbers.
std::shared_ptr<const kv_transfer::RotaryTable> short_rotary(std::uint32_t head_dim, std::uint32_t positions) {
    constexpr std::array<float, 4> kCosines{1, 0.75f, 0, -0.5f};
    constexpr std::array<float, 4> kSines{0, 0.625f, 1, 0.875f};
    auto table = std::make_shared<kv_transfer::RotaryTable>();
    table->head_dim = head_dim;
    table->positions = positions;
    for (std::uint32_t i = 0; i < positions * (head_dim / 2); ++i) {
        table->cosines.push_back(kCosines[i * 7 / 3 % 4]);
        table->sines.push_back(kSines[i * 7 / 3 % 4]);
    }
    return table;
}

struct Golden {
    const char* codec;
    std::uint32_t level;
    std::size_t bytes;
    std::uint32_t crc;
};

void check(const ChunkCase& chunk, std::span<const Golden> expected) {
    const auto rotary = short_rotary(chunk.layout.head_dim(), 512);
    for (const Golden& golden : expected) {
        CAPTURE(golden.codec, golden.level);
        const auto codec = kv_transfer::make_codec(golden.codec, 5, rotary, nullptr).value();
        const auto payload = encode_chunk(*codec, chunk, golden.level);
        CHECK(payload.size() == golden.bytes);
        CHECK(base::crc32c(payload) == golden.crc);
    }
}

}  // namespace

TEST_CASE("chunks of BF16 are the bytes that version 1 says", "[kv_transfer]") {
    constexpr std::array<Golden, 13> kExpected{{{"exact", 0, 157217, 0xd459662c},
                                                {"int8", 0, 118872, 0xc51f2a61},
                                                {"cachegen", 1, 28204, 0x3a34b622},
                                                {"cachegen", 3, 45874, 0x5e539e93},
                                                {"cachegen", 5, 34576, 0x6d20db92},
                                                {"sluice", 0, 83284, 0x8a02a972},
                                                {"sluice", 1, 69508, 0x1c9ccf7c},
                                                {"sluice", 2, 55412, 0x4a5d2fff},
                                                {"sluice", 3, 42510, 0x2f4d6750},
                                                {"sluice", 4, 30924, 0x7959a839},
                                                {"sluice", 5, 23766, 0x0951c652},
                                                {"sluice", 6, 19752, 0xa32e3cec},
                                                {"sluice", 7, 17950, 0xd80cce3e}}};
    check(golden_case(64, 3, 0, 150, true), kExpected);
}

TEST_CASE("chunks of F32 with ragged groups are the bytes that version 1 says", "[kv_transfer]") {
    constexpr std::array<Golden, 7> kExpected{{{"exact", 0, 76374, 0xb94210cc},
                                               {"int8", 0, 24096, 0x575e0f9d},
                                               {"cachegen", 2, 9412, 0xd9bc1285},
                                               {"cachegen", 6, 10142, 0x0aeaf501},
                                               {"sluice", 0, 25986, 0x6d6593d3},
                                               {"sluice", 2, 19646, 0xe03c3b2a},
                                               {"sluice", 5, 12916, 0xd07e5c6a}}};
    check(golden_case(24, 3, 300, 77, false), kExpected);
}
