#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"

namespace base {

/// Many producers, one consumer, a fixed upper bound. Thread-safe. A full queue refuses; it never blocks a producer.
template <class T>
class BoundedQueue {
public:
    /// `capacity` > 0 elements.
    explicit BoundedQueue(std::size_t capacity) : capacity_(capacity) { CHECK(capacity > 0); }

    /// False when full or closed; `value` is then untouched.
    [[nodiscard]] bool push(T&& value) {
        {
            const std::scoped_lock lock(mutex_);
            if (closed_ || items_.size() >= capacity_) { return false; }
            items_.push_back(std::move(value));
        }
        ready_.notify_one();
        return true;
    }

    /// Takes everything that is there, in order of arrival; empty when there is nothing.
    std::vector<T> drain() {
        std::vector<T> taken;
        const std::scoped_lock lock(mutex_);
        taken.reserve(items_.size());
        for (T& item : items_) {
            taken.push_back(std::move(item));
        }
        items_.clear();
        return taken;
    }

    /// Takes the oldest element, waiting until there is one; empty when stopped, closed and drained, or at `deadline`.
    std::optional<T> pop(std::stop_token stop, std::optional<TimePoint> deadline = std::nullopt) {
        std::unique_lock lock(mutex_);
        const auto is_ready = [this] { return closed_ || !items_.empty(); };
        if (deadline) {
            ready_.wait_until(lock, stop, *deadline, is_ready);
        } else {
            ready_.wait(lock, stop, is_ready);
        }
        if (items_.empty()) { return std::nullopt; }
        std::optional<T> taken(std::move(items_.front()));
        items_.pop_front();
        return taken;
    }

    /// Waits until something is there, `wake()` is called, the queue is closed, stop is requested or `deadline` passes.
    void wait(std::stop_token stop, TimePoint deadline) {
        std::unique_lock lock(mutex_);
        ready_.wait_until(lock, stop, deadline, [this] { return closed_ || woken_ || !items_.empty(); });
        woken_ = false;
    }

    /// Ends one `wait()` without an element.
    void wake() {
        {
            const std::scoped_lock lock(mutex_);
            woken_ = true;
        }
        ready_.notify_one();
    }

    /// Further pushes are refused; what is there can still be taken.
    void close() {
        {
            const std::scoped_lock lock(mutex_);
            closed_ = true;
        }
        ready_.notify_all();
    }

    std::size_t size() const {
        const std::scoped_lock lock(mutex_);
        return items_.size();
    }
    std::size_t capacity() const { return capacity_; }

private:
    const std::size_t capacity_;
    mutable std::mutex mutex_;
    std::condition_variable_any ready_;
    std::deque<T> items_;  // guarded by mutex_
    bool closed_ = false;  // guarded by mutex_
    bool woken_ = false;   // guarded by mutex_
};

}  // namespace base
