#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace base {

/// A point on the monotonic time line of this process.
using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

/// Where time comes from. Passed through constructors, so that tests and the simulator own it. Thread-safe.
class Clock {
public:
    virtual ~Clock() = default;
    /// Monotonic; for deadlines and durations.
    virtual TimePoint now() const = 0;
    /// Wall clock, microseconds since the Unix epoch; only for what leaves the process (`created`, deadlines in
    /// messages).
    virtual std::int64_t unix_us() const = 0;
};

/// The machine's clocks.
class SystemClock final : public Clock {
public:
    TimePoint now() const override;
    std::int64_t unix_us() const override;
};

/// Stands still until told to move. Starts at an arbitrary fixed instant.
class FakeClock final : public Clock {
public:
    TimePoint now() const override;
    std::int64_t unix_us() const override;
    void advance(Duration by);

private:
    mutable std::mutex mutex_;
    Duration since_start_{};  // guarded by mutex_
};

}  // namespace base
