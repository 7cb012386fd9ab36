// The levels of cachegen whose channels are sorted: what makes them smaller than the released ones.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kv_transfer/codec/number_coder.h"
#include "tests/kv_transfer/chunk_test.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::ChunkCase;
using kv_test::encode_chunk;

namespace {

constexpr std::uint32_t kHeads = 3;
constexpr std::uint32_t kDim = 64;
constexpr std::uint32_t kPlanes = 4;
constexpr std::uint32_t kSorted = 5;  // a level in the middle

struct ChannelShape {
    float deviation = 1;
    float mean = 0;
};

/// BF16, 2 layers; `shape_of(channel)` the same in each plane.
template <class Shape>
ChunkCase make_case(std::uint32_t token_begin, std::uint32_t tokens, const Shape& shape_of) {
    ChunkCase made{kv_test::chunk_layout(2, kHeads, kDim, true), {0, 2, token_begin, token_begin + tokens}, {}};
    made.raw.resize(made.layout.wire_bytes(made.range));
    std::mt19937 random{11};
    std::normal_distribution<float> normal;
    for (std::uint32_t plane = 0; plane < kPlanes; ++plane) {
        for (std::uint32_t channel = 0; channel < kHeads * kDim; ++channel) {
            const ChannelShape shape = shape_of(channel);
            for (std::uint32_t token = 0; token < tokens; ++token) {
                const std::size_t at =
                    ((std::size_t{plane} * kHeads + channel / kDim) * tokens + token) * kDim + channel % kDim;
                kv_test::put_value(made.raw, true, at, shape.mean + shape.deviation * normal(random));
            }
        }
    }
    return made;
}

std::vector<std::byte> decode(const kv_transfer::Codec& codec, const ChunkCase& chunk, std::uint32_t level) {
    std::vector<std::byte> out(chunk.raw.size());
    const auto done = codec.decode(chunk.layout, chunk.range, level, encode_chunk(codec, chunk, level), out);
    if (!done) { FAIL(done.error().message); }
    return out;
}

double bits_of(const kv_transfer::Codec& codec, const ChunkCase& chunk, std::uint32_t level) {
    return 16.0 * static_cast<double>(encode_chunk(codec, chunk, level).size()) / static_cast<double>(chunk.raw.size());
}

}  // namespace

TEST_CASE("channels are ordered by what is said of each: a permutation, whatever that is", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, 30u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::vector<std::uint8_t> kinds(1 + random() % 200);
    for (std::uint8_t& kind : kinds) {
        kind = static_cast<std::uint8_t>(random() % 16);
    }
    std::vector<std::uint32_t> order{7};
    kv_transfer::order_channels(kinds, 16, order);
    std::vector<std::uint32_t> expected(kinds.size());
    std::iota(expected.begin(), expected.end(), 0u);
    std::stable_sort(expected.begin(), expected.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return kinds[a] < kinds[b]; });
    CHECK(order == expected);
}

TEST_CASE("where channels lie does not matter to a sorted level, and costs a released one", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    const auto mixed = make_case(
        256, 256, [](std::uint32_t channel) { return ChannelShape{.deviation = channel % 2 == 0 ? 1.0f : 0.0625f}; });
    const auto apart = make_case(256, 256, [](std::uint32_t channel) {
        return ChannelShape{.deviation = channel < kHeads * kDim / 2 ? 1.0f : 0.0625f};
    });
    const double sorted = bits_of(*codec, mixed, kSorted);
    CHECK(sorted < 1.03 * bits_of(*codec, apart, kSorted));
    CHECK(bits_of(*codec, mixed, 3) > 1.1 * bits_of(*codec, apart, 3));
    // Chunks of a few tokens do not say how their channels are spread.
    const auto few = make_case(
        256, 16, [](std::uint32_t channel) { return ChannelShape{.deviation = channel % 2 == 0 ? 1.0f : 0.0625f}; });
    CHECK(bits_of(*codec, few, kSorted) < 16);
}

TEST_CASE("the mean of a channel costs a sorted level next to nothing", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    const auto shape_of = [](bool has_means) {
        return [has_means](std::uint32_t channel) {
            return ChannelShape{.deviation = 0.5f, .mean = has_means && channel % 3 == 0 ? 2.5f : 0.0f};
        };
    };
    const auto with = make_case(256, 256, shape_of(true));
    // The scale of a token is that of its largest value: with means the steps are as large as without times that.
    const auto large = make_case(256, 256, [](std::uint32_t channel) {
        return channel == 0 ? ChannelShape{.deviation = 0.01f, .mean = 4.0f} : ChannelShape{.deviation = 0.5f};
    });
    CHECK(bits_of(*codec, with, kSorted) < bits_of(*codec, large, kSorted) + 0.15);
    CHECK(bits_of(*codec, with, 3) > bits_of(*codec, large, 3) + 0.3);
}

