#pragma once

#include "base/clock.h"

namespace sim {

/// Stands where the simulation has put it. One thread. Begins at an instant that is not the zero of the time line,
/// which some parts take for "never".
class VirtualClock final : public base::Clock {
public:
    static constexpr base::TimePoint kStart{std::chrono::hours(1)};

    base::TimePoint now() const override { return now_; }
    std::int64_t unix_us() const override {
        return std::chrono::duration_cast<std::chrono::microseconds>(now_.time_since_epoch()).count();
    }
    void set(base::TimePoint now) { now_ = now; }

    static base::TimePoint at(double seconds) {
        return kStart + std::chrono::round<base::Duration>(std::chrono::duration<double>(seconds));
    }
    static double seconds(base::TimePoint at) { return std::chrono::duration<double>(at - kStart).count(); }

private:
    base::TimePoint now_ = kStart;
};

inline base::Duration duration_of(double seconds) {
    return std::chrono::round<base::Duration>(std::chrono::duration<double>(seconds));
}
inline double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace sim
