#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kv_transfer/codec/rans_kernels.h"

namespace kv_transfer {

/// Interleaved range ANS (Duda, 2013; rANS in words after Giesen, 2014): 32 symbols of at most 32 kinds are coded side
/// by side, each lane with a 32-bit state of its own that is kept at 2^16 or more by words of 16 bits. All symbols of a
/// row share one table. A stream is the final states of all lanes, then the words in the order in which decoding needs
/// them: row after row, in a row lane after lane. `groups` rows in turn have states of their own (more independent
/// work, 64 bytes longer); the order of words does not depend on it. Every kernel family makes and reads the same
/// bytes.

/// Frequencies of a table: each at least 1, their sum kRansSlots.
using RansFrequencies = std::array<std::uint16_t, kRansSymbols>;
/// Error: invalid_argument for frequencies that are not so.
base::Result<void> make_rans_table(const RansFrequencies& frequencies, RansTable& out);

enum class RansFamily : std::uint8_t { plain, avx2, avx512 };
/// The families that this machine and build can run, plain first, the fastest last.
std::vector<RansFamily> rans_families();
const char* name_of(RansFamily family);
/// `family` must be one of rans_families().
const RansKernels& rans_kernels(RansFamily family);
/// The fastest.
const RansKernels& rans_kernels();

/// Rows that share a table, in the order of their symbols.
struct RansRun {
    const RansTable* table = nullptr;
    std::size_t rows = 0;
};

/// Groups of states that pay for `rows` rows.
std::uint32_t rans_groups(std::size_t rows);
/// Bytes of a stream at most.
std::size_t rans_bound(std::size_t rows, std::uint32_t groups);

/// Codes all rows of `runs` (`symbols` holds as many, each below kRansSymbols) into the *end* of `out`, which has
/// rans_bound() bytes. The stream, a part of `out`.
std::span<const std::byte> rans_encode(const RansKernels& kernels, std::span<const RansRun> runs,
                                       std::span<const std::uint8_t> symbols, std::uint32_t groups,
                                       std::span<std::byte> out);

/// The inverse, of bytes that anybody may have made: never reads outside `stream`, writes exactly `symbols`, all below
/// kRansSymbols. Error: data_loss when the stream is not one of so many rows, which the states at its end tell too.
base::Result<void> rans_decode(const RansKernels& kernels, std::span<const RansRun> runs,
                               std::span<const std::byte> stream, std::uint32_t groups,
                               std::span<std::uint8_t> symbols);

}  // namespace kv_transfer
