#include "scheduler/block_index.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace scheduler {
namespace {

constexpr std::size_t kTableMin = 64;

constexpr std::uint64_t bit_of(std::uint32_t slot) {
    return std::uint64_t{1} << (slot % 64);
}

}  // namespace

BlockIndex::BlockIndex(std::size_t blocks_max) : blocks_max_(blocks_max), table_(kTableMin, kNoRow) {
    CHECK(blocks_max > 0 && blocks_max < kNoRow, blocks_max);
}

BlockIndex::Row BlockIndex::find(base::BlockHash hash) const {
    for (std::size_t at = home_of(hash);; at = (at + 1) & (table_.size() - 1)) {
        const Row row = table_[at];
        if (row == kNoRow || rows_[row].hash == hash) { return row; }
    }
}

/// Where the table names a row that is in use.
std::size_t BlockIndex::place_of(Row row) const {
    std::size_t at = home_of(rows_[row].hash);
    while (table_[at] != row) {
        at = (at + 1) & (table_.size() - 1);
    }
    return at;
}

BlockIndex::Row BlockIndex::insert(base::BlockHash hash) {
    if ((blocks_ + 1) * 2 > table_.size()) { grow_table(); }
    Row row = static_cast<Row>(rows_.size());
    if (free_rows_.empty()) {
        rows_.emplace_back();
    } else {
        row = free_rows_.back();
        free_rows_.pop_back();
    }
    rows_[row] = {.hash = hash};
    std::size_t at = home_of(hash);
    while (table_[at] != kNoRow) {
        at = (at + 1) & (table_.size() - 1);
    }
    table_[at] = row;
    ++blocks_;
    return row;
}

void BlockIndex::erase(Row row) {
    const std::size_t mask = table_.size() - 1;
    std::size_t hole = place_of(row);
    for (std::size_t at = (hole + 1) & mask; table_[at] != kNoRow; at = (at + 1) & mask) {
        // What stands behind the hole moves into it unless its home lies behind it, too.
        const std::size_t home = home_of(rows_[table_[at]].hash);
        if (((at - home) & mask) < ((at - hole) & mask)) { continue; }
        table_[hole] = table_[at];
        hole = at;
    }
    table_[hole] = kNoRow;
    rows_[row] = {};
    free_rows_.push_back(row);
    --blocks_;
}

void BlockIndex::grow_table() {
    table_.assign(table_.size() * 2, kNoRow);
    for (Row row = 0; row < rows_.size(); ++row) {
        if (rows_[row].holders == 0) { continue; }
        std::size_t at = home_of(rows_[row].hash);
        while (table_[at] != kNoRow) {
            at = (at + 1) & (table_.size() - 1);
        }
        table_[at] = row;
    }
}

bool BlockIndex::has(const Block& block, std::uint32_t slot) const {
    if (block.wide != kNoRow) { return slot / 64 < words_ && (bits(block.wide)[slot / 64] & bit_of(slot)) != 0; }
    const auto end = block.few.begin() + block.holders;
    return std::find(block.few.begin(), end, slot) != end;
}

bool BlockIndex::holds(std::uint32_t slot, base::BlockHash hash) const {
    const Row row = find(hash);
    return row != kNoRow && has(rows_[row], slot);
}

void BlockIndex::make_wide(Block& block) {
    if (free_wide_.empty()) {
        block.wide = static_cast<std::uint32_t>(bits_.size() / words_);
        bits_.resize(bits_.size() + words_);
    } else {
        block.wide = free_wide_.back();
        free_wide_.pop_back();
    }
    for (const std::uint32_t slot : block.few) {
        bits(block.wide)[slot / 64] |= bit_of(slot);
    }
}

void BlockIndex::add(std::uint32_t slot, base::BlockHash hash) {
    if (slot >= counts_.size()) { counts_.resize(slot + 1); }
    if (slot / 64 >= words_) { widen(std::bit_ceil(std::size_t{slot / 64} + 1)); }
    Row row = find(hash);
    if (row == kNoRow) {
        if (blocks_ >= blocks_max_) { return; }
        row = insert(hash);
    }
    Block& block = rows_[row];
    if (has(block, slot)) { return; }
    if (block.wide == kNoRow && block.holders == kFew) { make_wide(block); }
    if (block.wide == kNoRow) {
        block.few[block.holders] = slot;
    } else {
        bits(block.wide)[slot / 64] |= bit_of(slot);
    }
    ++block.holders;
    ++counts_[slot];
}

