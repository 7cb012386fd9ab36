#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <stop_token>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace kv_transfer {

/// Commands for one thread. Thread-safe. What came from the network may be refused when too much waits; what is bounded
/// by other means (one per hand-off, buffer or peer) is always taken.
template <class Command>
class Mailbox {
public:
    explicit Mailbox(std::size_t capacity) : capacity_(capacity) {}

    /// Takes the command unless `capacity` are waiting; true when taken.
    bool offer(Command command) { return put(std::move(command), true); }
    /// Takes the command.
    void push(Command command) { put(std::move(command), false); }

    std::vector<Command> drain() {
        const std::scoped_lock lock(mutex_);
        return std::exchange(commands_, {});
    }

    /// Ends the next `wait` without a command.
    void wake() {
        {
            const std::scoped_lock lock(mutex_);
            woken_ = true;
        }
        ready_.notify_one();
    }

    /// Until there is a command, `wake`, stop or `until`.
    void wait(std::stop_token stop, base::TimePoint until) {
        std::unique_lock lock(mutex_);
        ready_.wait_until(lock, stop, until, [this] { return woken_ || !commands_.empty(); });
        woken_ = false;
    }

private:
    bool put(Command&& command, bool bounded) {
        {
            const std::scoped_lock lock(mutex_);
            if (bounded && commands_.size() >= capacity_) { return false; }
            commands_.push_back(std::move(command));
        }
        ready_.notify_one();
        return true;
    }

    const std::size_t capacity_;
    std::mutex mutex_;
    std::condition_variable_any ready_;
    std::vector<Command> commands_;  // guarded by mutex_
    bool woken_ = false;             // guarded by mutex_
};

}  // namespace kv_transfer
