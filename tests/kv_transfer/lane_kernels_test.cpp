// The loops of the codecs, by hand and by compiler, for each instruction set: bit by bit what the plain ones do.
#include "kv_transfer/codec/lane_kernels.h"

#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kv_transfer/codec/rans.h"
#include "tests/kv_transfer/chunk_test.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::below;
using kv_transfer::HeadRows;
using kv_transfer::kLanes;
using kv_transfer::LaneKernels;
using kv_transfer::LaneRows;

namespace {

struct Family {
    const char* name;
    const LaneKernels* kernels;
};

std::vector<Family> fast_families() {
    std::vector<Family> families;
    for (const auto family : kv_transfer::rans_families()) {
        if (family == kv_transfer::RansFamily::avx2) { families.push_back({"avx2", kv_transfer::avx2_lane_kernels()}); }
        if (family == kv_transfer::RansFamily::avx512) {
            families.push_back({"avx512", kv_transfer::avx512_lane_kernels()});
        }
    }
    return families;
}

float any_value(std::mt19937& random, bool with_extremes) {
    using Limits = std::numeric_limits<float>;
    constexpr float kExtremes[] = {0.0f,
                                   -0.0f,
                                   Limits::infinity(),
                                   -Limits::infinity(),
                                   Limits::quiet_NaN(),
                                   -Limits::quiet_NaN(),
                                   Limits::max(),
                                   Limits::lowest(),
                                   Limits::min(),
                                   Limits::denorm_min(),
                                   0.5f,
                                   1.5f,
                                   2.5f,
                                   32766.5f,
                                   32767.5f,
                                   -32767.5f};
    if (with_extremes && below(random, 4) == 0) { return kExtremes[below(random, std::size(kExtremes))]; }
    std::normal_distribution<float> normal;
    return normal(random) * std::exp(3 * normal(random));
}

/// Bytes behind each buffer that nobody may touch: they are compared, too.
constexpr std::size_t kMargin = 128;

template <class T>
std::vector<T> buffer(std::size_t count) {
    std::vector<T> made(count + kMargin);
    std::memset(static_cast<void*>(made.data()), 0xa5, made.size() * sizeof(T));
    return made;
}

/// The first bytes of `made`, as many as it has.
template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& made) {
    const auto* begin = reinterpret_cast<const std::byte*>(made.data());
    return {begin, begin + made.size() * sizeof(T)};
}

/// Runs `call` with the plain kernels and each fast family; all must give the same bytes.
void compare(const std::function<std::vector<std::byte>(const LaneKernels&)>& call) {
    const auto expected = call(kv_transfer::plain_lane_kernels());
    for (const Family& family : fast_families()) {
        CAPTURE(family.name);
        REQUIRE(call(*family.kernels) == expected);
    }
}

std::vector<std::byte> raw_values(std::mt19937& random, std::size_t count, bool is_bf16, bool with_extremes) {
    std::vector<std::byte> raw(count * (is_bf16 ? 2 : 4));
    for (std::size_t i = 0; i < count; ++i) {
        kv_test::put_value(raw, is_bf16, i, any_value(random, with_extremes));
    }
    if (with_extremes && below(random, 3) == 0) {
        for (std::byte& byte : raw) {
            byte = static_cast<std::byte>(random());
        }
    }
    return raw;
}

}  // namespace

