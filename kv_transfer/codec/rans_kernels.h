#pragma once

#include <cstddef>
#include <cstdint>

namespace kv_transfer {

/// The entropy stage for one instruction set: plain functions over plain data, so that files compiled for an
/// instruction set share no inline function with the rest (as engine/kernels/cpu/kernel_table.h). rans.h says what it
/// computes.

inline constexpr std::uint32_t kRansLanes = 32;    // symbols of a row; each lane has a state of its own
inline constexpr std::uint32_t kRansSymbols = 32;  // of an alphabet
inline constexpr std::uint32_t kRansBits = 12;     // of a frequency
inline constexpr std::uint32_t kRansSlots = 1u << kRansBits;
inline constexpr std::uint32_t kRansLow = 1u << 16;  // a state between two symbols is at least this
inline constexpr std::uint32_t kRansGroupsMax = 4;

/// One distribution, in the forms that coding takes. Made by make_rans_table().
struct RansTable {
    alignas(64) std::uint16_t start[kRansSymbols + 16];  // sum of the frequencies before; then kRansSlots
    alignas(64) std::uint16_t frequency[kRansSymbols];   // >= 1, sum kRansSlots
    alignas(64) std::uint32_t packed[kRansSymbols];      // frequency << 16 | start
    alignas(64) float reciprocal[kRansSymbols];          // a little less than 1 / frequency
    alignas(64) std::uint32_t slots[kRansSlots];         // frequency << 17 | (slot - start) << 5 | symbol
};

/// Some rows of one table. Row i (from 0) belongs to the states of group i % groups: [group * kRansLanes, ...).
struct RansRows {
    const RansTable* table = nullptr;
    std::size_t rows = 0;
    std::uint32_t groups = 1;         // 1, 2 or 4
    std::uint32_t* states = nullptr;  // [groups * kRansLanes]
};

struct RansKernels {
    /// Puts `symbols` [rows][kRansLanes], each below kRansSymbols, in front of what is coded already: from the last row
    /// to the first. Words are written below `end`, at most one a symbol. The new end.
    std::byte* (*encode)(const RansRows& rows, const std::uint8_t* symbols, std::byte* end) = nullptr;
    /// The inverse, from the first row to the last. Reads words of [words, words_end), an even number of bytes. The
    /// first word not read; null when there were too few (`symbols` and states are then anything).
    const std::byte* (*decode)(const RansRows& rows, const std::byte* words, const std::byte* words_end,
                               std::uint8_t* symbols) = nullptr;
};

/// Null where this build has no such code (another architecture).
const RansKernels* rans_avx2();
const RansKernels* rans_avx512();

}  // namespace kv_transfer
