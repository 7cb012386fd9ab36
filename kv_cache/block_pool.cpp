#include "kv_cache/block_pool.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace kv_cache {

BlockPool::BlockPool(std::uint32_t blocks_total) : blocks_total_(blocks_total) {
    if (blocks_total > 0) { insert(0, blocks_total); }
}

void BlockPool::insert(std::uint32_t first, std::uint32_t count) {
    blocks_free_ += count;
    if (spare_run_.empty()) {
        runs_.emplace(first, count);
        by_size_.emplace(count, first);
        return;
    }
    spare_run_.key() = first;
    spare_run_.mapped() = count;
    runs_.insert(std::move(spare_run_));
    spare_size_.value() = {count, first};
    by_size_.insert(std::move(spare_size_));
}

BlockPool::Runs::iterator BlockPool::erase(Runs::iterator run) {
    spare_size_ = by_size_.extract({run->second, run->first});
    blocks_free_ -= run->second;
    const auto next = std::next(run);
    spare_run_ = runs_.extract(run);
    return next;
}

std::optional<BlockRun> BlockPool::take_best_fit(std::uint32_t count) {
    CHECK(count > 0);
    const auto fit = by_size_.lower_bound({count, 0});
    if (fit == by_size_.end()) { return std::nullopt; }
    const auto [size, first] = *fit;
    erase(runs_.find(first));
    if (size > count) { insert(first + count, size - count); }
    return BlockRun{BlockId{first}, count};
}

std::optional<BlockRun> BlockPool::take_largest() {
    if (by_size_.empty()) { return std::nullopt; }
    const auto [size, first] = *by_size_.lower_bound({by_size_.rbegin()->first, 0});
    erase(runs_.find(first));
    return BlockRun{BlockId{first}, size};
}

std::uint32_t BlockPool::take_at(BlockId first, std::uint32_t count) {
    const std::uint32_t begin = base::raw(first);
    auto run = runs_.upper_bound(begin);
    if (count == 0 || run == runs_.begin()) { return 0; }
    --run;
    const auto [run_first, run_count] = *run;
    if (begin - run_first >= run_count) { return 0; }
    const std::uint32_t before = begin - run_first;
    const std::uint32_t taken = std::min(count, run_count - before);
    erase(run);
    if (before > 0) { insert(run_first, before); }
    if (before + taken < run_count) { insert(begin + taken, run_count - before - taken); }
    return taken;
}

void BlockPool::give_back(BlockRun run) {
    std::uint32_t first = base::raw(run.first);
    std::uint32_t count = run.count;
    CHECK(count > 0 && count <= blocks_total_ && first <= blocks_total_ - count,
          "blocks " << first << " + " << count << " of " << blocks_total_);
    auto next = runs_.lower_bound(first);
    CHECK(next == runs_.end() || next->first >= first + count, "block " << next->first << " is free already");
    if (next != runs_.end() && next->first == first + count) {
        count += next->second;
        next = erase(next);
    }
    if (next != runs_.begin()) {
        const auto previous = std::prev(next);
        CHECK(previous->first + previous->second <= first, "block " << first << " is free already");
        if (previous->first + previous->second == first) {
            first = previous->first;
            count += previous->second;
            erase(previous);
        }
    }
    insert(first, count);
}

}  // namespace kv_cache
