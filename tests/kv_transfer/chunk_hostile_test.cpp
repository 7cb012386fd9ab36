#include <algorithm>

#include "base/crc32c.h"
#include "kv_transfer/codec/chunk.h"
#include "tests/kv_transfer/chunk_test.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::ChunkCase;
using kv_test::Content;
using kv_test::encode_chunk;
using kv_test::make_chunk_case;

namespace {

constexpr std::size_t kPayloadCrcAt = 64;
constexpr std::size_t kHeaderCrcAt = 68;

struct AnyCodec {
    std::unique_ptr<kv_transfer::Codec> codec;
    std::uint32_t level = 0;
};

AnyCodec any_codec(std::mt19937& random, const ChunkCase& chunk, std::uint64_t numerics_id) {
    switch (random() % 4) {
        case 0:
            return {kv_transfer::make_exact_codec(numerics_id), 0};
        case 1:
            return {kv_transfer::make_int8_codec(numerics_id), 0};
        case 2:
            return {kv_transfer::make_cachegen_codec(numerics_id), 1 + static_cast<std::uint32_t>(random() % 6)};
        default:
            return {kv_transfer::make_sluice_codec(
                        numerics_id, random() % 2 == 0 ? nullptr : kv_test::make_rotary(chunk.layout.head_dim(), 512),
                        random() % 2 == 0 ? nullptr : kv_test::make_profile(chunk.layout, numerics_id, random)),
                    static_cast<std::uint32_t>(random() % kv_transfer::kSluiceLevels)};
    }
}

void put_crc(std::vector<std::byte>& chunk, std::size_t at, std::span<const std::byte> of) {
    const std::uint32_t crc = base::crc32c(of);
    std::memcpy(chunk.data() + at, &crc, sizeof crc);
}

/// Makes both checksums right, so that what is behind them is reached.
void seal(std::vector<std::byte>& chunk) {
    if (chunk.size() < kv_transfer::kChunkHeaderBytes) { return; }
    put_crc(chunk, kPayloadCrcAt, std::span(chunk).subspan(kv_transfer::kChunkHeaderBytes));
    put_crc(chunk, kHeaderCrcAt, std::span(chunk).first(kHeaderCrcAt));
}

/// Guarded by its size only: a write behind it is seen by the sanitizers, one into the margin here.
base::Result<void> decode(const AnyCodec& any, const ChunkCase& chunk, const std::vector<std::byte>& payload) {
    constexpr std::size_t kMargin = 64;
    std::vector<std::byte> out(chunk.raw.size() + kMargin, std::byte{0x5a});
    const auto done =
        any.codec->decode(chunk.layout, chunk.range, any.level, payload, std::span(out).first(chunk.raw.size()));
    REQUIRE(std::all_of(out.end() - kMargin, out.end(), [](std::byte byte) { return byte == std::byte{0x5a}; }));
    return done;
}

}  // namespace

TEST_CASE("a chunk with a flipped bit, or cut, or longer, is refused by its checksums", "[kv_transfer][fuzz]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(200)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const ChunkCase chunk = make_chunk_case(random, static_cast<Content>(random() % 5));
    const AnyCodec any = any_codec(random, chunk, 9);
    const auto payload = encode_chunk(*any.codec, chunk, any.level);
    REQUIRE(decode(any, chunk, payload));
    for (int i = 0; i < 20; ++i) {
        auto damaged = payload;
        switch (random() % 3) {
            case 0:
                damaged[random() % damaged.size()] ^= static_cast<std::byte>(1u << random() % 8);
                break;
            case 1:
                damaged.resize(random() % damaged.size());
                break;
            default:
                damaged.resize(damaged.size() + 1 + random() % 100);
                break;
        }
        const auto done = decode(any, chunk, damaged);
        REQUIRE(!done);
        REQUIRE(done.error().code == base::ErrorCode::data_loss);
    }
}

