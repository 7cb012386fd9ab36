#include "kv_transfer/chunk_grid.h"

#include <algorithm>

#include "base/check.h"

namespace kv_transfer {

using kv_cache::KvRange;

ChunkGrid::ChunkGrid(const kv_cache::KvLayout& layout, std::uint32_t token_begin, std::uint32_t token_end,
                     std::size_t bytes_max)
    : layers_(layout.layers()),
      token_begin_(token_begin),
      token_end_(token_end),
      computed_(layout.layers(), token_begin, token_end) {
    const std::size_t layer_bytes = layout.wire_bytes({0, 1, 0, 1});  // of a token
    CHECK(layer_bytes <= bytes_max && token_begin <= token_end);
    const std::size_t tokens = std::min<std::size_t>(kTokens, bytes_max / layer_bytes);
    chunk_tokens_ = static_cast<std::uint32_t>(tokens);
    if (chunk_tokens_ > layout.block_tokens()) { chunk_tokens_ -= chunk_tokens_ % layout.block_tokens(); }
    const std::size_t layers = std::min<std::size_t>(kLayers, bytes_max / (layer_bytes * chunk_tokens_));
    chunk_layers_ = static_cast<std::uint32_t>(layers);
    rows_ = (layers_ + chunk_layers_ - 1) / chunk_layers_;
    const std::uint32_t columns = token_end / chunk_tokens_ + 1 - token_begin / chunk_tokens_;
    is_whole_.resize(std::size_t{columns} * rows_);
}

void ChunkGrid::add(const KvRange& range, std::deque<KvRange>& whole) {
    if (range.layers() == 0 || range.tokens() == 0) { return; }
    computed_.add(range);
    const std::uint32_t first_column = token_begin_ / chunk_tokens_;
    for (std::uint32_t column = range.token_begin / chunk_tokens_; column * chunk_tokens_ < range.token_end; ++column) {
        for (std::uint32_t row = range.layer_begin / chunk_layers_; row * chunk_layers_ < range.layer_end; ++row) {
            const KvRange chunk{row * chunk_layers_, std::min(layers_, (row + 1) * chunk_layers_),
                                std::max(token_begin_, column * chunk_tokens_),
                                std::min(token_end_, (column + 1) * chunk_tokens_)};
            const std::size_t place = std::size_t{column - first_column} * rows_ + row;
            if (is_whole_[place] || !computed_.covers(chunk)) { continue; }
            is_whole_[place] = true;
            whole.push_back(chunk);
        }
    }
}

}  // namespace kv_transfer
