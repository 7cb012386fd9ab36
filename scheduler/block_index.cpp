#include "scheduler/block_index.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/check.h"

namespace scheduler {
namespace {

constexpr std::size_t kBucketsMin = 16;
/// Of kPlaces, on average.
constexpr std::size_t kTakenMax = 2;

}  // namespace

BlockIndex::BlockIndex(std::size_t blocks_max) : blocks_max_(blocks_max), buckets_(kBucketsMin) {
    CHECK(blocks_max > 0 && blocks_max < std::numeric_limits<std::uint32_t>::max(), blocks_max);
}

BlockIndex::Place BlockIndex::find(base::BlockHash hash) const {
    for (std::size_t at = home_of(hash);; at = (at + 1) & (buckets_.size() - 1)) {
        const Bucket& bucket = buckets_[at];
        // All places at once: which of them has it is anybody's guess, and a wrong one costs more than to look.
        std::uint32_t equal = 0;
        for (std::uint32_t place = 0; place < kPlaces; ++place) {
            const std::uint64_t differs = (bucket.low[place] ^ hash.low) | (bucket.high[place] ^ hash.high);
            equal |= std::uint32_t{differs == 0} << place;
        }
        equal &= (1u << bucket.used) - 1;
        if (equal != 0) { return {at, static_cast<std::uint32_t>(std::countr_zero(equal))}; }
        if (bucket.used < kPlaces) { return {at, bucket.used}; }
    }
}

HolderSets::Set BlockIndex::holders_of(base::BlockHash hash) const {
    const auto [at, place] = find(hash);
    const Bucket& bucket = buckets_[at];
    return place < bucket.used ? bucket.holders[place] : HolderSets::kNobody;
}

/// A block that is not there yet, where there is room for it.
void BlockIndex::put(base::BlockHash hash, HolderSets::Set holders) {
    std::size_t at = home_of(hash);
    while (buckets_[at].used == kPlaces) {
        at = (at + 1) & (buckets_.size() - 1);
    }
    Bucket& bucket = buckets_[at];
    bucket.high[bucket.used] = hash.high;
    bucket.low[bucket.used] = hash.low;
    bucket.holders[bucket.used] = holders;
    ++bucket.used;
}

void BlockIndex::erase(Place hole) {
    const std::size_t mask = buckets_.size() - 1;
    const auto move = [this](Place from, Place to) {
        Bucket& one = buckets_[from.bucket];
        Bucket& other = buckets_[to.bucket];
        other.high[to.place] = one.high[from.place];
        other.low[to.place] = one.low[from.place];
        other.holders[to.place] = one.holders[from.place];
    };
    // Whoever passed over a full bucket moves back into it, unless his home lies behind it.
    const auto who_passed = [&](std::size_t full) {
        for (std::size_t at = (full + 1) & mask;; at = (at + 1) & mask) {
            const Bucket& bucket = buckets_[at];
            for (std::uint32_t place = 0; place < bucket.used; ++place) {
                const std::size_t home = static_cast<std::size_t>(bucket.low[place]) & mask;
                if (((at - home) & mask) >= ((at - full) & mask)) { return Place{at, place}; }
            }
            if (bucket.used < kPlaces) { return Place{full, kPlaces}; }
        }
    };
    while (buckets_[hole.bucket].used == kPlaces) {
        const Place passed = who_passed(hole.bucket);
        if (passed.place == kPlaces) { break; }
        move(passed, hole);
        hole = passed;
    }
    Bucket& bucket = buckets_[hole.bucket];
    move({hole.bucket, --bucket.used}, hole);
    --blocks_;
}

void BlockIndex::grow() {
    Buckets former(buckets_.size() * 2);
    former.swap(buckets_);
    for (const Bucket& bucket : former) {
        for (std::uint32_t place = 0; place < bucket.used; ++place) {
            put({.high = bucket.high[place], .low = bucket.low[place]}, bucket.holders[place]);
        }
    }
}

bool BlockIndex::add(std::uint32_t slot, base::BlockHash hash) {
    if (slot >= counts_.size()) { counts_.resize(slot + 1); }
    const auto [at, place] = find(hash);
    if (place < buckets_[at].used) {
        HolderSets::Set& holders = buckets_[at].holders[place];
        if (sets_.has(holders, slot)) { return false; }
        holders = sets_.with(holders, slot);
    } else {
        if (blocks_ >= blocks_max_) { return false; }
        if (++blocks_ > buckets_.size() * kTakenMax) { grow(); }
        put(hash, sets_.with(HolderSets::kNobody, slot));
    }
    ++counts_[slot];
    return true;
}

void BlockIndex::remove(std::uint32_t slot, base::BlockHash hash) {
    const Place found = find(hash);
    Bucket& bucket = buckets_[found.bucket];
    if (found.place >= bucket.used || !sets_.has(bucket.holders[found.place], slot)) { return; }
    HolderSets::Set& holders = bucket.holders[found.place];
    holders = sets_.without(holders, slot);
    --counts_[slot];
    if (holders == HolderSets::kNobody) { erase(found); }
}

void BlockIndex::clear(std::uint32_t slot) {
    for (std::size_t at = 0; at < buckets_.size() && blocks_of(slot) > 0;) {
        Bucket& bucket = buckets_[at];
        std::uint32_t place = 0;
        while (place < bucket.used && !sets_.has(bucket.holders[place], slot)) {
            ++place;
        }
        if (place == bucket.used) {
            ++at;
            continue;
        }
        // Another may move here, from this bucket or a later one: it is looked at again.
        remove(slot, {.high = bucket.high[place], .low = bucket.low[place]});
    }
}

void BlockIndex::match(std::span<const base::BlockHash> chain, std::size_t slots,
                       std::vector<std::uint32_t>& leading) const {
    leading.assign(slots, 0);
    std::vector<std::uint64_t> alive((slots + 63) / 64, ~std::uint64_t{0});  // hold everything so far
    if (slots % 64 != 0) { alive.back() = (std::uint64_t{1} << (slots % 64)) - 1; }
    std::vector<std::uint64_t> here(alive.size());
    HolderSets::Set last = HolderSets::kNobody;
    std::uint32_t blocks = 0;
    for (; blocks < chain.size(); ++blocks) {
        const HolderSets::Set holders = holders_of(chain[blocks]);
        if (holders == HolderSets::kNobody) { break; }
        if (std::exchange(last, holders) == holders) { continue; }  // nobody less than one block before
        std::fill(here.begin(), here.end(), 0);
        sets_.visit_while(holders, [&](std::uint32_t slot) {
            if (slot < slots) { here[slot / 64] |= std::uint64_t{1} << (slot % 64); }
            return true;
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

}  // namespace scheduler