TEST_CASE("values become numbers and numbers values alike in all families", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(200)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    constexpr std::uint32_t kDims[] = {2, 6, 24, 32, 64, 80, 96, 128, 160, 192, 256};
    const std::uint32_t dim = kDims[below(random, std::size(kDims))];
    const std::size_t rows = below(random, 20);
    const bool is_bf16 = below(random, 4) != 0;
    const bool with_extremes = below(random, 2) == 0;
    const bool is_rotated = below(random, 2) == 0;
    const bool has_row_scales = below(random, 2) == 0;
    CAPTURE(dim, rows, is_bf16, with_extremes, is_rotated, has_row_scales);
    const auto raw = raw_values(random, rows * dim, is_bf16, with_extremes);
    const auto rotary = kv_test::make_rotary(dim, 32);
    std::vector<float> means(dim);
    std::vector<float> scales(dim);
    std::vector<float> row_scales(rows);
    for (std::uint32_t i = 0; i < dim; ++i) {
        means[i] = any_value(random, false);
        scales[i] = std::abs(any_value(random, false));
    }
    for (float& scale : row_scales) {
        scale = below(random, 8) == 0 ? 0.0f : std::abs(any_value(random, false));
    }
    const HeadRows head{.rows = rows,
                        .head_dim = dim,
                        .is_bf16 = is_bf16,
                        .cosines = is_rotated ? rotary->cosines.data() : nullptr,
                        .sines = is_rotated ? rotary->sines.data() : nullptr,
                        .mean = means.data(),
                        .channel_scale = scales.data(),
                        .row_scale = has_row_scales ? row_scales.data() : nullptr};
    auto numbers = buffer<std::int16_t>(rows * dim);
    kv_transfer::plain_lane_kernels().quantise(head, raw.data(), numbers.data());
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::int16_t>(rows * dim);
        kernels.quantise(head, raw.data(), made.data());
        return bytes_of(made);
    });
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::byte>(raw.size());
        kernels.restore(head, numbers.data(), made.data());
        return made;
    });
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::int8_t>(rows * dim);
        kernels.to_bytes(numbers.data(), rows * dim, made.data());
        auto back = buffer<std::int16_t>(rows * dim);
        kernels.from_bytes(made.data(), rows * dim, back.data());
        auto both = bytes_of(made);
        const auto more = bytes_of(back);
        both.insert(both.end(), more.begin(), more.end());
        return both;
    });
    compare([&](const LaneKernels& kernels) {
        auto sums = buffer<float>(2 * dim);
        std::fill_n(sums.begin(), 2 * dim, 0.0f);
        kernels.moments(head, raw.data(), 1 + rows % 3, sums.data(), sums.data() + dim);
        return bytes_of(sums);
    });
    if (rows > 1) {
        std::vector<std::uint8_t> sixteenths(dim);
        for (std::uint8_t& one : sixteenths) {
            one = static_cast<std::uint8_t>(below(random, 16));
        }
        const float ratio = std::min(std::abs(any_value(random, false)), 1024.0f);
        compare([&](const LaneKernels& kernels) {
            auto made = buffer<std::int16_t>(2 * dim);
            kernels.subtract_predicted(sixteenths.data(), numbers.data(), ratio, dim, numbers.data() + dim,
                                       made.data());
            kernels.add_predicted(sixteenths.data(), numbers.data(), ratio, dim, made.data(), made.data() + dim);
            REQUIRE(std::equal(made.begin() + dim, made.begin() + 2 * dim, numbers.begin() + dim));
            return bytes_of(made);
        });
        compare([&](const LaneKernels& kernels) {
            auto sums = buffer<float>(3 * dim);
            std::fill_n(sums.begin(), 3 * dim, 0.5f);
            kernels.correlate(numbers.data() + dim, numbers.data(), 1.25f, dim, sums.data(), sums.data() + dim,
                              sums.data() + 2 * dim);
            return bytes_of(sums);
        });
    }
    const float largest = kv_transfer::plain_lane_kernels().largest(raw.data(), rows * dim, is_bf16);
    for (const Family& family : fast_families()) {
        REQUIRE(family.kernels->largest(raw.data(), rows * dim, is_bf16) == largest);
    }
    auto mean = buffer<float>(dim);
    for (float& one : mean) {
        one = static_cast<float>(below(random, 2000)) / 100.0f - 10.0f;
    }
    for (std::uint32_t row = 0; row < rows; ++row) {
        const auto* from = raw.data() + std::size_t{row} * dim * (is_bf16 ? 2 : 4);
        const float rest = kv_transfer::plain_lane_kernels().largest_rest(from, mean.data(), dim, is_bf16);
        REQUIRE(rest < 1e30f);
        for (const Family& family : fast_families()) {
            REQUIRE(family.kernels->largest_rest(from, mean.data(), dim, is_bf16) == rest);
        }
    }
}

