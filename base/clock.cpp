#include "base/clock.h"

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

}  // namespace base
