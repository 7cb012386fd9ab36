#include "kv_cache/kv_store.h"

#include <utility>

namespace kv_cache {

KvStore::KvStore(KvLayout layout, std::uint32_t blocks_total, device::Device& device, device::Buffer buffer)
    : layout_(std::move(layout)), blocks_total_(blocks_total), device_(&device), buffer_(std::move(buffer)) {}

Result<KvStore> KvStore::make(device::Device& device, const KvLayout& layout, std::uint32_t blocks_total) {
    CHECK(blocks_total > 0);
    auto buffer = device.allocate(layout.block_bytes() * blocks_total);
    if (!buffer) {
        return base::pass_on(buffer, "KV store of " + std::to_string(blocks_total) + " blocks of " +
                                         std::to_string(layout.block_bytes()) + " bytes");
    }
    return KvStore(layout, blocks_total, device, std::move(*buffer));
}

std::span<std::byte> KvStore::run(BlockRun run) {
    CHECK(run.count <= blocks_total_ && base::raw(run.first) <= blocks_total_ - run.count,
          "blocks " << base::raw(run.first) << " + " << run.count << " of " << blocks_total_);
    return {buffer_.data() + base::raw(run.first) * layout_.block_bytes(), run.count * layout_.block_bytes()};
}

std::span<const std::byte> KvStore::run(BlockRun run) const {
    return const_cast<KvStore*>(this)->run(run);
}

}  // namespace kv_cache
