#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "kv_cache/kv_layout.h"
#include "kv_transfer/coverage.h"

namespace kv_transfer {

/// The chunks of a hand-off whose frames are coded: kTokens tokens of kLayers layers at fixed places, so that what a
/// codec makes of them does not depend on when their KV was computed, in which steps and beside whom; and as large as
/// coding likes them. Not thread-safe.
class ChunkGrid {
public:
    static constexpr std::uint32_t kTokens = 256;
    static constexpr std::uint32_t kLayers = 8;

    ChunkGrid() = default;
    /// Of the KV of tokens [token_begin, token_end); a chunk has at most `bytes_max` bytes, which hold at least a layer
    /// of a token.
    ChunkGrid(const kv_cache::KvLayout& layout, std::uint32_t token_begin, std::uint32_t token_end,
              std::size_t bytes_max);

    /// KV of `range`, inside the hand-off, is computed: appends the chunks that are whole now and were not before.
    void add(const kv_cache::KvRange& range, std::deque<kv_cache::KvRange>& whole);

private:
    std::uint32_t layers_ = 0;
    std::uint32_t token_begin_ = 0;
    std::uint32_t token_end_ = 0;
    std::uint32_t chunk_tokens_ = kTokens;
    std::uint32_t chunk_layers_ = kLayers;
    std::uint32_t rows_ = 0;  // chunks of layers
    Coverage computed_;
    std::vector<bool> is_whole_;  // [chunk of tokens][chunk of layers]
};

}  // namespace kv_transfer
