#include "cli/model/stop.h"

#include <algorithm>
#include <thread>

namespace cli::model {

bool wait_unless_stopped(std::chrono::milliseconds duration, const StopAsked& stop_asked) {
    const auto end = std::chrono::steady_clock::now() + duration;
    while (true) {
        if (stop_asked()) { return false; }
        const auto left = end - std::chrono::steady_clock::now();
        if (left <= std::chrono::steady_clock::duration::zero()) { return true; }
        std::this_thread::sleep_for(std::min<std::chrono::steady_clock::duration>(left, std::chrono::milliseconds(50)));
    }
}

}  // namespace cli::model
