#include "kv_transfer/tier/host_tier.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/check.h"

namespace kv_transfer {

base::Result<std::uint32_t> tier_slots(std::uint64_t bytes, std::size_t block_bytes, const char* setting) {
    const std::uint64_t slots = bytes / block_bytes;
    if (slots == 0) {
        return base::fail(base::ErrorCode::invalid_argument,
                          fmt::format("{} is {} bytes, less than one block of this model's KV ({} bytes): give more, "
                                      "or 0 to leave this level out",
                                      setting, bytes, block_bytes));
    }
    return static_cast<std::uint32_t>(std::min<std::uint64_t>(slots, std::numeric_limits<std::int32_t>::max()));
}

base::Result<std::unique_ptr<HostTier>> HostTier::make(const kv_cache::KvStore& pool, std::uint64_t bytes) {
    const std::size_t block_bytes = pool.layout().block_bytes();
    const auto slots = tier_slots(bytes, block_bytes, "engine.kv_host_bytes");
    if (!slots) { return base::pass_on(slots); }
    auto buffer = pool.device().allocate_host(block_bytes * *slots);
    if (!buffer) { return base::pass_on(buffer, "engine.kv_host_bytes"); }
    return std::unique_ptr<HostTier>(new HostTier(std::move(*buffer), block_bytes, *slots));
}

std::span<std::byte> HostTier::at(kv_cache::BlockRun slots) {
    CHECK(slots.count <= slots_ && base::raw(slots.first) <= slots_ - slots.count,
          "slots " << base::raw(slots.first) << " + " << slots.count << " of " << slots_);
    return {buffer_.data() + base::raw(slots.first) * block_bytes_, slots.count * block_bytes_};
}

base::Result<void> HostTier::save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                  std::span<const base::BlockHash>, std::optional<base::BlockHash>) {
    for (const TierPiece& piece : pieces) {
        if (auto saved = pool.save(std::array{piece.blocks}, at(piece.slots)); !saved) { return saved; }
    }
    return {};
}

base::Result<std::uint32_t> HostTier::load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                           std::span<const base::BlockHash>) {
    std::uint32_t done = 0;
    for (const TierPiece& piece : pieces) {
        if (auto restored = pool.restore(std::array{piece.blocks}, at(piece.slots)); !restored) {
            return base::pass_on(restored);
        }
        done += piece.blocks.count;
    }
    return done;
}

}  // namespace kv_transfer
