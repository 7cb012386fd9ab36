#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "device/device.h"
#include "kv_cache/block_pool.h"
#include "kv_cache/kv_layout.h"

namespace kv_cache {

/// The bytes of all blocks of a worker, block after block, in the memory of a device. Whoever owns a block (kv_cache.h)
/// may touch its bytes, from any thread; the addresses never change. Where the device's memory is not the host's
/// (device().is_host_memory()), the processor reaches them through KvAccess only.
class KvStore {
public:
    /// `blocks_total` > 0; `device` must outlive the store. Error: resource_exhausted.
    static Result<KvStore> make(device::Device& device, const KvLayout& layout, std::uint32_t blocks_total);

    const KvLayout& layout() const { return layout_; }
    std::uint32_t blocks_total() const { return blocks_total_; }
    device::Device& device() const { return *device_; }

    /// `layout().block_bytes()` bytes.
    std::byte* block(BlockId id) { return buffer_.data() + offset(id); }
    const std::byte* block(BlockId id) const { return buffer_.data() + offset(id); }

    /// The tile of (block, layer, part, kv_head): `layout().tile_bytes()` bytes.
    std::byte* tile(BlockId id, std::uint32_t layer, KvPart part, std::uint32_t kv_head) {
        return block(id) + layout_.tile_offset(layer, part, kv_head);
    }
    const std::byte* tile(BlockId id, std::uint32_t layer, KvPart part, std::uint32_t kv_head) const {
        return block(id) + layout_.tile_offset(layer, part, kv_head);
    }

    /// All bytes of a run of blocks: what a swap or a move copies in one piece.
    std::span<std::byte> run(BlockRun run);
    std::span<const std::byte> run(BlockRun run) const;

private:
    KvStore(KvLayout layout, std::uint32_t blocks_total, device::Device& device, device::Buffer buffer);
    std::size_t offset(BlockId id) const {
        CHECK(base::raw(id) < blocks_total_, "block " << base::raw(id) << " of " << blocks_total_);
        return base::raw(id) * layout_.block_bytes();
    }

    KvLayout layout_;
    std::uint32_t blocks_total_;
    device::Device* device_;
    device::Buffer buffer_;
};

}  // namespace kv_cache
