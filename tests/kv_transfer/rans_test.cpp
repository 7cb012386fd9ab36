#include "kv_transfer/codec/rans.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kv_transfer/codec/class_tables.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_transfer::kRansLanes;
using kv_transfer::kRansSlots;
using kv_transfer::kRansSymbols;
using kv_transfer::RansFrequencies;
using kv_transfer::RansRun;
using kv_transfer::RansTable;

namespace {

RansFrequencies random_frequencies(std::mt19937& random) {
    RansFrequencies frequencies;
    frequencies.fill(1);
    std::uint32_t left = kRansSlots - kRansSymbols;
    const bool is_peaked = random() % 2 == 0;
    for (std::uint32_t symbol = 0; symbol + 1 < kRansSymbols; ++symbol) {
        const auto taken = static_cast<std::uint32_t>(random() % (is_peaked ? left + 1 : std::max(1u, left / 8)));
        frequencies[symbol] = static_cast<std::uint16_t>(1 + taken);
        left -= taken;
    }
    frequencies[kRansSymbols - 1] = static_cast<std::uint16_t>(1 + left);
    std::shuffle(frequencies.begin(), frequencies.end(), random);
    return frequencies;
}

/// Some tables, runs of them, and symbols that follow them, or do not.
struct Case {
    std::vector<std::unique_ptr<RansTable>> tables;
    std::vector<RansRun> runs;
    std::vector<std::uint8_t> symbols;
    std::uint32_t groups = 1;

    explicit Case(std::mt19937& random) {
        groups = 1u << random() % 3;
        for (unsigned i = 0; i < 1 + random() % 3; ++i) {
            tables.push_back(std::make_unique<RansTable>());
            REQUIRE(kv_transfer::make_rans_table(random_frequencies(random), *tables.back()));
        }
        const bool fits = random() % 4 != 0;
        for (unsigned i = 0; i < random() % 6; ++i) {
            const RansTable& table = *tables[random() % tables.size()];
            const std::size_t rows = random() % (random() % 3 == 0 ? 100 : 7);
            runs.push_back({&table, rows});
            for (std::size_t at = 0; at < rows * kRansLanes; ++at) {
                const std::size_t slot = random() % kRansSlots;
                symbols.push_back(static_cast<std::uint8_t>(fits ? table.slots[slot] & 31 : random() % kRansSymbols));
            }
        }
    }
    std::size_t rows() const { return symbols.size() / kRansLanes; }
    std::vector<std::byte> encode(kv_transfer::RansFamily family) const {
        std::vector<std::byte> out(kv_transfer::rans_bound(rows(), groups));
        const auto stream = kv_transfer::rans_encode(kv_transfer::rans_kernels(family), runs, symbols, groups, out);
        return {stream.begin(), stream.end()};
    }
};

}  // namespace

TEST_CASE("every family of rANS makes the same bytes and reads them back", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(400)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const Case made(random);
    const auto expected = made.encode(kv_transfer::RansFamily::plain);
    for (const auto family : kv_transfer::rans_families()) {
        CAPTURE(kv_transfer::name_of(family));
        REQUIRE(made.encode(family) == expected);
        // At an odd address, with nothing behind it that may be read.
        std::vector<std::byte> moved(1 + expected.size());
        std::copy(expected.begin(), expected.end(), moved.begin() + 1);
        std::vector<std::uint8_t> symbols(made.symbols.size());
        REQUIRE(kv_transfer::rans_decode(kv_transfer::rans_kernels(family), made.runs, std::span(moved).subspan(1),
                                         made.groups, symbols));
        REQUIRE(symbols == made.symbols);
    }
}

