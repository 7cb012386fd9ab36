#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache/kv_layout.h"

namespace kv_transfer {

/// Which (layer, token) of a rectangle [0, layers) x [token_begin, token_end) are there. Not thread-safe.
class Coverage {
public:
    Coverage() = default;
    Coverage(std::uint32_t layers, std::uint32_t token_begin, std::uint32_t token_end);

    /// Marks a range inside the rectangle. Returns how many of its (layer, token) are new.
    std::uint64_t add(const kv_cache::KvRange& range);
    /// Whether all of a range inside the rectangle is marked already.
    bool covers(const kv_cache::KvRange& range) const;
    bool is_complete() const { return missing_ == 0; }
    /// How many (layer, token) are not there.
    std::uint64_t missing() const { return missing_; }
    /// From `token` (of the rectangle, or its end) on, the first of which a layer is missing, or none is; the end where
    /// there is no such one.
    std::uint32_t first_missing(std::uint32_t token) const { return find(token, false); }
    std::uint32_t first_whole(std::uint32_t token) const { return find(token, true); }

private:
    template <class Visit>
    void for_each_word(const kv_cache::KvRange& range, Visit visit) const;
    std::uint32_t find(std::uint32_t token, bool whole) const;

    std::uint32_t layers_ = 0;
    std::uint32_t token_begin_ = 0;
    std::uint32_t token_end_ = 0;
    std::uint64_t words_per_layer_ = 0;
    std::uint64_t missing_ = 0;
    std::vector<std::uint64_t> words_;  // [layer][token / 64]
};

}  // namespace kv_transfer
