#include "tests/kv_transfer/chunk_test.h"

#include <algorithm>

#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/rans.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::ChunkCase;
using kv_test::Content;
using kv_test::encode_chunk;
using kv_test::make_chunk_case;

namespace {

constexpr Content kContents[] = {Content::normal, Content::correlated, Content::any_bits, Content::zeros,
                                 Content::outliers};

std::vector<std::byte> decode(const kv_transfer::Codec& codec, const ChunkCase& chunk, std::uint32_t level,
                              const std::vector<std::byte>& payload) {
    std::vector<std::byte> out(chunk.raw.size(), std::byte{0xa5});
    const auto done = codec.decode(chunk.layout, chunk.range, level, payload, out);
    if (!done) { FAIL(done.error().message); }
    return out;
}

bool is_bf16(const ChunkCase& chunk) {
    return chunk.layout.format().dtype == kv_cache::KvDtype::bf16;
}

std::size_t value_count(const ChunkCase& chunk) {
    return chunk.raw.size() / kv_cache::element_bytes(chunk.layout.format().dtype);
}

/// Square of the error over the square of the values.
double relative_error(const ChunkCase& chunk, const std::vector<std::byte>& got) {
    double error = 0;
    double energy = 0;
    for (std::size_t i = 0; i < value_count(chunk); ++i) {
        const auto value = static_cast<double>(kv_test::value_at(chunk.raw, is_bf16(chunk), i));
        const auto other = static_cast<double>(kv_test::value_at(got, is_bf16(chunk), i));
        error += (value - other) * (value - other);
        energy += value * value;
    }
    return energy == 0 ? error : error / energy;
}

double bits_per_value(const ChunkCase& chunk, std::size_t bytes) {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(value_count(chunk));
}

/// A large one: what a frame of a real model is.
ChunkCase large_case(Content content, std::uint32_t tokens, std::uint32_t seed, bool is_bf16_wanted = true) {
    std::mt19937 random{seed};
    std::normal_distribution<float> normal;
    ChunkCase made{kv_test::chunk_layout(4, 3, 64, is_bf16_wanted), {0, 4, 16, 16 + tokens}, {}};
    made.raw.resize(made.layout.wire_bytes(made.range));
    for (std::size_t plane = 0; plane < 24; ++plane) {
        for (std::uint32_t dim = 0; dim < 64; ++dim) {
            float before = normal(random);
            for (std::uint32_t token = 0; token < tokens; ++token) {
                float value = normal(random);
                if (content == Content::correlated) { value = 0.995f * before + 0.1f * value; }
                before = value;
                kv_test::put_value(made.raw, is_bf16_wanted, (plane * tokens + token) * 64 + dim, value);
            }
        }
    }
    return made;
}

}  // namespace

TEST_CASE("exact gives back every bit, whatever the bits are", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto codec = kv_transfer::make_exact_codec(seed);
    for (const Content content : kContents) {
        CAPTURE(static_cast<int>(content));
        const ChunkCase chunk = make_chunk_case(random, content);
        const auto payload = encode_chunk(*codec, chunk, 0);
        REQUIRE(payload.size() <= codec->bound(chunk.raw.size()));
        REQUIRE(decode(*codec, chunk, 0, payload) == chunk.raw);
    }
}

TEST_CASE("exact makes BF16 of a normal distribution 1.3 times smaller, F32 1.1 times", "[kv_transfer]") {
    const auto codec = kv_transfer::make_exact_codec();
    for (const std::uint32_t tokens : {32u, 256u}) {
        const ChunkCase half = large_case(Content::normal, tokens, 1);
        CHECK(bits_per_value(half, encode_chunk(*codec, half, 0).size()) < 16 / 1.3);
        const ChunkCase whole = large_case(Content::normal, tokens, 1, false);
        CHECK(bits_per_value(whole, encode_chunk(*codec, whole, 0).size()) < 32 / 1.1);
    }
}

TEST_CASE("lossy codecs give back numbers near what they got, at every level and shape", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(40)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    for (const Content content : kContents) {
        CAPTURE(static_cast<int>(content));
        const ChunkCase chunk = make_chunk_case(random, content);
        const auto rotary = random() % 2 == 0 ? nullptr : kv_test::make_rotary(chunk.layout.head_dim(), 512);
        const auto profile = random() % 2 == 0 ? nullptr : kv_test::make_profile(chunk.layout, 7, random);
        std::unique_ptr<kv_transfer::Codec> codecs[] = {kv_transfer::make_int8_codec(7),
                                                        kv_transfer::make_cachegen_codec(7),
                                                        kv_transfer::make_sluice_codec(7, rotary, profile)};
        for (const auto& codec : codecs) {
            for (std::uint32_t level = 0; level < 9; ++level) {
                if (!codec->has_level(level)) { continue; }
                CAPTURE(codec->name(), level);
                REQUIRE(codec->is_lossy(level));
                const auto payload = encode_chunk(*codec, chunk, level);
                const auto got = decode(*codec, chunk, level, payload);
                if (content == Content::any_bits) { continue; }
                bool is_finite = true;
                for (std::size_t i = 0; i < value_count(chunk); ++i) {
                    is_finite = is_finite && std::isfinite(kv_test::value_at(got, is_bf16(chunk), i));
                }
                REQUIRE(is_finite);
                // A profile whose steps do not know the values may be coarser than they are.
                if (profile == nullptr || codec->name() != "sluice") { REQUIRE(relative_error(chunk, got) < 1); }
                if (codec->name() == "int8") { REQUIRE(relative_error(chunk, got) < 1e-3); }
            }
        }
    }
}

