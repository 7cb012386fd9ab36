#pragma once

#include <cstdint>

namespace sim {

/// As good as a random number for each value. Splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
inline std::uint64_t mixed_bits(std::uint64_t value) {
    value += 0x9e3779b97f4a7c15ull;
    value = (value ^ (value >> 30u)) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ (value >> 27u)) * 0x94d049bb133111ebull;
    return value ^ (value >> 31u);
}

}  // namespace sim
