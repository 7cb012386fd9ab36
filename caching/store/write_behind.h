#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

#include "base/bounded_queue.h"
#include "caching/store/store.h"

namespace caching {

/// Writes to a store on a thread of its own, so that nobody waits for a disk. What does not fit into its queue, and
/// what the store does not take, is lost and counted: a miss later. Any thread.
class WriteBehind {
public:
    struct Options {
        std::size_t changes_max = 4096;  // that wait
        std::size_t batch_max = 256;     // changes of one transaction
    };
    WriteBehind(std::unique_ptr<Store> store, Options options);
    /// Writes what waits.
    ~WriteBehind();

    /// False: it is lost.
    bool push(StoreChange change);
    std::uint64_t written() const { return written_; }
    std::uint64_t lost() const { return lost_; }
    /// Whether the last batch was taken.
    bool is_well() const { return is_well_; }

private:
    void write();

    const Options options_;
    std::unique_ptr<Store> store_;  // the thread's alone
    base::BoundedQueue<StoreChange> changes_;
    std::atomic<std::uint64_t> written_{0};
    std::atomic<std::uint64_t> lost_{0};
    std::atomic<bool> is_well_{true};
    std::jthread thread_;
};

}  // namespace caching
