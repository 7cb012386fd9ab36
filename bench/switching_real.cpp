// A real engine, and host memory below its pool.
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "bench/switching_machine.h"
#include "kv_transfer/tier/host_tier.h"
#include "kv_transfer/tier/tier_copier.h"

namespace bench {
namespace {

using kv_transfer::TierBytes;
using kv_transfer::TierEvent;
using kv_transfer::TierJob;
using kv_transfer::TierPiece;

/// Host memory in the plain paged layout: a plane for each layer and K or V, in it a tile for each block.
class PagedTier final : public TierBytes {
public:
    PagedTier(const kv_cache::KvLayout& layout, std::uint32_t layers, std::uint32_t slots)
        : planes_(std::size_t{2} * layers),
          tile_(layout.block_bytes() / planes_),
          slots_(slots),
          bytes_(planes_ * tile_ * slots) {}

    std::uint32_t slots_total() const override { return slots_; }
    base::Result<void> save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                            std::span<const base::BlockHash>, std::optional<base::BlockHash>) override {
        each(pool, pieces, [this](std::byte* block, std::byte* tier) { std::memcpy(tier, block, tile_); });
        return {};
    }
    base::Result<std::uint32_t> load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                     std::span<const base::BlockHash>) override {
        return each(pool, pieces, [this](std::byte* block, std::byte* tier) { std::memcpy(block, tier, tile_); });
    }
    base::Result<void> clear() override { return {}; }

private:
    /// The blocks of the pieces.
    template <class Copy>
    std::uint32_t each(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces, const Copy& copy) {
        std::uint32_t blocks = 0;
        for (const TierPiece& piece : pieces) {
            const std::span<std::byte> bytes = pool.in_place(piece.blocks);
            for (std::uint32_t i = 0; i < piece.blocks.count; ++i) {
                const std::size_t slot = base::raw(piece.slots.first) + i;
                for (std::size_t plane = 0; plane < planes_; ++plane) {
                    copy(bytes.data() + (i * planes_ + plane) * tile_, bytes_.data() + (plane * slots_ + slot) * tile_);
                }
            }
            blocks += piece.blocks.count;
        }
        return blocks;
    }

    const std::size_t planes_;
    const std::size_t tile_;
    const std::uint32_t slots_;
    std::vector<std::byte> bytes_;
};

/// Counts what the mover behind it moves; in the modes that do not copy beside the step it copies itself.
class CountingMover final : public kv_transfer::TierMover {
public:
    CountingMover(kv_cache::KvAccess access, std::unique_ptr<TierBytes> bytes, std::uint32_t planes, SwapMode mode,
                  const base::Clock& clock, SwitchingMachine::OnEvent on_event)
        : access_(std::move(access)),
          bytes_(std::move(bytes)),
          planes_(planes),
          mode_(mode),
          clock_(clock),
          on_event_(std::move(on_event)) {}

    /// Copies beside the steps from now on.
    base::Result<void> start_copier(kv_cache::KvStore& store) {
        auto copier = kv_transfer::TierCopier::start(store, std::move(bytes_), 4096, clock_, [this](TierEvent event) {
            nanoseconds_ += event.duration.count();
            on_event_(std::move(event));
            --pending_;
        });
        if (!copier) { return base::pass_on(copier); }
        copier_ = std::move(*copier);
        return {};
    }

    bool submit(TierJob job) override {
        const bool is_load = job.kind == TierJob::Kind::load;
        std::uint32_t blocks = 0;
        for (const TierPiece& piece : job.pieces) {
            blocks += piece.blocks.count;
        }
        const std::uint64_t copies = mode_ == SwapMode::paged ? std::uint64_t{planes_} * blocks : job.pieces.size();
        if (copier_ != nullptr) {
            ++pending_;
            if (!copier_->submit(std::move(job))) {
                --pending_;
                return false;
            }
        } else {
            copy_now(job, blocks);
        }
        (is_load ? counts_.copies_in : counts_.copies_out) += copies;
        (is_load ? counts_.blocks_in : counts_.blocks_out) += blocks;
        ++(is_load ? counts_.loads : counts_.saves);
        return true;
    }
    std::uint32_t blocks_loading() const override { return copier_ != nullptr ? copier_->blocks_loading() : 0; }