TEST_CASE("a bias of many times what else is in the keys leaves the rest its steps", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    const auto with_bias = [](float bias) {
        return make_case(256, 256, [bias](std::uint32_t channel) {
            return ChannelShape{.deviation = 0.5f, .mean = channel % 3 == 0 ? bias : 0.0f};
        });
    };
    const auto noise = [&](const ChunkCase& chunk, std::uint32_t level) {  // of channels without a bias
        const auto got = decode(*codec, chunk, level);
        double squares = 0;
        std::size_t count = 0;
        for (std::size_t at = 0; at < got.size() / 2; ++at) {
            const std::size_t channel = at / (256 * kDim) % kHeads * kDim + at % kDim;
            if (channel % 3 == 0) { continue; }
            const auto off = static_cast<double>(kv_test::value_at(got, true, at)) -
                             static_cast<double>(kv_test::value_at(chunk.raw, true, at));
            squares += off * off;
            ++count;
        }
        return std::sqrt(squares / static_cast<double>(count));
    };
    const ChunkCase biased = with_bias(25.0f);
    for (const std::uint32_t level : {4u, 5u, 6u}) {
        CAPTURE(level);
        // As little is lost as if the largest value were less than three times what is left without the bias.
        CHECK(noise(biased, level) < 1.25 * noise(with_bias(2.5f), level));
        CHECK(bits_of(*codec, biased, level) < bits_of(*codec, with_bias(2.5f), level) + 0.3);
    }
    CHECK(noise(biased, 3) > 0.4);  // a released level has nothing left of them
}

TEST_CASE("the first tokens of a sequence travel as they are at sorted levels", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    const std::uint32_t begin = GENERATE(0u, 2u, 16u);
    const std::uint32_t tokens = GENERATE(1u, 3u, 70u);
    CAPTURE(begin, tokens);
    const auto chunk = make_case(begin, tokens, [](std::uint32_t) { return ChannelShape{}; });
    for (const std::uint32_t level : {3u, 4u, 6u}) {
        const auto got = decode(*codec, chunk, level);
        std::uint32_t raw = 0;
        for (std::uint32_t token = 0; token < tokens; ++token) {
            bool is_same = true;
            for (std::uint32_t head = 0; head < kPlanes * kHeads; ++head) {
                const auto at = static_cast<std::ptrdiff_t>((head * tokens + token) * kDim * 2);
                is_same =
                    is_same && std::equal(chunk.raw.begin() + at, chunk.raw.begin() + at + kDim * 2, got.begin() + at);
            }
            if (is_same) { ++raw; }
        }
        const std::uint32_t expected = level <= 3 || begin >= 4 ? 0 : std::min(tokens, 4 - begin);
        CAPTURE(level);
        CHECK(raw == expected);
    }
}

TEST_CASE("a token of zeros comes back as zeros beside channels with means", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    ChunkCase chunk = make_case(256, 128, [](std::uint32_t) { return ChannelShape{.deviation = 0.1f, .mean = 5.0f}; });
    constexpr std::uint32_t kToken = 77;
    for (std::uint32_t head = 0; head < kPlanes * kHeads; ++head) {
        for (std::uint32_t dim = 0; dim < kDim; ++dim) {
            kv_test::put_value(chunk.raw, true, (std::size_t{head} * 128 + kToken) * kDim + dim, 0);
        }
    }
    const auto got = decode(*codec, chunk, kSorted);
    for (std::uint32_t head = 0; head < kPlanes * kHeads; ++head) {
        for (std::uint32_t dim = 0; dim < kDim; ++dim) {
            REQUIRE(kv_test::value_at(got, true, (std::size_t{head} * 128 + kToken) * kDim + dim) == 0);
        }
    }
}

TEST_CASE("a sorted level is refused by who expects a released one, by its level", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    const auto chunk = make_case(0, 64, [](std::uint32_t) { return ChannelShape{}; });
    for (const std::uint32_t level : {1u, 2u, 3u}) {
        std::vector<std::byte> out(chunk.raw.size());
        const auto done = codec->decode(chunk.layout, chunk.range, level, encode_chunk(*codec, chunk, 4), out);
        REQUIRE(!done);
        CHECK(done.error().message == "KV chunk: level 4, expected " + std::to_string(level));
    }
}
