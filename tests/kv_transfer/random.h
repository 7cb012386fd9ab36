#pragma once

#include <cstdint>
#include <limits>
#include <random>

namespace kv_test {

/// std::mt19937 whose numbers have the type that they fit in.
class Random {
public:
    using result_type = std::uint32_t;
    explicit Random(std::uint32_t seed) : engine_(seed) {}
    std::uint32_t operator()() { return static_cast<std::uint32_t>(engine_()); }
    static constexpr std::uint32_t min() { return 0; }
    static constexpr std::uint32_t max() { return std::numeric_limits<std::uint32_t>::max(); }

private:
    std::mt19937 engine_;
};

}  // namespace kv_test
