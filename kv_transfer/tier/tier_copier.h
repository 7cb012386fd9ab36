#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "base/clock.h"
#include "kv_cache/kv_access.h"
#include "kv_transfer/tier/tier.h"

namespace kv_transfer {

/// Moves the bytes of one level on a thread of its own, one job after the other; loads go before what else waits, since
/// a request waits for them. Saves that stand one behind another are given to the level together
/// (TierBytes::save_in_turn), until a load comes. Jobs that still wait when it is destroyed end with `cancelled`.
class TierCopier final : public TierMover {
public:
    /// Called on the copier's thread (or in the destructor), once for each job; must not block.
    using OnEvent = std::function<void(TierEvent)>;

    /// `jobs_max` (> 0) loads, and as many other jobs, may wait. `store` (whose bytes the jobs' blocks are) and `clock`
    /// must outlive it. Error: resource_exhausted, of the device.
    static base::Result<std::unique_ptr<TierCopier>> start(kv_cache::KvStore& store, std::unique_ptr<TierBytes> bytes,
                                                           std::uint32_t jobs_max, const base::Clock& clock,
                                                           OnEvent on_event);
    ~TierCopier() override;

    bool submit(TierJob job) override;
    std::uint32_t blocks_loading() const override;
    /// Events that can come without a job submitted meanwhile: of those that wait, of those that run, of a clear.
    static std::uint32_t events_max(std::uint32_t jobs_max) { return 2 * jobs_max + kSavesAtOnceMax + 1; }

private:
    static constexpr std::uint32_t kSavesAtOnceMax = 8;  // given to the level and not ended

    TierCopier(kv_cache::KvAccess access, std::unique_ptr<TierBytes> bytes, std::uint32_t jobs_max,
               const base::Clock& clock, OnEvent on_event);
    void run(const std::stop_token& stop);
    std::optional<TierJob> next_save(const std::stop_token& stop);
    void save_from(TierJob first, const std::stop_token& stop);
    TierEvent move(const TierJob& job);  // what is no save

    kv_cache::KvAccess access_;         // of the thread
    std::unique_ptr<TierBytes> bytes_;  // of the thread
    const std::uint32_t jobs_max_;
    const base::Clock& clock_;
    const OnEvent on_event_;

    mutable std::mutex mutex_;
    std::condition_variable_any ready_;
    std::deque<TierJob> loads_;         // guarded by mutex_
    std::deque<TierJob> others_;        // guarded by mutex_; in the order in which they were taken
    std::uint32_t blocks_loading_ = 0;  // guarded by mutex_
    std::jthread thread_;               // last: it uses all of the above
};

}  // namespace kv_transfer
