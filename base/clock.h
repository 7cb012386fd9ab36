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
    /// Wall clock, microseconds since the Unix epoch; only for what people read (`created`).
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

/// What is left until `deadline`, as messages carry it: microseconds, negative when it has passed, never 0 (which means
/// "no deadline" in a message). Wall clocks of two hosts need not agree; the way of the message adds to the time.
std::int64_t time_left_us(TimePoint deadline, TimePoint now);

/// The inverse, on the time line of whoever got the message. Safe with any number: a day is the most either way.
TimePoint deadline_in(std::int64_t left_us, TimePoint now);

}  // namespace base