TEST_CASE("sluice's levels are ordered: fewer bits, larger errors, from near nothing to about a bit", "[kv_transfer]") {
    const ChunkCase chunk = large_case(Content::normal, 256, 3);
    const auto codec = kv_transfer::make_sluice_codec(0, kv_test::make_rotary(64, 512), nullptr);
    double bits_before = 16;
    double error_before = 0;
    for (std::uint32_t level = 0; level < kv_transfer::kSluiceLevels; ++level) {
        CAPTURE(level);
        const auto payload = encode_chunk(*codec, chunk, level);
        const double bits = bits_per_value(chunk, payload.size());
        const double error = relative_error(chunk, decode(*codec, chunk, level, payload));
        CHECK(bits < bits_before);
        CHECK(error > error_before);
        bits_before = bits;
        error_before = error;
        if (level == 0) { CHECK(error < 2e-4); }
    }
    CHECK(bits_before < 1.5);
}

TEST_CASE("sluice sends sinks and the newest, partial block as they are", "[kv_transfer]") {
    const auto rotary = kv_test::make_rotary(64, 512);
    const auto codec = kv_transfer::make_sluice_codec(0, rotary, nullptr);
    ChunkCase chunk = large_case(Content::normal, 37, 4);
    chunk.range.token_begin = 0;
    chunk.range.token_end = 37;
    const auto got = decode(*codec, chunk, 6, encode_chunk(*codec, chunk, 6));
    for (std::size_t plane = 0; plane < 24; ++plane) {
        for (const std::uint32_t token : {0u, 3u, 32u, 36u}) {
            const auto at = static_cast<std::ptrdiff_t>((plane * 37 + token) * 64 * 2);
            REQUIRE(std::equal(chunk.raw.begin() + at, chunk.raw.begin() + at + 128, got.begin() + at));
        }
        const auto coded = static_cast<std::ptrdiff_t>((plane * 37 + 4) * 64 * 2);
        REQUIRE_FALSE(std::equal(chunk.raw.begin() + coded, chunk.raw.begin() + coded + 128, got.begin() + coded));
    }
}

TEST_CASE("keys that turn with their position cost less when they are turned back first", "[kv_transfer]") {
    // Channels whose mean is far larger than what they change: rotation hides that.
    ChunkCase chunk = large_case(Content::normal, 256, 5);
    const auto rotary = kv_test::make_rotary(64, 512);
    std::mt19937 random{6};
    std::normal_distribution<float> normal;
    std::fill(chunk.raw.begin(), chunk.raw.end(), std::byte{0});
    for (std::size_t plane = 0; plane < 24; ++plane) {
        if (plane / 3 % 2 != 0) { continue; }  // values, which do not turn
        for (std::uint32_t token = 0; token < 256; ++token) {
            for (std::uint32_t pair = 0; pair < 32; ++pair) {
                const float a = 8.0f + normal(random) * 0.3f;
                const float b = normal(random) * 0.3f;
                const std::size_t angle = std::size_t{16 + token} * 32 + pair;
                const std::size_t at = (plane * 256 + token) * 64 + pair;
                kv_test::put_value(chunk.raw, true, at, a * rotary->cosines[angle] - b * rotary->sines[angle]);
                kv_test::put_value(chunk.raw, true, at + 32, b * rotary->cosines[angle] + a * rotary->sines[angle]);
            }
        }
    }
    const auto with = kv_transfer::make_sluice_codec(0, rotary, nullptr);
    const auto without = kv_transfer::make_sluice_codec(0, nullptr, nullptr);
    const auto payload_with = encode_chunk(*with, chunk, 4);
    const auto payload_without = encode_chunk(*without, chunk, 0);
    const double error_with = relative_error(chunk, decode(*with, chunk, 4, payload_with));
    const double error_without = relative_error(chunk, decode(*without, chunk, 0, payload_without));
    // At one error: half a bit for every halving of its square.
    const double bits_with = bits_per_value(chunk, payload_with.size()) + 0.5 * std::log2(error_with);
    const double bits_without = bits_per_value(chunk, payload_without.size()) + 0.5 * std::log2(error_without);
    CHECK(bits_with < bits_without - 0.8);
}

