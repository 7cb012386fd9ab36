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

/// Codes a stream run by run, from the last run to the first, so that nobody keeps the symbols of all of them.
class RansEncoder {
public:
    /// The stream becomes the *end* of `out`, which outlives the encoder. `groups`: 1, 2 or 4.
    RansEncoder(const RansKernels& kernels, std::uint32_t groups, std::span<std::byte> out);
    /// Puts a run in front of those there are; `symbols` [rows][kRansLanes], each below kRansSymbols. `out` must have
    /// rans_bound() bytes for the rows of all runs.
    void put(const RansRun& run, const std::uint8_t* symbols);
    /// The stream, a part of `out`. Nothing is put afterwards.
    std::span<const std::byte> end();

private:
    const RansKernels& kernels_;
    const std::uint32_t groups_;
    const std::span<std::byte> out_;
    std::byte* begin_;
    alignas(64) std::array<std::uint32_t, kRansGroupsMax * kRansLanes> states_{};
};

/// The inverse, from the first run to the last, of bytes that anybody may have made: never reads outside the stream.
class RansDecoder {
public:
    explicit RansDecoder(const RansKernels& kernels) : kernels_(kernels) {}
    /// Takes the states. `stream` outlives the decoder. Error: data_loss.
    base::Result<void> begin(std::span<const std::byte> stream, std::uint32_t groups);
    /// Writes exactly the run's symbols, all below kRansSymbols. Error: data_loss, when the stream ends too early.
    base::Result<void> take(const RansRun& run, std::uint8_t* symbols);
    /// Behind the last run. Error: data_loss, when the stream was not one of these runs, which its states tell, too.
    base::Result<void> end() const;

private:
    const RansKernels& kernels_;
    std::uint32_t groups_ = 1;
    const std::byte* words_ = nullptr;
    const std::byte* words_end_ = nullptr;
    alignas(64) std::array<std::uint32_t, kRansGroupsMax * kRansLanes> states_{};
};

/// All runs at once. Codes all rows of `runs` (`symbols` holds as many) into the end of `out`, which has rans_bound()
/// bytes. The stream, a part of `out`.
std::span<const std::byte> rans_encode(const RansKernels& kernels, std::span<const RansRun> runs,
                                       std::span<const std::uint8_t> symbols, std::uint32_t groups,
                                       std::span<std::byte> out);

/// The inverse. Error: data_loss.
base::Result<void> rans_decode(const RansKernels& kernels, std::span<const RansRun> runs,
                               std::span<const std::byte> stream, std::uint32_t groups,
                               std::span<std::uint8_t> symbols);

}  // namespace kv_transfer
