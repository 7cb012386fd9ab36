#pragma once

#include <cstdint>
#include <limits>

namespace base {

/// What values of sampling a client, a model's files and a worker may give: the one list, for whoever checks them.
struct NumberRange {
    double low;                                                                            // taken
    double high;                                                                           // taken
    constexpr bool holds(double number) const { return number >= low && number <= high; }  // not NaN
    /// The same of a number that a message carries as a float: the ends are as a float has them.
    constexpr bool holds(float number) const {
        return number >= static_cast<float>(low) && number <= static_cast<float>(high);
    }
};

inline constexpr NumberRange kTemperatureRange{0, 2};  // 0: greedy
inline constexpr NumberRange kTopPRange{0, 1};         // 0: only the likeliest token; a worker is told so by top_k 1
inline constexpr NumberRange kMinPRange{0, 1};
inline constexpr NumberRange kRepetitionPenaltyRange{0.01, 10};
inline constexpr NumberRange kPresencePenaltyRange{-2, 2};
inline constexpr NumberRange kFrequencyPenaltyRange{-2, 2};
inline constexpr NumberRange kLogitBiasRange{-100, 100};
inline constexpr std::int64_t kTopKLow = -1;  // as 0: off
inline constexpr std::int64_t kTopKHigh = std::numeric_limits<std::int32_t>::max();
inline constexpr std::uint32_t kTopLogprobsMax = 20;  // and the vocabulary

}  // namespace base