TEST_CASE("a chunk whose checksums were made right around damage never writes outside, and is refused or decodes",
          "[kv_transfer][fuzz]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(300)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const ChunkCase chunk = make_chunk_case(random, static_cast<Content>(random() % 5));
    const AnyCodec any = any_codec(random, chunk, 9);
    const auto payload = encode_chunk(*any.codec, chunk, any.level);
    for (int i = 0; i < 20; ++i) {
        auto damaged = payload;
        for (unsigned changes = 1 + random() % 4; changes > 0; --changes) {
            // As often in the header and behind it as in all the rest.
            const std::size_t within = random() % 2 == 0 ? std::min<std::size_t>(damaged.size(), 140) : damaged.size();
            if (within == 0) { break; }
            switch (random() % 5) {
                case 0:
                    damaged[random() % within] ^= static_cast<std::byte>(1u << random() % 8);
                    break;
                case 1:
                    damaged[random() % within] = static_cast<std::byte>(random());
                    break;
                case 2:
                    damaged[random() % within] = std::byte{0xff};
                    break;
                case 3:
                    damaged.resize(random() % damaged.size() + 1);
                    break;
                default:
                    damaged.insert(damaged.begin() + static_cast<std::ptrdiff_t>(random() % within),
                                   static_cast<std::byte>(random()));
                    break;
            }
        }
        seal(damaged);
        const auto done = decode(any, chunk, damaged);
        if (!done) { REQUIRE(done.error().code == base::ErrorCode::data_loss); }
    }
}

TEST_CASE("bytes that are no chunk are refused, with what is wrong", "[kv_transfer]") {
    std::mt19937 random{5};
    const ChunkCase chunk{
        kv_test::chunk_layout(2, 2, 64, true), {0, 2, 0, 32}, std::vector<std::byte>(2 * 2 * 2 * 32 * 64 * 2)};
    const AnyCodec any{kv_transfer::make_exact_codec(9), 0};
    const auto payload = encode_chunk(*any.codec, chunk, 0);
    const auto message_of = [&](auto change) {
        auto damaged = payload;
        change(damaged);
        seal(damaged);
        const auto done = decode(any, chunk, damaged);
        return done ? std::string("taken") : done.error().message;
    };
    const auto at = [](std::size_t index, auto value) {
        return [=](std::vector<std::byte>& bytes) { std::memcpy(bytes.data() + index, &value, sizeof value); };
    };
    CHECK(message_of([](auto& bytes) { bytes.clear(); }) == "KV chunk: 0 bytes, a header has 72");
    CHECK(message_of(at(0, std::uint8_t{1})) == "KV chunk: not one: it begins with other bytes");
    CHECK(message_of(at(4, std::uint8_t{2})) == "KV chunk: version 2, expected 1");
    CHECK(message_of(at(5, std::uint8_t{4})) == "KV chunk: codec 4, expected 1");
    CHECK(message_of(at(6, std::uint8_t{1})) == "KV chunk: level 1, expected 0");
    CHECK(message_of(at(7, std::uint8_t{0})) == "KV chunk: dtype 0, expected 1");
    CHECK(message_of(at(8, std::uint64_t{77})) == "KV chunk: numerics id 77, expected 9");
    CHECK(message_of(at(20, std::uint32_t{1})) ==
          "KV chunk: layers [0, 1) of tokens [0, 32), expected layers [0, 2) of tokens [0, 32)");
    CHECK(message_of(at(28, std::uint32_t{0xffffffff})) ==
          "KV chunk: layers [0, 2) of tokens [0, 4294967295), expected layers [0, 2) of tokens [0, 32)");
    CHECK(message_of(at(32, std::uint32_t{1})) == "KV chunk: kv heads 1, expected 2");
    CHECK(message_of(at(36, std::uint32_t{1u << 30})) == "KV chunk: head dim 1073741824, expected 64");
    CHECK(message_of(at(40, std::uint32_t{0xffffffff})) == "KV chunk: shorter than the lengths in its header");
    CHECK(message_of(at(52, std::uint32_t{0})) == "KV chunk: longer than the lengths in its header");
    CHECK(message_of(at(56, std::uint8_t{3})) == "KV chunk: groups of states 3, expected 1");
    CHECK(message_of(at(57, std::uint8_t{33})) == "KV chunk: raw tokens 33, expected 32");
    // A bomb: a few bytes that claim to be all of it.
    CHECK(message_of([&](auto& bytes) {
              bytes.resize(kv_transfer::kChunkHeaderBytes);
              for (std::size_t field = 40; field < 56; field += 4) {
                  at(field, std::uint32_t{0})(bytes);
              }
          }) == "KV chunk: mantissas of another size");
}

