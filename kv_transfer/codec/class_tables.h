#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kv_transfer/codec/rans_kernels.h"

namespace kv_transfer {

inline constexpr std::uint32_t kClasses = 64;

/// Built-in distributions of symbols, by class: part of the format (scripts/make-codec-classes).
struct ClassTables {
    std::array<RansTable, kClasses> tables;
    /// Bits / 256 that a symbol takes: [symbol][class].
    alignas(64) std::array<std::uint16_t, kRansSymbols * kClasses> costs;
};

/// Of numbers around 0 (lane_kernels.h: kSymbolZero).
const ClassTables& signed_classes();
/// Of exponents below the top one.
const ClassTables& exponent_classes();

/// The class that codes these rows of symbols shortest, seen from some 16 of them.
struct ClassChoice {
    std::uint8_t id = 0;
    double bits = 0;  // a symbol
};
ClassChoice choose_class(const ClassTables& classes, std::span<const std::uint8_t> symbols);

}  // namespace kv_transfer
