#include "scheduler/block_news.h"

#include <algorithm>
#include <string>

#include "proto/block_hashes.h"

namespace scheduler {
namespace {

/// Calls `take` for each hash; what is no whole one at the end is ignored.
template <class Take>
void for_each_hash(const std::string& bytes, Take take) {
    for (std::size_t i = 0; i < bytes.size() / proto::kBlockHashBytes; ++i) {
        take(proto::block_hash_at(bytes, i));
    }
}

}  // namespace

void BlockNews::take(const sluice::proto::BlockEvents& events, BlockIndex& index, std::uint32_t slot,
                     LevelIndex* levels) {
    const std::uint64_t number = events.number();
    if (events.snapshot()) {
        const bool late = in_step_ ? number <= applied_ : any_ && number < seen_;
        if (late) { return; }
        index.clear(slot);
        if (levels != nullptr) { levels->clear_blocks(slot); }
        in_step_ = true;
        gap_ = false;
        asked_at_.reset();
    } else if (!any_ && number <= 1) {
        in_step_ = true;  // the first events of a life: nothing was there before them
    } else if (in_step_ && number <= applied_) {
        return;  // a duplicate
    } else if (!in_step_ || number != applied_ + 1) {
        in_step_ = false;
        any_ = true;
        gap_ = true;
        seen_ = std::max(seen_, number);
        return;
    }
    any_ = true;
    applied_ = number;
    seen_ = std::max(seen_, number);
    const auto put = [&](base::BlockHash hash, std::uint32_t level) {
        if (levels != nullptr) { levels->put(slot, hash, level); }
    };
    for_each_hash(events.stored(), [&](base::BlockHash hash) {
        index.add(slot, hash);
        put(hash, 0);
    });
    if (!events.snapshot()) {
        for_each_hash(events.removed(), [&](base::BlockHash hash) {
            index.remove(slot, hash);
            put(hash, 0);
        });
    }
    for (const sluice::proto::BlocksBelow& below : events.below()) {
        for_each_hash(below.hashes(), [&](base::BlockHash hash) {
            if (index.holds(slot, hash)) { put(hash, below.level()); }
        });
    }
}

bool BlockNews::ask_for_snapshot(bool holds_blocks, base::TimePoint now, base::Duration patience) {
    const bool is_needed = gap_ || (!any_ && holds_blocks) || asked_at_.has_value();
    if (in_step_ || !is_needed) { return false; }
    if (asked_at_ && now - *asked_at_ < patience) { return false; }
    asked_at_ = now;
    return true;
}

}  // namespace scheduler