TEST_CASE("numbers become symbols and low bits, and come back, alike in all families", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(200)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::uint32_t first_lane = below(random, 3) == 0 ? below(random, kLanes) : 0;
    LaneRows rows{.rows = below(random, 40), .stride = 0, .lanes = 1 + below(random, kLanes - first_lane)};
    if (below(random, 2) == 0) { rows.lanes = kLanes - first_lane; }
    rows.stride = rows.lanes + below(random, 40);
    const std::uint32_t shift = below(random, 4);
    CAPTURE(rows.rows, rows.stride, rows.lanes, first_lane, shift);
    const std::size_t count = rows.rows * rows.stride + kLanes;
    auto numbers = buffer<std::int16_t>(count);
    const bool is_small = below(random, 2) == 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto any = static_cast<std::int16_t>(random());
        numbers[i] = is_small ? static_cast<std::int16_t>(any % 64) : any;
    }
    if (below(random, 4) == 0) { std::fill(numbers.begin(), numbers.end(), std::numeric_limits<std::int16_t>::min()); }

    auto symbols = buffer<std::uint8_t>(rows.rows * kLanes);
    const bool has_escapes =
        kv_transfer::plain_lane_kernels().to_symbols(rows, numbers.data(), shift, symbols.data() + first_lane);
    bool is_escaped = false;
    for (std::size_t row = 0; row < rows.rows; ++row) {
        for (std::uint32_t lane = 0; lane < rows.lanes; ++lane) {
            is_escaped = is_escaped || symbols[row * kLanes + first_lane + lane] == kv_transfer::kEscape;
        }
    }
    REQUIRE(has_escapes == is_escaped);
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::uint8_t>(rows.rows * kLanes);
        const bool has = kernels.to_symbols(rows, numbers.data(), shift, made.data() + first_lane);
        made.push_back(has ? 1 : 0);
        return bytes_of(made);
    });
    std::vector<std::uint32_t> words(rows.rows * shift + kMargin);
    for (std::uint32_t& word : words) {  // lanes of others stay as they are
        word = first_lane == 0 ? 0 : static_cast<std::uint32_t>(random()) & ((1u << first_lane) - 1);
    }
    compare([&](const LaneKernels& kernels) {
        auto made = words;
        kernels.low_words(rows, numbers.data(), first_lane, shift, made.data());
        return bytes_of(made);
    });
    auto low = words;
    kv_transfer::plain_lane_kernels().low_words(rows, numbers.data(), first_lane, shift, low.data());
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::int16_t>(count);
        kernels.to_numbers(rows, symbols.data() + first_lane, shift, made.data());
        kernels.put_low(rows, low.data(), first_lane, shift, made.data());
        return bytes_of(made);
    });
    // What has a symbol comes back whole.
    auto back = buffer<std::int16_t>(count);
    kv_transfer::plain_lane_kernels().to_numbers(rows, symbols.data() + first_lane, shift, back.data());
    kv_transfer::plain_lane_kernels().put_low(rows, low.data(), first_lane, shift, back.data());
    std::uint64_t magnitudes = 0;
    for (std::size_t row = 0; row < rows.rows; ++row) {
        for (std::uint32_t lane = 0; lane < rows.lanes; ++lane) {
            const std::int16_t number = numbers[row * rows.stride + lane];
            magnitudes += static_cast<std::uint64_t>(std::abs(std::int32_t{number}));
            if (symbols[row * kLanes + first_lane + lane] != kv_transfer::kEscape) {
                REQUIRE(back[row * rows.stride + lane] == number);
            }
        }
    }
    REQUIRE(kv_transfer::plain_lane_kernels().magnitudes(rows, numbers.data()) == magnitudes);
    for (const Family& family : fast_families()) {
        REQUIRE(family.kernels->magnitudes(rows, numbers.data()) == magnitudes);
    }
}

