// What FileTier knows of its disk, and how its blocks are coded by that; the contract stands in file_tier.h.
#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "base/log.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/host_tier.h"

namespace kv_transfer {

using base::Result;

namespace {

// What is read to find out what the disk gives, before anybody waits for it.
constexpr std::size_t kRateBytes = 64u << 10;
constexpr std::size_t kRateAtOnce = 4;
constexpr std::size_t kRateRounds = 4;
constexpr auto kRateTime = std::chrono::milliseconds(100);

}  // namespace

bool FileTier::is_coded(std::uint32_t slot) const {
    return coder_ && records_[slot].block && records_[slot].block->coded_bytes > 0;
}

std::size_t FileTier::bytes_in(std::uint32_t slot) const {
    return is_coded(slot) ? records_[slot].block->coded_bytes : std::min(block_bytes_, slot_bytes_);
}

/// What is moved of so many bytes.
std::size_t FileTier::padded(std::size_t bytes) const {
    return (bytes + io_->alignment() - 1) / io_->alignment() * io_->alignment();
}

/// A few small reads of what was used last, as many at once as a load has on its way (up to a bound).
void FileTier::find_rate() {
    std::vector<std::uint32_t> slots;  // what was used last comes last
    for (const Found& block : found()) {
        slots.push_back(block.slot);
    }
    if (slots.empty()) { return; }
    const std::size_t bytes = std::min(padded(kRateBytes), padded(bytes_in(slots.back())));
    std::erase_if(slots, [&](std::uint32_t slot) { return padded(bytes_in(slot)) < bytes; });
    const auto at_once = static_cast<std::uint32_t>(std::min<std::size_t>({kRateAtOnce, io_->depth(), slots.size()}));
    auto memory = device_.allocate_host(bytes * at_once);
    if (!memory) { return; }
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto until = now() + kRateTime;
    base::Duration quickest = base::Duration::max();
    for (std::size_t round = 0; round < kRateRounds && slots.size() >= at_once && now() < until; ++round) {
        const auto begin = now();
        for (std::uint32_t i = 0; i < at_once; ++i) {
            const std::span<std::byte> place{memory->data() + i * bytes, bytes};
            io_->begin_read(i, place, std::uint64_t{slots.back()} * slot_bytes_);
            slots.pop_back();
        }
        bool is_read = true;
        for (std::uint32_t i = 0; i < at_once; ++i) {
            is_read = io_->finish(i) == 0 && is_read;
        }
        if (is_read) { quickest = std::min<base::Duration>(quickest, now() - begin); }
    }
    if (quickest == base::Duration::max()) { return; }  // none has come: nothing is known
    std::array<std::byte, kTierRateBytes> kept{};
    const bool is_kept = read_all(names_, kept, kTierRateAt) == 0;
    rate_.begin(bytes * at_once, quickest, is_kept ? decode_rate(kept) : std::nullopt);
}

void FileTier::keep_rate() {
    const auto rate = rate_.take_changed();
    if (!rate) { return; }
    if (write_all(names_, encode_rate(*rate), kTierRateAt) != 0) {
        spdlog::debug("cannot keep the rate of the disk in {}", (folder_ / "names").string());
    }
}

std::optional<base::Duration> FileTier::load_time() const {
    if (!rate_.value()) { return std::nullopt; }
    double bytes = 0;
    std::uint32_t blocks = 0;
    double decoded = 0;
    for (std::uint32_t slot = 0; slot < slots_total(); ++slot) {
        if (!records_[slot].block) { continue; }
        ++blocks;
        bytes += static_cast<double>(bytes_in(slot));
        decoded += is_coded(slot) ? static_cast<double>(block_bytes_) / coder_->decode_rate() : 0;
    }
    if (blocks == 0) { return std::nullopt; }
    const double read = bytes / *rate_.value();
    const double seconds = io_->depth() > 1 ? std::max(read, decoded) : read + decoded;
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds / blocks));
}

bool FileTier::codes() const {
    if (coding_ != TierCoding::automatic) { return coding_ == TierCoding::exact; }
    // As long as nothing is known of the disk nothing is coded.
    return rate_.value() && coding_pays({*rate_.value(), coder_->decode_rate(), coder_->share(), io_->depth() > 1});
}

/// The block of a coded part, and how long it is, with zeros behind it up to what can be moved; where it may lie there
/// as it is and coding does not make it shorter, that (`coded_bytes` 0).
Result<std::span<const std::byte>> FileTier::code(kv_cache::KvAccess& pool, const Part& part, std::uint32_t index,
                                                  std::size_t& coded_bytes) {
    const auto memory = staging(index);
    if (!memory) { return base::pass_on(memory); }
    const auto coded = coder_->encode(pool, part.blocks.first, *memory);
    if (!coded) { return base::pass_on(coded); }
    coded_bytes = *coded;
    if (padded(coded_bytes) <= slot_bytes_ && coded_bytes < block_bytes_) {
        const std::span<std::byte> whole = memory->first(padded(coded_bytes));
        std::fill(whole.begin() + static_cast<std::ptrdiff_t>(coded_bytes), whole.end(), std::byte{});
        return whole;
    }
    if (coding_ == TierCoding::exact) { return tier_does_not_fit(coded_bytes, slot_bytes_, "engine.kv_disk.codec"); }
    coded_bytes = 0;
    const std::span<std::byte> whole = memory->first(block_bytes_);
    if (auto saved = pool.save(std::array{part.blocks}, whole); !saved) { return base::pass_on(saved); }
    return whole;
}

}  // namespace kv_transfer
