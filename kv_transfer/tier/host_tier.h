#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "device/buffer.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/block_coder.h"
#include "kv_transfer/tier/tier.h"

namespace kv_transfer {

/// A level in host memory that copies of the pool's device reach directly (pinned on CUDA; on the host pages that cost
/// nothing until they are written). Ends with the process.
class HostTier final : public TierBytes {
public:
    /// As many slots as `bytes` hold. With a coder blocks lie there coded, in slots that are smaller, and a save with a
    /// block that does not become as small fails. Error: invalid_argument when that is none; resource_exhausted.
    static base::Result<std::unique_ptr<HostTier>> make(const kv_cache::KvStore& pool, std::uint64_t bytes,
                                                        std::unique_ptr<BlockCoder> coder = nullptr);

    std::uint32_t slots_total() const override { return slots_; }
    base::Result<void> save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                            std::span<const base::BlockHash> hashes, std::optional<base::BlockHash> parent) override;
    base::Result<std::uint32_t> load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                     std::span<const base::BlockHash> hashes) override;
    base::Result<void> clear() override { return {}; }

private:
    HostTier(device::Buffer buffer, std::size_t slot_bytes, std::uint32_t slots)
        : buffer_(std::move(buffer)), slot_bytes_(slot_bytes), slots_(slots) {}
    std::span<std::byte> at(kv_cache::BlockRun slots);
    base::Result<void> save_coded(kv_cache::KvAccess& pool, const TierPiece& piece);
    base::Result<std::uint32_t> load_coded(kv_cache::KvAccess& pool, const TierPiece& piece);

    device::Buffer buffer_;
    std::size_t slot_bytes_;
    std::uint32_t slots_;
    std::unique_ptr<BlockCoder> coder_;     // null: blocks lie there as they are
    device::Buffer coded_;                  // one block, before it is known how long it is
    std::vector<std::uint32_t> slot_used_;  // bytes of the coded block in it
};

/// Slots of `block_bytes` that `bytes` hold, at most what a pool can have. Error: invalid_argument, naming `setting`,
/// when that is none.
base::Result<std::uint32_t> tier_slots(std::uint64_t bytes, std::size_t block_bytes, const char* setting);

/// resource_exhausted: a block that coding does not make as small as a slot of `setting`'s level.
tl::unexpected<base::Error> tier_does_not_fit(std::size_t coded_bytes, std::size_t slot_bytes, const char* setting);

}  // namespace kv_transfer
