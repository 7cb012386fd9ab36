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
    const std::size_t rows_seen = (rows + step - 1) / step;
    std::uint32_t counts[kRansSymbols];
    lane_kernels().count(symbols.data(), rows_seen, step, counts);
    std::uint32_t sum = 0;
    const std::uint32_t id = lane_kernels().cheapest(counts, classes.costs.data(), &sum);
    return {static_cast<std::uint8_t>(id),
            rows == 0 ? 0.0 : static_cast<double>(sum) / 256 / static_cast<double>(rows_seen * kRansLanes)};
}

}  // namespace kv_transfer
