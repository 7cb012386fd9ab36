#pragma once

#include <cstdint>

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

}  // namespace engine
