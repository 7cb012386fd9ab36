#include "scheduler/block_index.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/check.h"

namespace scheduler {
namespace {

constexpr std::uint64_t bit_of(std::uint32_t slot) {
    return std::uint64_t{1} << (slot % 64);
}

}  // namespace

BlockIndex::BlockIndex(std::size_t blocks_max) : blocks_max_(blocks_max) {
    CHECK(blocks_max > 0 && blocks_max < std::numeric_limits<std::uint32_t>::max(), blocks_max);
}

bool BlockIndex::holds(std::uint32_t slot, base::BlockHash hash) const {
    const auto entry = entries_.find(hash);
    return entry != entries_.end() && slot / 64 < words_ && (bits(entry->second)[slot / 64] & bit_of(slot)) != 0;
}

void BlockIndex::add(std::uint32_t slot, base::BlockHash hash) {
    if (slot / 64 >= words_) { widen(slot / 64 + 1); }
    if (slot >= counts_.size()) { counts_.resize(slot + 1); }
    auto entry = entries_.find(hash);
    if (entry == entries_.end()) {
        if (entries_.size() >= blocks_max_) { return; }
        std::uint32_t row = 0;
        if (free_rows_.empty()) {
            row = static_cast<std::uint32_t>(hashes_.size());
            hashes_.push_back(hash);
            bits_.resize(bits_.size() + words_);
        } else {
            row = free_rows_.back();
            free_rows_.pop_back();
            hashes_[row] = hash;
        }
        entry = entries_.emplace(hash, row).first;
    }
    std::uint64_t& word = bits(entry->second)[slot / 64];
    if ((word & bit_of(slot)) == 0) {
        word |= bit_of(slot);
        ++counts_[slot];
    }
}

void BlockIndex::remove(std::uint32_t slot, base::BlockHash hash) {
    if (!holds(slot, hash)) { return; }
    const std::uint32_t row = entries_.find(hash)->second;
    bits(row)[slot / 64] &= ~bit_of(slot);
    --counts_[slot];
    if (row_is_empty(row)) { free_row(row); }
}

void BlockIndex::clear(std::uint32_t slot) {
    if (blocks_of(slot) == 0) { return; }
    for (std::uint32_t row = 0; row < hashes_.size(); ++row) {
        std::uint64_t& word = bits(row)[slot / 64];
        if ((word & bit_of(slot)) == 0) { continue; }
        word &= ~bit_of(slot);
        if (row_is_empty(row)) { free_row(row); }
    }
    counts_[slot] = 0;
}

void BlockIndex::match(std::span<const base::BlockHash> chain, std::size_t slots,
                       std::vector<std::uint32_t>& leading) const {
    leading.assign(slots, 0);
    std::vector<std::uint64_t> alive((slots + 63) / 64, ~std::uint64_t{0});  // hold everything so far
    if (slots % 64 != 0) { alive.back() = (std::uint64_t{1} << (slots % 64)) - 1; }
    std::uint32_t blocks = 0;
    for (; blocks < chain.size(); ++blocks) {
        const auto entry = entries_.find(chain[blocks]);
        if (entry == entries_.end()) { break; }
        const std::uint64_t* row = bits(entry->second);
        std::uint64_t any = 0;
        for (std::size_t word = 0; word < alive.size(); ++word) {
            const std::uint64_t here = word < words_ ? row[word] : 0;
            for (std::uint64_t lost = alive[word] & ~here; lost != 0; lost &= lost - 1) {
                leading[word * 64 + static_cast<std::size_t>(std::countr_zero(lost))] = blocks;
            }
            alive[word] &= here;
            any |= alive[word];
        }
        if (any == 0) { return; }
    }
    for (std::size_t word = 0; word < alive.size(); ++word) {
        for (std::uint64_t left = alive[word]; left != 0; left &= left - 1) {
            leading[word * 64 + static_cast<std::size_t>(std::countr_zero(left))] = blocks;
        }
    }
}

bool BlockIndex::row_is_empty(std::uint32_t row) const {
    return std::all_of(bits(row), bits(row) + words_, [](std::uint64_t word) { return word == 0; });
}

void BlockIndex::free_row(std::uint32_t row) {
    entries_.erase(hashes_[row]);
    free_rows_.push_back(row);
}

void BlockIndex::widen(std::size_t words) {
    std::vector<std::uint64_t> wider(hashes_.size() * words);
    for (std::size_t row = 0; row < hashes_.size(); ++row) {
        std::copy_n(bits_.begin() + static_cast<std::ptrdiff_t>(row * words_), words_,
                    wider.begin() + static_cast<std::ptrdiff_t>(row * words));
    }
    bits_ = std::move(wider);
    words_ = words;
}

}  // namespace scheduler
