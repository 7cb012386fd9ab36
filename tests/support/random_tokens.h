#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "base/ids.h"

namespace test_support {

/// Draws 32-bit numbers by seed.
class Random {
public:
    explicit Random(std::uint32_t seed) : generator_(seed) {}
    std::uint32_t operator()() { return static_cast<std::uint32_t>(generator_()); }

private:
    std::mt19937 generator_;
};

/// `tokens` tokens of a vocabulary of 1000.
inline std::vector<base::TokenId> random_prompt(Random& random, std::size_t tokens) {
    std::vector<base::TokenId> prompt(tokens);
    for (base::TokenId& token : prompt) {
        token = static_cast<base::TokenId>(random() % 1000);
    }
    return prompt;
}

}  // namespace test_support