TEST_CASE("exponents leave their values and come back alike in all families", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(200)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const bool is_bf16 = below(random, 4) != 0;
    const LaneRows rows{
        .rows = below(random, 40), .stride = kLanes + below(random, 40), .lanes = 1 + below(random, kLanes)};
    CAPTURE(is_bf16, rows.rows, rows.stride, rows.lanes);
    const std::size_t count = rows.rows * rows.stride + kLanes;
    const auto raw = raw_values(random, count, is_bf16, below(random, 2) == 0);
    auto tops = buffer<std::uint8_t>(kLanes);
    kv_transfer::plain_lane_kernels().top_exponents(rows, raw.data(), is_bf16, tops.data());
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::uint8_t>(kLanes);
        kernels.top_exponents(rows, raw.data(), is_bf16, made.data());
        return bytes_of(made);
    });
    if (below(random, 3) == 0) {
        for (std::uint8_t& top : tops) {
            top = static_cast<std::uint8_t>(random());
        }
    }
    auto symbols = buffer<std::uint8_t>(rows.rows * kLanes);
    auto rest = buffer<std::uint8_t>(3 * count);
    kv_transfer::plain_lane_kernels().split(rows, raw.data(), is_bf16, tops.data(), symbols.data(), rest.data(), count);
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::uint8_t>(rows.rows * kLanes);
        auto others = buffer<std::uint8_t>(3 * count);
        kernels.split(rows, raw.data(), is_bf16, tops.data(), made.data(), others.data(), count);
        made.insert(made.end(), others.begin(), others.end());
        return bytes_of(made);
    });
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::byte>(raw.size());
        kernels.join(rows, symbols.data(), rest.data(), count, tops.data(), is_bf16, made.data());
        return made;
    });
}

TEST_CASE("symbols are counted and the cheapest class is found alike in all families", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(100)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::size_t rows = below(random, 40);
    const std::size_t step = 1 + below(random, 4);
    const std::uint32_t symbols_used = 1 + below(random, 32);
    std::vector<std::uint8_t> symbols(rows == 0 ? 0 : ((rows - 1) * step + 1) * kLanes);
    for (std::uint8_t& symbol : symbols) {
        symbol = static_cast<std::uint8_t>(below(random, symbols_used));
    }
    std::vector<std::uint16_t> costs(32 * 64);
    for (std::uint16_t& cost : costs) {
        cost = static_cast<std::uint16_t>(below(random, below(random, 2) == 0 ? 4 : 4000));
    }
    std::vector<std::uint32_t> counts(32);
    kv_transfer::plain_lane_kernels().count(symbols.data(), rows, step, counts.data());
    std::vector<std::uint32_t> expected(32);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
            ++expected[symbols[row * step * kLanes + lane]];
        }
    }
    REQUIRE(counts == expected);
    std::vector<std::uint32_t> escapes;
    const std::size_t some = symbols.empty() ? 0 : below(random, symbols.size() + 1);
    for (std::uint32_t i = 0; i < some; ++i) {
        if (below(random, 5) == 0) { symbols[i] = kv_transfer::kEscape; }
        if (symbols[i] == kv_transfer::kEscape) { escapes.push_back(i); }
    }
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::uint32_t>(some);
        REQUIRE(kernels.find_escapes(symbols.data(), some, made.data()) == escapes.size());
        REQUIRE(std::equal(escapes.begin(), escapes.end(), made.begin()));
        return bytes_of(made);
    });
    compare([&](const LaneKernels& kernels) {
        auto made = buffer<std::uint32_t>(34);
        kernels.count(symbols.data(), rows, step, made.data());
        made[32] = kernels.cheapest(made.data(), costs.data(), &made[33]);
        return bytes_of(made);
    });
}
