#include "base/clock.h"

#include <algorithm>

namespace base {

TimePoint SystemClock::now() const {
    return std::chrono::steady_clock::now();
}

std::int64_t SystemClock::unix_us() const {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
        .count();
}

namespace {
constexpr std::chrono::hours kFakeStart{1000};
constexpr std::int64_t kFakeUnixStartUs = 1'700'000'000'000'000;
}  // namespace

TimePoint FakeClock::now() const {
    const std::scoped_lock lock(mutex_);
    return TimePoint(kFakeStart) + since_start_;
}

std::int64_t FakeClock::unix_us() const {
    const std::scoped_lock lock(mutex_);
    return kFakeUnixStartUs + std::chrono::duration_cast<std::chrono::microseconds>(since_start_).count();
}

void FakeClock::advance(Duration by) {
    const std::scoped_lock lock(mutex_);
    since_start_ += by;
}

std::int64_t time_left_us(TimePoint deadline, TimePoint now) {
    const std::int64_t left = std::chrono::duration_cast<std::chrono::microseconds>(deadline - now).count();
    return left == 0 ? -1 : left;
}

TimePoint deadline_in(std::int64_t left_us, TimePoint now) {
    constexpr std::int64_t kDayUs = 86'400'000'000;
    return now + std::chrono::microseconds(std::clamp(left_us, -kDayUs, kDayUs));
}

}  // namespace base