TEST_CASE("a rANS stream that is cut, longer or changed is refused, by all families alike", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(400)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const Case made(random);
    auto stream = made.encode(kv_transfer::RansFamily::plain);
    const auto whole = stream;
    switch (random() % 4) {
        case 0:
            stream.resize(random() % stream.size());
            break;
        case 1:
            stream.resize(stream.size() + 1 + random() % 4);
            break;
        case 2:
            stream[random() % stream.size()] ^= static_cast<std::byte>(1u << random() % 8);
            break;
        default:
            for (std::byte& byte : stream) {
                byte = static_cast<std::byte>(random());
            }
            break;
    }
    std::vector<std::uint8_t> expected(made.symbols.size());
    const auto plain = kv_transfer::rans_decode(kv_transfer::rans_kernels(kv_transfer::RansFamily::plain), made.runs,
                                                stream, made.groups, expected);
    // One flipped bit always shows: decoding is one to one between streams and (symbols, end).
    if (stream != whole) { CHECK((!plain || expected != made.symbols)); }
    for (const auto family : kv_transfer::rans_families()) {
        CAPTURE(kv_transfer::name_of(family));
        std::vector<std::uint8_t> symbols(made.symbols.size());
        const auto done =
            kv_transfer::rans_decode(kv_transfer::rans_kernels(family), made.runs, stream, made.groups, symbols);
        REQUIRE(done.has_value() == plain.has_value());
        REQUIRE(std::all_of(symbols.begin(), symbols.end(), [](std::uint8_t symbol) { return symbol < kRansSymbols; }));
        if (done) {
            REQUIRE(symbols == expected);
        } else {
            REQUIRE(done.error().code == base::ErrorCode::data_loss);
            REQUIRE(done.error().message == plain.error().message);
        }
    }
}

TEST_CASE("rANS takes what the entropy of its table says", "[kv_transfer]") {
    std::mt19937 random{1};
    for (const std::uint32_t id : {0u, 10u, 20u, 40u, 60u}) {
        CAPTURE(id);
        const RansTable& table = kv_transfer::signed_classes().tables[id];
        double entropy = 0;
        for (const std::uint16_t frequency : table.frequency) {
            const double p = frequency / static_cast<double>(kRansSlots);
            entropy -= p * std::log2(p);
        }
        const std::size_t rows = 4000;
        std::vector<std::uint8_t> symbols(rows * kRansLanes);
        for (std::uint8_t& symbol : symbols) {
            symbol = static_cast<std::uint8_t>(table.slots[random() % kRansSlots] & 31);
        }
        const RansRun run{&table, rows};
        std::vector<std::byte> out(kv_transfer::rans_bound(rows, 4));
        const auto stream = kv_transfer::rans_encode(kv_transfer::rans_kernels(), {&run, 1}, symbols, 4, out);
        const double bits = 8.0 * static_cast<double>(stream.size()) / static_cast<double>(symbols.size());
        CHECK(bits > entropy * 0.98);
        CHECK(bits < entropy * 1.02 + 0.04);
    }
}

TEST_CASE("frequencies that are no table are refused", "[kv_transfer]") {
    RansTable table;
    RansFrequencies frequencies;
    frequencies.fill(kRansSlots / kRansSymbols);
    REQUIRE(kv_transfer::make_rans_table(frequencies, table));
    frequencies[3] -= 1;
    CHECK(kv_transfer::make_rans_table(frequencies, table).error().message ==
          "rANS: frequencies add up to 4095, not 4096");
    frequencies[3] = 0;
    CHECK(kv_transfer::make_rans_table(frequencies, table).error().message == "rANS: a frequency is 0");
}

TEST_CASE("the class that is chosen for symbols is the one they were drawn from, or as good", "[kv_transfer]") {
    std::mt19937 random{2};
    for (const auto* classes : {&kv_transfer::signed_classes(), &kv_transfer::exponent_classes()}) {
        for (std::uint32_t id = 0; id < kv_transfer::kClasses; ++id) {
            std::vector<std::uint8_t> symbols(256 * kRansLanes);
            double own = 0;
            for (std::uint8_t& symbol : symbols) {
                symbol = static_cast<std::uint8_t>(classes->tables[id].slots[random() % kRansSlots] & 31);
            }
            std::size_t seen = 0;
            for (std::size_t row = 0; row < 256; row += 16) {
                for (std::size_t lane = 0; lane < kRansLanes; ++lane, ++seen) {
                    own += classes->costs[symbols[row * kRansLanes + lane] * kv_transfer::kClasses + id] / 256.0;
                }
            }
            const auto choice = kv_transfer::choose_class(*classes, symbols);
            CHECK(choice.bits <= own / static_cast<double>(seen) + 1e-9);
        }
    }
}
