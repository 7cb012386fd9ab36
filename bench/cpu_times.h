#pragma once

#include <time.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <vector>

namespace bench {

/// How long calls took, by the clock on the wall and by the processor's time of this thread, which waiting for a turn
/// on a busy machine does not count.
class CpuTimes {
public:
    template <class Work>
    auto timed(const Work& work) {
        const auto wall = std::chrono::steady_clock::now();
        const double cpu = cpu_us();
        auto result = work();
        add(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - wall).count(), cpu_us() - cpu);
        return result;
    }
    void add(double wall_us, double cpu_us) {
        wall_us_.push_back(wall_us);
        cpu_us_.push_back(cpu_us);
    }
    boost::json::object wall() { return summary(wall_us_); }
    boost::json::object cpu() { return summary(cpu_us_); }
    static double cpu_us() {
        timespec now{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
    }

private:
    static boost::json::object summary(std::vector<double>& us) {
        std::sort(us.begin(), us.end());
        const auto at = [&](double share) {
            return us.empty() ? 0.0 : us[static_cast<std::size_t>(share * static_cast<double>(us.size() - 1))];
        };
        return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}, {"max", us.empty() ? 0.0 : us.back()}};
    }

    std::vector<double> wall_us_;
    std::vector<double> cpu_us_;
};

}  // namespace bench