TEST_CASE("a chunk of another model, profile or range is refused", "[kv_transfer]") {
    std::mt19937 random{6};
    ChunkCase chunk{kv_test::chunk_layout(2, 2, 64, true), {0, 2, 16, 80}, {}};
    std::normal_distribution<float> normal;
    chunk.raw.resize(chunk.layout.wire_bytes(chunk.range));
    for (std::size_t i = 0; i < chunk.raw.size() / 2; ++i) {
        kv_test::put_value(chunk.raw, true, i, normal(random));
    }
    const auto profile = kv_test::make_profile(chunk.layout, 9, random);
    const auto other = kv_test::make_profile(chunk.layout, 9, random);
    const AnyCodec with{kv_transfer::make_sluice_codec(9, nullptr, profile), 3};
    const auto payload = encode_chunk(*with.codec, chunk, 3);
    REQUIRE(decode(with, chunk, payload));
    CHECK(decode({kv_transfer::make_sluice_codec(9, nullptr, other), 3}, chunk, payload).error().message ==
          "KV chunk: coded with another profile than the one here");
    CHECK(decode({kv_transfer::make_sluice_codec(9, nullptr, nullptr), 3}, chunk, payload).error().message ==
          "KV chunk: coded with a profile, and none of this model is here");
    CHECK(!decode({kv_transfer::make_sluice_codec(10, nullptr, profile), 3}, chunk, payload));
    CHECK(!decode({kv_transfer::make_sluice_codec(9, nullptr, profile), 2}, chunk, payload));
    CHECK(!decode({kv_transfer::make_cachegen_codec(9), 3}, chunk, payload));
    ChunkCase moved = chunk;
    moved.range.token_begin += 16;
    moved.range.token_end += 16;
    CHECK(!decode(with, moved, payload));

    const auto rotary = kv_test::make_rotary(chunk.layout.head_dim(), 512);
    const AnyCodec turned{kv_transfer::make_sluice_codec(9, rotary, nullptr), 3};
    CHECK(decode({kv_transfer::make_sluice_codec(9, nullptr, nullptr), 3}, chunk, encode_chunk(*turned.codec, chunk, 3))
              .error()
              .message == "KV chunk: keys before their rotation, and no angles here");
}

TEST_CASE("a profile survives its file; one that is cut, changed or of another model is refused", "[kv_transfer]") {
    std::mt19937 random{7};
    const auto layout = kv_test::chunk_layout(3, 2, 16, true);
    const auto profile = kv_test::make_profile(layout, 9, random);
    const auto bytes = kv_transfer::profile_bytes(*profile);
    const auto back = kv_transfer::profile_from_bytes(bytes);
    REQUIRE(back);
    CHECK(back->means == profile->means);
    CHECK(back->steps == profile->steps);
    CHECK(back->id() == profile->id());
    CHECK(back->id() != kv_test::make_profile(layout, 9, random)->id());
    CHECK(back->fits(layout, 9));
    CHECK(back->fits(layout, 8).error().code == base::ErrorCode::failed_precondition);
    CHECK(!back->fits(kv_test::chunk_layout(3, 2, 8, true), 9));
    for (unsigned i = 0; i < 500; ++i) {
        auto damaged = bytes;
        if (i % 2 == 0) {
            damaged[random() % damaged.size()] ^= static_cast<std::byte>(1u << random() % 8);
        } else {
            damaged.resize(random() % damaged.size());
        }
        REQUIRE(!kv_transfer::profile_from_bytes(damaged));
    }
}
