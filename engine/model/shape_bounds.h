#pragma once

#include <cstdint>
#include <string_view>

// What a model's description may say at most. Far above every known model; they keep products of two in 64 bits and
// offsets in memory. Internal to this folder.

namespace engine {

inline constexpr std::uint32_t kLayersMax = 1024;
inline constexpr std::uint32_t kHiddenMax = 1u << 17;
inline constexpr std::uint32_t kIntermediateMax = 1u << 20;
inline constexpr std::uint32_t kHeadsMax = 4096;
inline constexpr std::uint32_t kHeadDimMax = 4096;
inline constexpr std::uint32_t kVocabularyMax = 1u << 23;
inline constexpr std::uint32_t kContextMax = 1u << 24;

/// What a number may be, both ends included; as floats they stay finite and above 0.
struct NumberRange {
    double least;
    double most;
    std::string_view shown;                                                        // "[1, 2]"
    bool holds(double number) const { return number >= least && number <= most; }  // never NaN
};
inline constexpr NumberRange kEpsilon{1e-20, 0.1, "[1e-20, 0.1]"};  // known ones: 1e-12 to 1e-5
inline constexpr NumberRange kRopeTheta{1, 1e15, "[1, 1e15]"};      // known ones: 1e4 to 1e8
inline constexpr NumberRange kRopeFactor{1e-6, 1e6, "[1e-6, 1e6]"};

}  // namespace engine
