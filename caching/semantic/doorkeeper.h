#pragma once

#include <cstdint>
#include <vector>

namespace caching {

/// Remembers, roughly and in little memory, what came lately: two filters of bits, the older one emptied in turn.
/// Source: the doorkeeper of TinyLFU (Einziger et al., ACM ToS 2017), section 3.4.2.
class Doorkeeper {
public:
    explicit Doorkeeper(std::size_t bits = std::size_t{1} << 20) : young_(bits), old_(bits) {}

    /// Whether `name` came before; now it has.
    bool seen_before(std::uint64_t name) {
        bool in_young = true;
        bool in_old = true;
        for (const std::uint64_t turn : {std::uint64_t{0x9e3779b97f4a7c15U}, std::uint64_t{0xc2b2ae3d27d4eb4fU}}) {
            const std::size_t bit = static_cast<std::size_t>((name * turn) >> 20) % young_.size();
            in_young = in_young && young_[bit];
            in_old = in_old && old_[bit];
            young_[bit] = true;
        }
        if (!in_young && ++names_ > young_.size() / 8) {
            old_.swap(young_);
            young_.assign(young_.size(), false);
            names_ = 0;
        }
        return in_young || in_old;
    }

private:
    std::vector<bool> young_;
    std::vector<bool> old_;
    std::size_t names_ = 0;  // in young_
};

}  // namespace caching
