#include "kv_transfer/codec/class_tables.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/check.h"
#include "kv_transfer/codec/lane_kernels.h"
#include "kv_transfer/codec/rans.h"

namespace kv_transfer {
namespace {

// clang-format off
#include "kv_transfer/codec/class_frequencies.inc"
// clang-format on

constexpr std::size_t kRowsSeen = 16;

std::unique_ptr<const ClassTables> make(const std::uint16_t (&frequencies)[kClasses][kRansSymbols]) {
    auto made = std::make_unique<ClassTables>();
    for (std::uint32_t id = 0; id < kClasses; ++id) {
        RansFrequencies table;
        std::copy(std::begin(frequencies[id]), std::end(frequencies[id]), table.begin());
        const auto done = make_rans_table(table, made->tables[id]);
        CHECK(done, "class " << id << ": " << done.error().message);
        for (std::uint32_t symbol = 0; symbol < kRansSymbols; ++symbol) {
            const double bits = std::log2(static_cast<double>(kRansSlots) / table[symbol]);
            made->costs[symbol * kClasses + id] = static_cast<std::uint16_t>(bits * 256);
        }
    }
    return made;
}

}  // namespace

const ClassTables& signed_classes() {
    static const auto tables = make(kSignedFrequencies);
    return *tables;
}

const ClassTables& exponent_classes() {
    static const auto tables = make(kExponentFrequencies);
    return *tables;
}

ClassChoice choose_class(const ClassTables& classes, std::span<const std::uint8_t> symbols) {
    const std::size_t rows = symbols.size() / kRansLanes;
    const std::size_t step = std::max<std::size_t>(1, rows / kRowsSeen);
    std::uint32_t counts[4][kRansSymbols] = {};
    std::size_t seen = 0;
    for (std::size_t row = 0; row < rows; row += step) {
        const std::uint8_t* from = symbols.data() + row * kRansLanes;
        for (std::uint32_t lane = 0; lane < kRansLanes; lane += 4) {  // four tables: equal neighbours do not wait
            ++counts[0][from[lane]];
            ++counts[1][from[lane + 1]];
            ++counts[2][from[lane + 2]];
            ++counts[3][from[lane + 3]];
        }
        seen += kRansLanes;
    }
    for (std::uint32_t symbol = 0; symbol < kRansSymbols; ++symbol) {
        counts[0][symbol] += counts[1][symbol] + counts[2][symbol] + counts[3][symbol];
    }
    std::uint32_t sums[kClasses] = {};
    lane_kernels().cost(counts[0], classes.costs.data(), sums);
    const auto best = std::min_element(std::begin(sums), std::end(sums));
    return {static_cast<std::uint8_t>(best - std::begin(sums)),
            seen == 0 ? 0.0 : static_cast<double>(*best) / 256 / static_cast<double>(seen)};
}

}  // namespace kv_transfer
