#pragma once

#include <cstddef>
#include <cstdint>

namespace kv_transfer {

/// What codecs do to values around the entropy stage, once plainly and once for each instruction set: one source
/// (lane_loops.inc), compiled several times. Every operation is one IEEE operation on one value, so all give the same
/// bits. Data only, as rans_kernels.h.

inline constexpr std::uint32_t kLanes = 32;      // values of a row of symbols
inline constexpr std::uint32_t kEscape = 31;     // the symbol of what has none
inline constexpr std::int32_t kSymbolZero = 15;  // the symbol of 0; -15 .. 15 have symbols
inline constexpr std::uint32_t kHeadDimMax = 256;

/// Some lanes of some rows of values, `stride` values apart.
struct LaneRows {
    std::size_t rows = 0;
    std::size_t stride = 0;
    std::uint32_t lanes = 0;  // <= kLanes
};

/// Rows of one head, [rows][head_dim] values as they travel, and what is done to them:
/// round((unrotated(value) - mean) * scale), scale being inverse_step of the channel times that of the row.
struct HeadRows {
    std::size_t rows = 0;
    std::uint32_t head_dim = 0;
    bool is_bf16 = true;
    const float* cosines = nullptr;  // [rows][head_dim / 2], null: not rotated
    const float* sines = nullptr;
    const float* mean = nullptr;           // [head_dim]
    const float* channel_scale = nullptr;  // [head_dim]: of the way (1 / step there, step back)
    const float* row_scale = nullptr;      // [rows]; null: 1
};

struct LaneKernels {
    /// Of each lane: its largest exponent below 255.
    void (*top_exponents)(const LaneRows& rows, const void* values, bool is_bf16, std::uint8_t* tops) = nullptr;
    /// symbols[row * kLanes + lane] = how far the exponent is below the lane's top, or kEscape; rest: sign and
    /// mantissa, one byte a value of bf16, three of f32 (in planes `plane` bytes apart), in the order of values.
    void (*split)(const LaneRows& rows, const void* values, bool is_bf16, const std::uint8_t* tops,
                  std::uint8_t* symbols, std::uint8_t* rest, std::size_t plane) = nullptr;
    /// The inverse; of an escape anything.
    void (*join)(const LaneRows& rows, const std::uint8_t* symbols, const std::uint8_t* rest, std::size_t plane,
                 const std::uint8_t* tops, bool is_bf16, void* values) = nullptr;
    /// [rows][head_dim] whole numbers between -32767 and 32767; NaN becomes one of them.
    void (*quantise)(const HeadRows& head, const void* values, std::int16_t* numbers) = nullptr;
    void (*restore)(const HeadRows& head, const std::int16_t* numbers, void* values) = nullptr;
    /// Symbols of number >> shift; whether there are escapes.
    bool (*to_symbols)(const LaneRows& rows, const std::int16_t* numbers, std::uint32_t shift,
                       std::uint8_t* symbols) = nullptr;
    /// (symbol - kSymbolZero) << shift; of an escape anything.
    void (*to_numbers)(const LaneRows& rows, const std::uint8_t* symbols, std::uint32_t shift,
                       std::int16_t* numbers) = nullptr;
    /// words[row * shift + bit] |= that bit of each number, the first one's at `first_lane`; and back, into numbers
    /// whose lowest `shift` bits are 0.
    void (*low_words)(const LaneRows& rows, const std::int16_t* numbers, std::uint32_t first_lane, std::uint32_t shift,
                      std::uint32_t* words) = nullptr;
    void (*put_low)(const LaneRows& rows, const std::uint32_t* words, std::uint32_t first_lane, std::uint32_t shift,
                    std::int16_t* numbers) = nullptr;
    /// Sum of the magnitudes of numbers.
    std::uint64_t (*magnitudes)(const LaneRows& rows, const std::int16_t* numbers) = nullptr;
    /// `count` numbers as bytes, those beyond +-127 cut to that; and back.
    void (*to_bytes)(const std::int16_t* numbers, std::size_t count, std::int8_t* bytes) = nullptr;
    void (*from_bytes)(const std::int8_t* bytes, std::size_t count, std::int16_t* numbers) = nullptr;
    /// Of `count` numbers a and b of two tokens, b's taken `ratio` times: both += a * b, seconds += b * b, firsts += a
    /// * a.
    void (*correlate)(const std::int16_t* a, const std::int16_t* b, float ratio, std::uint32_t count, float* both,
                      float* seconds, float* firsts) = nullptr;
    /// The largest magnitude of `count` values; infinities and NaN count as 0.
    float (*largest)(const void* values, std::size_t count, bool is_bf16) = nullptr;
    /// The same of values without the mean of their channel; what is above 1e30 counts as 0, too.
    float (*largest_rest)(const void* values, const float* mean, std::size_t count, bool is_bf16) = nullptr;
    /// Adds values and their squares, (unrotated) without mean and scales, over every `step`-th row, by channel; leaves
    /// out what is no number or above 1e15.
    void (*moments)(const HeadRows& head, const void* values, std::size_t step, float* sums, float* squares) = nullptr;
    /// What a token's numbers are beyond what the first one's say of them, sixteenths by channel and `ratio` times:
    /// out[i] = numbers[i] - predicted; and back, by adding it.
    void (*subtract_predicted)(const std::uint8_t* sixteenths, const std::int16_t* firsts, float ratio,
                               std::uint32_t count, const std::int16_t* numbers, std::int16_t* out) = nullptr;
    void (*add_predicted)(const std::uint8_t* sixteenths, const std::int16_t* firsts, float ratio, std::uint32_t count,
                          const std::int16_t* numbers, std::int16_t* out) = nullptr;
    /// Where kEscape is among `count` symbols, in order, into `positions` (room for `count`). How many there are.
    std::size_t (*find_escapes)(const std::uint8_t* symbols, std::size_t count, std::uint32_t* positions) = nullptr;
    /// How often each of 32 symbols is in every `step`-th of so many rows of kLanes: the first, the step-th, ...
    void (*count)(const std::uint8_t* symbols, std::size_t rows, std::size_t step, std::uint32_t* counts) = nullptr;
    /// The first of 64 classes whose sum over 32 symbols of counts[s] * costs[s][class] is the least, and that sum.
    std::uint32_t (*cheapest)(const std::uint32_t* counts, const std::uint16_t* costs, std::uint32_t* sum) = nullptr;
};

const LaneKernels& plain_lane_kernels();
/// Null where this build has no such code (another architecture).
const LaneKernels* avx2_lane_kernels();
const LaneKernels* avx512_lane_kernels();
/// The fastest that this machine can run.
const LaneKernels& lane_kernels();

}  // namespace kv_transfer
