#include "cli/divide_cores.h"

#include <sched.h>

#include <algorithm>
#include <thread>

#include "base/check.h"

namespace cli {

std::uint32_t usable_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        return std::max(1u, static_cast<std::uint32_t>(CPU_COUNT(&set)));
    }
    return std::max(1u, std::thread::hardware_concurrency());
}

std::vector<std::uint32_t> divide_cores(std::uint32_t cores, std::uint32_t workers) {
    CHECK(cores > 0 && workers > 0);
    std::vector<std::uint32_t> threads(workers, std::max(1u, cores / workers));
    if (cores > workers) {
        for (std::uint32_t i = 0; i < cores % workers; ++i) {
            ++threads[i];
        }
    }
    return threads;
}

}  // namespace cli
