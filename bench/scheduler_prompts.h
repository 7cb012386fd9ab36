#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "base/block_hash.h"

namespace bench {

/// Prompts as agents send them: a start that all share, then what was said in one of some conversations.
class PromptChains {
public:
    static constexpr std::uint32_t kBlockTokens = 16;
    static constexpr std::uint32_t kSharedBlocks = 64;  // a system prompt
    /// `blocks` of each; as many conversations as the blocks that a scheduler remembers allow.
    PromptChains(std::uint32_t blocks, std::uint32_t seed);

    std::size_t conversations() const { return chains_.size(); }
    const std::vector<base::BlockHash>& of(std::size_t conversation) const { return chains_[conversation]; }
    /// One that nobody has seen.
    std::vector<base::BlockHash> unseen();
    /// How much of a conversation one of its workers holds: 80 to 100 %.
    std::uint32_t held_blocks();
    std::uint64_t random() { return random_(); }

private:
    base::BlockHash draw() { return {.high = random_(), .low = random_()}; }

    std::mt19937_64 random_;
    std::vector<std::vector<base::BlockHash>> chains_;
};

}  // namespace bench
