#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <limits>
#include <mutex>
#include <span>
#include <thread>

namespace device {

/// Touches anonymous memory ahead of its use, on a thread of its own that gives way to others: the system gives pages
/// (and clears them) when they are first written, which else is in the middle of a step. What is in the memory stays as
/// it is, and others may write it meanwhile (the system is asked for pages; nothing is written). Where it cannot do
/// that (Linux before 5.14) or has no memory left, the rest comes when it is used, as without.
class Prefault {
public:
    /// From the begin of `memory` on, up to `ahead` bytes behind what is used; by default all of it. `memory` must
    /// outlive this object.
    explicit Prefault(std::span<std::byte> memory, std::size_t ahead = std::numeric_limits<std::size_t>::max());
    Prefault(const Prefault&) = delete;
    Prefault& operator=(const Prefault&) = delete;

    /// The first `bytes` are in use. One thread at a time; does not wait, and costs next to nothing where it says
    /// nothing new.
    void used(std::size_t bytes);

    /// So many bytes, from the first on.
    std::size_t touched() const { return touched_.load(); }
    /// Waits for the thread, which ends when all is touched; tests.
    void wait() { thread_.join(); }

private:
    std::size_t wanted_for(std::size_t bytes) const;
    void run(const std::stop_token& stop);

    const std::span<std::byte> memory_;
    const std::size_t ahead_;
    std::size_t told_ = 0;  // used()'s own
    std::mutex mutex_;
    std::condition_variable_any more_;
    std::size_t wanted_;  // bytes that are to be touched; guarded by mutex_
    std::atomic<std::size_t> touched_ = 0;
    std::jthread thread_;  // its end is asked for and waited for by the destructor, before all else ends
};

}  // namespace device
