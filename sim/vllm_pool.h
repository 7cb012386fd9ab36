#pragma once

#include <cstdint>
#include <vector>

namespace sim {

/// KV blocks as vLLM keeps them: a free list, least recently freed first; a freed block keeps its content until it is
/// given out again, so that a sequence which was preempted finds the beginning of its KV if nobody took it.
/// Not thread-safe.
class VllmPool {
public:
    explicit VllmPool(std::uint32_t blocks_total);

    /// What a sequence holds, in its order, and what it held when it was preempted.
    struct Blocks {
        std::vector<std::uint32_t> held;
        std::vector<std::uint32_t> former;
    };

    std::uint32_t free_blocks() const { return free_; }

    /// Blocks at the front of `blocks.former`, at most `most`, that still hold this sequence's KV; none are taken yet.
    std::uint32_t kept(const Blocks& blocks, std::uint64_t sequence, std::uint32_t most) const;
    /// Takes those `count` back; then `fresh` (<= free_blocks() - count) new ones. CHECKs that they are there.
    void take(Blocks& blocks, std::uint64_t sequence, std::uint32_t count, std::uint32_t fresh);
    /// Frees all, the last first.
    void give_back(Blocks& blocks);

private:
    static constexpr std::uint32_t kNone = ~0u;
    struct Block {
        std::uint64_t sequence = 0;  // whose KV it holds; 0: nobody's
        std::uint32_t place = 0;     // which block of it
        std::uint32_t before = kNone;
        std::uint32_t after = kNone;
        bool is_free = false;
    };
    void unlink(std::uint32_t id);
    void append(std::uint32_t id);

    std::vector<Block> blocks_;
    std::uint32_t first_ = kNone;
    std::uint32_t last_ = kNone;
    std::uint32_t free_ = 0;
};

}  // namespace sim