/// `slot` is one of the holders.
void BlockIndex::take_out(Row row, std::uint32_t slot) {
    Block& block = rows_[row];
    --counts_[slot];
    --block.holders;
    if (block.wide == kNoRow) {
        *std::find(block.few.begin(), block.few.end(), slot) = block.few[block.holders];
    } else {
        bits(block.wide)[slot / 64] &= ~bit_of(slot);
        if (block.holders <= kFew / 2) {
            const std::uint32_t wide = block.wide;
            std::uint32_t count = 0;
            for_each_holder(block, [&](std::uint32_t holder) { block.few[count++] = holder; });
            std::fill_n(bits(wide), words_, 0);
            free_wide_.push_back(wide);
            block.wide = kNoRow;
        }
    }
    if (block.holders == 0) { erase(row); }
}

void BlockIndex::remove(std::uint32_t slot, base::BlockHash hash) {
    const Row row = find(hash);
    if (row != kNoRow && has(rows_[row], slot)) { take_out(row, slot); }
}

void BlockIndex::clear(std::uint32_t slot) {
    for (Row row = 0; row < rows_.size() && blocks_of(slot) > 0; ++row) {
        if (rows_[row].holders > 0 && has(rows_[row], slot)) { take_out(row, slot); }
    }
}

void BlockIndex::match(std::span<const base::BlockHash> chain, std::size_t slots,
                       std::vector<std::uint32_t>& leading) const {
    leading.assign(slots, 0);
    std::vector<std::uint64_t> alive((slots + 63) / 64, ~std::uint64_t{0});  // hold everything so far
    if (slots % 64 != 0) { alive.back() = (std::uint64_t{1} << (slots % 64)) - 1; }
    std::vector<std::uint64_t> here(alive.size());
    std::uint32_t blocks = 0;
    for (; blocks < chain.size(); ++blocks) {
        const Row row = find(chain[blocks]);
        if (row == kNoRow) { break; }
        std::fill(here.begin(), here.end(), 0);
        for_each_holder(rows_[row], [&](std::uint32_t slot) {
            if (slot < slots) { here[slot / 64] |= bit_of(slot); }
        });
        std::uint64_t any = 0;
        for (std::size_t word = 0; word < alive.size(); ++word) {
            for (std::uint64_t lost = alive[word] & ~here[word]; lost != 0; lost &= lost - 1) {
                leading[word * 64 + static_cast<std::size_t>(std::countr_zero(lost))] = blocks;
            }
            alive[word] &= here[word];
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

void BlockIndex::widen(std::size_t words) {
    const std::size_t rows = bits_.size() / words_;
    std::vector<std::uint64_t> wider(rows * words);
    for (std::size_t row = 0; row < rows; ++row) {
        std::copy_n(bits_.begin() + static_cast<std::ptrdiff_t>(row * words_), words_,
                    wider.begin() + static_cast<std::ptrdiff_t>(row * words));
    }
    bits_ = std::move(wider);
    words_ = words;
}

PrefixSearch::PrefixSearch(const BlockIndex& index, std::span<const base::BlockHash> chain)
    : index_(index), chain_(chain) {
    if (chain.empty()) { return; }
    looked_.reserve(64);
    deepest_ = longest([this](std::uint32_t blocks) { return row_at(blocks - 1) != BlockIndex::kNoRow; });
}

/// The most blocks for which `holds` is true, as it is for all fewer ones; the same few lengths are asked for first
/// whatever is looked for, and each is looked up once.
template <class Holds>
std::uint32_t PrefixSearch::longest(Holds holds) {
    const auto length = static_cast<std::uint32_t>(chain_.size());
    if (length == 0 || !holds(1)) { return 0; }
    std::uint32_t held = 0;
    for (std::uint32_t step = std::bit_floor(length); step > 0; step /= 2) {
        if (held + step <= length && (held + step == 1 || holds(held + step))) { held += step; }
    }
    return held;
}

BlockIndex::Row PrefixSearch::row_at(std::uint32_t position) {
    const auto at = std::lower_bound(looked_.begin(), looked_.end(), std::pair{position, BlockIndex::Row{0}});
    if (at != looked_.end() && at->first == position) { return at->second; }
    const BlockIndex::Row row = index_.find(chain_[position]);
    looked_.insert(at, {position, row});
    return row;
}

std::uint32_t PrefixSearch::holders(std::uint32_t blocks) {
    const BlockIndex::Row row = row_at(blocks - 1);
    return row == BlockIndex::kNoRow ? 0 : index_.rows_[row].holders;
}

std::uint32_t PrefixSearch::next_below(std::uint32_t blocks) {
    const std::uint32_t here = holders(blocks);
    return longest([&](std::uint32_t shorter) { return shorter < blocks && holders(shorter) > here; });
}

std::uint32_t PrefixSearch::blocks_of(std::uint32_t slot) {
    return longest([&](std::uint32_t blocks) {
        if (blocks > deepest_) { return false; }
        const BlockIndex::Row row = row_at(blocks - 1);
        return row != BlockIndex::kNoRow && index_.has(index_.rows_[row], slot);
    });
}

}  // namespace scheduler
