#include "kv_transfer/coverage.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace kv_transfer {

Coverage::Coverage(std::uint32_t layers, std::uint32_t token_begin, std::uint32_t token_end)
    : layers_(layers), token_begin_(token_begin), token_end_(token_end) {
    CHECK(token_begin <= token_end);
    const std::uint64_t tokens = token_end - token_begin;
    words_per_layer_ = (tokens + 63) / 64;
    missing_ = tokens * layers;
    words_.resize(words_per_layer_ * layers);
}

/// Calls visit(index of word, mask of the bits of `range` in it).
template <class Visit>
void Coverage::for_each_word(const kv_cache::KvRange& range, Visit visit) const {
    CHECK(range.layer_begin <= range.layer_end && range.layer_end <= layers_);
    CHECK(token_begin_ <= range.token_begin && range.token_begin <= range.token_end && range.token_end <= token_end_);
    const std::uint64_t first = range.token_begin - token_begin_;
    const std::uint64_t last = range.token_end - token_begin_;
    for (std::uint64_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
        for (std::uint64_t bit = first; bit < last;) {
            const std::uint64_t in_word = bit % 64;
            const std::uint64_t count = std::min(64 - in_word, last - bit);
            const std::uint64_t mask = (count == 64 ? ~0ull : (1ull << count) - 1) << in_word;
            visit(layer * words_per_layer_ + bit / 64, mask);
            bit += count;
        }
    }
}

std::uint64_t Coverage::add(const kv_cache::KvRange& range) {
    std::uint64_t added = 0;
    for_each_word(range, [&](std::uint64_t index, std::uint64_t mask) {
        added += static_cast<std::uint64_t>(std::popcount(mask & ~words_[index]));
        words_[index] |= mask;
    });
    missing_ -= added;
    return added;
}

bool Coverage::covers(const kv_cache::KvRange& range) const {
    bool all = true;
    for_each_word(range, [&](std::uint64_t index, std::uint64_t mask) { all = all && (words_[index] & mask) == mask; });
    return all;
}

std::uint32_t Coverage::find(std::uint32_t token, bool whole) const {
    CHECK(token_begin_ <= token && token <= token_end_);
    const std::uint64_t tokens = token_end_ - token_begin_;
    for (std::uint64_t bit = token - token_begin_; bit < tokens; bit = (bit / 64 + 1) * 64) {
        std::uint64_t there = ~0ull;  // in every layer
        for (std::uint64_t layer = 0; layer < layers_; ++layer) {
            there &= words_[layer * words_per_layer_ + bit / 64];
        }
        const std::uint64_t found = (whole ? there : ~there) >> (bit % 64);
        if (found != 0) {
            const std::uint64_t at = bit + static_cast<std::uint64_t>(std::countr_zero(found));
            return token_begin_ + static_cast<std::uint32_t>(std::min(at, tokens));
        }
    }
    return token_end_;
}

}  // namespace kv_transfer
