#include "sim/vllm_pool.h"

#include "base/check.h"

namespace sim {

VllmPool::VllmPool(std::uint32_t blocks_total) : blocks_(blocks_total) {
    for (std::uint32_t id = 0; id < blocks_total; ++id) {
        append(id);
    }
}

void VllmPool::append(std::uint32_t id) {
    Block& block = blocks_[id];
    CHECK(!block.is_free, "block " << id << " is given back twice");
    block.is_free = true;
    block.before = last_;
    block.after = kNone;
    (last_ == kNone ? first_ : blocks_[last_].after) = id;
    last_ = id;
    ++free_;
}

void VllmPool::unlink(std::uint32_t id) {
    Block& block = blocks_[id];
    CHECK(block.is_free, "block " << id);
    block.is_free = false;
    (block.before == kNone ? first_ : blocks_[block.before].after) = block.after;
    (block.after == kNone ? last_ : blocks_[block.after].before) = block.before;
    --free_;
}

std::uint32_t VllmPool::kept(const Blocks& blocks, std::uint64_t sequence, std::uint32_t most) const {
    std::uint32_t count = 0;
    while (count < most && count < blocks.former.size()) {
        const Block& block = blocks_[blocks.former[count]];
        if (!block.is_free || block.sequence != sequence || block.place != count) { break; }
        ++count;
    }
    return count;
}

void VllmPool::take(Blocks& blocks, std::uint64_t sequence, std::uint32_t count, std::uint32_t fresh) {
    CHECK(count + fresh <= free_, count << " kept and " << fresh << " new blocks of " << free_);
    for (std::uint32_t i = 0; i < count; ++i) {
        unlink(blocks.former[i]);
        blocks.held.push_back(blocks.former[i]);
    }
    blocks.former.clear();
    for (std::uint32_t i = 0; i < fresh; ++i) {
        const std::uint32_t id = first_;
        unlink(id);
        blocks_[id].sequence = sequence;
        blocks_[id].place = static_cast<std::uint32_t>(blocks.held.size());
        blocks.held.push_back(id);
    }
}

void VllmPool::give_back(Blocks& blocks) {
    for (auto id = blocks.held.rbegin(); id != blocks.held.rend(); ++id) {
        append(*id);
    }
    blocks.former = std::move(blocks.held);
    blocks.held.clear();
}

}  // namespace sim