TEST_CASE("tokens that follow each other cost cachegen less by their coefficients", "[kv_transfer]") {
    const auto codec = kv_transfer::make_cachegen_codec();
    const ChunkCase alike = large_case(Content::correlated, 250, 8);
    const ChunkCase apart = large_case(Content::normal, 250, 8);
    const double alike_bits = bits_per_value(alike, encode_chunk(*codec, alike, 2).size());
    const double apart_bits = bits_per_value(apart, encode_chunk(*codec, apart, 2).size());
    CHECK(alike_bits < apart_bits - 0.2);
}

TEST_CASE("all families of the codecs' loops do the same to the same values", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto families = kv_transfer::rans_families();
    for (const Content content : kContents) {
        const ChunkCase chunk = make_chunk_case(random, content);
        const bool is_half = is_bf16(chunk);
        const std::uint32_t dim = chunk.layout.head_dim();
        const std::size_t rows = chunk.range.tokens();
        const auto rotary = kv_test::make_rotary(dim, 200);
        std::vector<float> means(dim);
        std::vector<float> scales(dim);
        std::vector<float> row_scales(rows);
        std::normal_distribution<float> normal;
        for (std::uint32_t i = 0; i < dim; ++i) {
            means[i] = normal(random);
            scales[i] = std::exp(normal(random));
        }
        for (float& scale : row_scales) {
            scale = std::exp(normal(random));
        }
        const kv_transfer::HeadRows head{.rows = rows,
                                         .head_dim = dim,
                                         .is_bf16 = is_half,
                                         .cosines = random() % 2 == 0 ? nullptr : rotary->cosines.data(),
                                         .sines = rotary->sines.data(),
                                         .mean = means.data(),
                                         .channel_scale = scales.data(),
                                         .row_scale = random() % 2 == 0 ? nullptr : row_scales.data()};
        const kv_transfer::LaneRows lanes{.rows = rows, .stride = dim, .lanes = std::min(dim, kv_transfer::kLanes)};
        const auto all_of = [&](const kv_transfer::LaneKernels& kernels) {
            struct Results {
                std::vector<std::int16_t> numbers, back;
                std::vector<std::byte> values, joined;
                std::vector<std::uint8_t> tops, distances, rest, symbols;
                std::vector<float> sums, squares;
                bool has_escapes = false;
                float largest = 0;
                bool operator==(const Results&) const = default;
            } results;
            results.numbers.resize(rows * dim);
            kernels.quantise(head, chunk.raw.data(), results.numbers.data());
            results.values.resize(rows * dim * (is_half ? 2 : 4));
            kernels.restore(head, results.numbers.data(), results.values.data());
            results.tops.resize(lanes.lanes);
            kernels.top_exponents(lanes, chunk.raw.data(), is_half, results.tops.data());
            results.distances.resize(rows * kv_transfer::kLanes);
            results.rest.resize(3 * rows * dim);
            kernels.split(lanes, chunk.raw.data(), is_half, results.tops.data(), results.distances.data(),
                          results.rest.data(), rows * dim);
            results.joined.resize(results.values.size());
            kernels.join(lanes, results.distances.data(), results.rest.data(), rows * dim, results.tops.data(), is_half,
                         results.joined.data());
            results.symbols.resize(rows * kv_transfer::kLanes);
            const std::uint32_t shift = rows % 4;
            results.has_escapes = kernels.to_symbols(lanes, results.numbers.data(), shift, results.symbols.data());
            results.back.resize(rows * dim);
            kernels.to_numbers(lanes, results.symbols.data(), shift, results.back.data());
            results.sums.resize(dim);
            results.squares.resize(dim);
            kernels.moments(head, chunk.raw.data(), 1 + rows % 3, results.sums.data(), results.squares.data());
            results.largest = kernels.largest(chunk.raw.data(), rows * dim, is_half);
            return results;
        };
        const auto expected = all_of(kv_transfer::plain_lane_kernels());
        for (const auto family : families) {
            CAPTURE(kv_transfer::name_of(family));
            if (family == kv_transfer::RansFamily::avx2) {
                REQUIRE(all_of(*kv_transfer::avx2_lane_kernels()) == expected);
            }
            if (family == kv_transfer::RansFamily::avx512) {
                REQUIRE(all_of(*kv_transfer::avx512_lane_kernels()) == expected);
            }
        }
    }
}

TEST_CASE("codecs are made by name", "[kv_transfer]") {
    for (const char* name : {"exact", "int8", "cachegen", "sluice"}) {
        const auto codec = kv_transfer::make_codec(name, 1, nullptr, nullptr);
        REQUIRE(codec);
        CHECK((*codec)->name() == name);
    }
    CHECK(kv_transfer::make_codec("zip", 1, nullptr, nullptr).error().message ==
          "no KV codec \"zip\": there are exact, int8, cachegen and sluice");
}