    bool is_pending() const { return pending_ > 0; }
    SwapCounts counts() const {
        SwapCounts counts = counts_;
        counts.seconds = static_cast<double>(nanoseconds_.load()) * 1e-9;
        return counts;
    }
    base::Duration copied_between(base::TimePoint from, base::TimePoint to) {
        base::Duration sum{};
        for (const auto& [begin, end] : copied_) {
            sum += std::max(base::Duration{}, std::min(end, to) - std::max(begin, from));
        }
        std::erase_if(copied_, [&](const auto& copy) { return copy.second <= to; });
        return sum;
    }

private:
    void copy_now(const TierJob& job, std::uint32_t blocks) {
        TierEvent event;
        event.id = job.id;
        event.blocks_done = blocks;
        const base::TimePoint begin = clock_.now();
        std::span<const base::BlockHash> names(job.hashes);
        std::optional<base::BlockHash> parent = job.parent;
        for (const TierPiece& piece : job.pieces) {
            const auto of_piece = names.first(piece.blocks.count);
            if (job.kind == TierJob::Kind::save) {
                if (auto saved = bytes_->save(access_, std::span(&piece, 1), of_piece, parent); !saved) {
                    event.error = saved.error();
                }
            } else if (job.kind == TierJob::Kind::load) {
                if (auto loaded = bytes_->load(access_, std::span(&piece, 1), of_piece); !loaded) {
                    event.error = loaded.error();
                }
            }
            parent = of_piece.back();
            names = names.subspan(piece.blocks.count);
        }
        if (event.error) { event.blocks_done = 0; }
        event.duration = clock_.now() - begin;
        nanoseconds_ += event.duration.count();
        copied_.emplace_back(begin, clock_.now());
        on_event_(std::move(event));
    }

    kv_cache::KvAccess access_;
    std::unique_ptr<TierBytes> bytes_;
    const std::uint32_t planes_;
    const SwapMode mode_;
    const base::Clock& clock_;
    const SwitchingMachine::OnEvent on_event_;
    SwapCounts counts_;
    std::atomic<std::int64_t> nanoseconds_{0};
    std::atomic<std::uint32_t> pending_{0};
    std::vector<std::pair<base::TimePoint, base::TimePoint>> copied_;
    std::unique_ptr<kv_transfer::TierCopier> copier_;  // last: its thread uses the rest
};

class RealMachine final : public SwitchingMachine {
public:
    RealMachine(std::unique_ptr<engine::Engine> engine, std::uint32_t tier_slots)
        : engine_(std::move(engine)), tier_slots_(tier_slots) {}

    engine::Engine& engine() override { return *engine_; }
    const base::Clock& clock() const override { return clock_; }
    std::uint32_t tier_slots() const override { return tier_slots_; }
    std::size_t block_bytes() const override { return engine_->layout().block_bytes(); }
    base::Result<void> begin(SwapMode mode, OnEvent on_event) override {
        mover_.reset();
        auto access = kv_cache::KvAccess::make(engine_->kv_store());
        if (!access) { return base::pass_on(access); }
        const std::uint32_t layers = engine_->shape().layers;
        std::unique_ptr<TierBytes> bytes;
        if (mode == SwapMode::paged) {
            bytes = std::make_unique<PagedTier>(engine_->layout(), layers, tier_slots_);
        } else {
            auto host = kv_transfer::HostTier::make(engine_->kv_store(), std::uint64_t{tier_slots_} * block_bytes());
            if (!host) { return base::pass_on(host); }
            bytes = std::move(*host);
        }
        mover_ = std::make_unique<CountingMover>(std::move(*access), std::move(bytes), 2 * layers, mode, clock_,
                                                 std::move(on_event));
        const bool beside = mode == SwapMode::async || mode == SwapMode::reuse || goes_through(mode);
        return beside ? mover_->start_copier(engine_->kv_store()) : base::Result<void>{};
    }
    void end() override { mover_.reset(); }
    kv_transfer::TierMover& mover() override { return *mover_; }
    bool copies_pending() const override { return mover_->is_pending(); }
    void wait(base::TimePoint until, const std::function<void(base::TimePoint)>& wait) override { wait(until); }
    SwapCounts counts() const override { return mover_->counts(); }
    base::Duration copied_between(base::TimePoint from, base::TimePoint to) override {
        return mover_->copied_between(from, to);
    }

private:
    base::SystemClock clock_;
    std::unique_ptr<engine::Engine> engine_;
    const std::uint32_t tier_slots_;
    std::unique_ptr<CountingMover> mover_;
};

}  // namespace

base::Result<std::unique_ptr<SwitchingMachine>> real_machine(const engine::EngineOptions& options,
                                                             std::uint32_t pool_blocks, std::uint32_t tier_slots) {
    auto engine = engine::load_engine(options);
    if (!engine) { return base::pass_on(engine); }
    if ((*engine)->blocks_total() < pool_blocks) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "the KV pool has " + std::to_string((*engine)->blocks_total()) + " blocks, " +
                              std::to_string(pool_blocks) +
                              " are wanted: take fewer --users or a smaller --memory-share");
    }
    return std::make_unique<RealMachine>(std::move(*engine), tier_slots);
}

}  // namespace bench
