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

tl::unexpected<base::Error> tier_does_not_fit(std::size_t coded_bytes, std::size_t slot_bytes, const char* setting) {
    return base::fail(base::ErrorCode::resource_exhausted,
                      fmt::format("a block of KV takes {} bytes coded, a slot has {}: {}: raw has room for any",
                                  coded_bytes, slot_bytes, setting));
}

base::Result<std::unique_ptr<HostTier>> HostTier::make(const kv_cache::KvStore& pool, std::uint64_t bytes,
                                                       std::unique_ptr<BlockCoder> coder) {
    const std::size_t slot_bytes = coder ? coder->slot_bytes() : pool.layout().block_bytes();
    const auto slots = tier_slots(bytes, slot_bytes, "engine.kv_host_bytes");
    if (!slots) { return base::pass_on(slots); }
    auto buffer = pool.device().allocate_host(slot_bytes * *slots);
    if (!buffer) { return base::pass_on(buffer, "engine.kv_host_bytes"); }
    std::unique_ptr<HostTier> tier(new HostTier(std::move(*buffer), slot_bytes, *slots));
    if (coder) {
        auto coded = pool.device().allocate_host(coder->coded_bytes_max());
        if (!coded) { return base::pass_on(coded, "engine.kv_host_codec"); }
        tier->coded_ = std::move(*coded);
        tier->slot_used_.resize(*slots);
        tier->coder_ = std::move(coder);
    }
    return tier;
}

std::span<std::byte> HostTier::at(kv_cache::BlockRun slots) {
    CHECK(slots.count <= slots_ && base::raw(slots.first) <= slots_ - slots.count,
          "slots " << base::raw(slots.first) << " + " << slots.count << " of " << slots_);
    return {buffer_.data() + base::raw(slots.first) * slot_bytes_, slots.count * slot_bytes_};
}

base::Result<void> HostTier::save_coded(kv_cache::KvAccess& pool, const TierPiece& piece) {
    for (std::uint32_t i = 0; i < piece.blocks.count; ++i) {
        const std::uint32_t slot = base::raw(piece.slots.first) + i;
        const std::span<std::byte> place = at({kv_cache::BlockId{slot}, 1});
        const std::span<std::byte> coded{coded_.data(), coded_.size()};
        const auto bytes = coder_->encode(pool, kv_cache::BlockId{base::raw(piece.blocks.first) + i}, coded);
        if (!bytes) { return base::pass_on(bytes); }
        if (*bytes > place.size()) { return tier_does_not_fit(*bytes, place.size(), "engine.kv_host_codec"); }
        std::copy_n(coded.begin(), *bytes, place.begin());
        slot_used_[slot] = static_cast<std::uint32_t>(*bytes);
        note_moved(*bytes);
    }
    return {};
}

base::Result<std::uint32_t> HostTier::load_coded(kv_cache::KvAccess& pool, const TierPiece& piece) {
    for (std::uint32_t i = 0; i < piece.blocks.count; ++i) {
        const std::uint32_t slot = base::raw(piece.slots.first) + i;
        const auto coded = at({kv_cache::BlockId{slot}, 1}).first(slot_used_[slot]);
        auto decoded = coder_->decode(pool, kv_cache::BlockId{base::raw(piece.blocks.first) + i}, coded);
        if (!decoded && decoded.error().code == base::ErrorCode::data_loss) { return i; }
        if (!decoded) { return base::pass_on(decoded); }
        note_moved(coded.size());
    }
    return piece.blocks.count;
}

base::Result<void> HostTier::save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                  std::span<const base::BlockHash>, std::optional<base::BlockHash>) {
    for (const TierPiece& piece : pieces) {
        auto saved = coder_ ? save_coded(pool, piece) : pool.save(std::array{piece.blocks}, at(piece.slots));
        if (!saved) { return saved; }
        if (!coder_) { note_moved(piece.slots.count * slot_bytes_); }
    }
    return {};
}

base::Result<std::uint32_t> HostTier::load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                           std::span<const base::BlockHash>) {
    std::uint32_t done = 0;
    for (const TierPiece& piece : pieces) {
        if (!coder_) {
            if (auto restored = pool.restore(std::array{piece.blocks}, at(piece.slots)); !restored) {
                return base::pass_on(restored);
            }
            done += piece.blocks.count;
            note_moved(piece.slots.count * slot_bytes_);
            continue;
        }
        const auto loaded = load_coded(pool, piece);
        if (!loaded) { return loaded; }
        done += *loaded;
        if (*loaded < piece.blocks.count) { break; }
    }
    return done;
}

}  // namespace kv_transfer
