#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "kv_cache/kv_access.h"
#include "kv_transfer/tier/host_tier.h"
#include "kv_transfer/tier/tier.h"

#include "tests/support/catch.h"

namespace test_support {

/// A tier in host memory whose jobs are done when the test says so.
class HeldMover final : public kv_transfer::TierMover {
public:
    HeldMover(kv_cache::KvStore& store, std::uint32_t slots)
        : access_(kv_cache::KvAccess::make(store).value()),
          bytes_(kv_transfer::HostTier::make(store, slots * store.layout().block_bytes()).value()) {}

    bool submit(kv_transfer::TierJob job) override {
        if (jobs.size() >= room) { return false; }
        jobs.push_back(std::move(job));
        return true;
    }
    std::uint32_t blocks_loading() const override {
        std::size_t blocks = 0;
        for (const kv_transfer::TierJob& job : jobs) {
            blocks += job.kind == kv_transfer::TierJob::Kind::load ? job.hashes.size() : 0;
        }
        return static_cast<std::uint32_t>(blocks);
    }

    /// Moves the bytes of the `index`-th job, or as many of its blocks as `blocks` says, and takes it out.
    kv_transfer::TierEvent run(std::size_t index, std::uint32_t blocks = 0xffffffff) {
        const kv_transfer::TierJob job = jobs.at(index);
        jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(index));
        kv_transfer::TierEvent event;
        event.id = job.id;
        event.duration = duration;
        if (job.kind == kv_transfer::TierJob::Kind::clear) { return event; }
        for (kv_transfer::TierPiece piece : job.pieces) {
            const std::uint32_t count = std::min(piece.blocks.count, blocks - event.blocks_done);
            piece.blocks.count = piece.slots.count = count;
            if (count > 0) {
                if (job.kind == kv_transfer::TierJob::Kind::save) {
                    REQUIRE(bytes_->save(access_, std::span(&piece, 1), {}, std::nullopt));
                } else {
                    REQUIRE(bytes_->load(access_, std::span(&piece, 1), {}) == count);
                }
            }
            event.blocks_done += count;
        }
        if (event.blocks_done < job.hashes.size()) {
            event.error = base::Error{base::ErrorCode::data_loss, "no"};
            if (job.kind == kv_transfer::TierJob::Kind::save) { event.blocks_done = 0; }
        }
        return event;
    }

    std::deque<kv_transfer::TierJob> jobs;
    std::size_t room = 1000;
    base::Duration duration{};

private:
    kv_cache::KvAccess access_;
    std::unique_ptr<kv_transfer::HostTier> bytes_;
};

}  // namespace test_support
