#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace base {

/// Processors that this process may use, at least 1.
inline std::size_t processors() {
    return std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

/// Calls work(i) for every i in [0, count), in any order, on up to processors() threads that are started for it: for
/// what takes milliseconds, such as reading a model. Returns when all have returned. `work` must not throw.
template <class Work>
void parallel_for(std::size_t count, const Work& work) {
    std::atomic<std::size_t> next{0};
    const auto take = [&] {
        for (std::size_t i = next++; i < count; i = next++) {
            work(i);
        }
    };
    std::vector<std::jthread> others;
    for (std::size_t i = 1; i < std::min(count, processors()); ++i) {
        others.emplace_back(take);
    }
    take();
}

}  // namespace base
