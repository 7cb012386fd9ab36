#include "gateway/request/pool_load.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace gateway {
namespace {

constexpr std::uint64_t kBatchLeast =
    4;  // sequences that a worker can have in work at the least: one that waits is none

struct Pool {
    std::uint64_t waiting = 0;
    std::uint64_t running = 0;
    std::uint64_t workers = 0;
    std::uint64_t blocks_used = 0;
    std::uint64_t blocks = 0;
};

double share(std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::array<Pool, 8> pools_of(const sluice::proto::ModelState& state) {
    std::array<Pool, 8> pools{};
    for (const sluice::proto::WorkerState& worker : state.workers()) {
        const auto role = static_cast<std::size_t>(worker.role());
        if (worker.state() != "ready" || role >= pools.size()) { continue; }
        const sluice::proto::WorkerLoad& load = worker.load();
        Pool& pool = pools[role];
        ++pool.workers;
        pool.waiting += load.requests_waiting();
        pool.running += load.requests_running();
        pool.blocks_used += load.blocks_used();
        pool.blocks += std::uint64_t{load.blocks_used()} + load.blocks_free() + load.blocks_cached();
    }
    return pools;
}

}  // namespace

double pool_load(const sluice::proto::ModelState& state) {
    double most = 0;
    for (const Pool& pool : pools_of(state)) {
        most = std::max({most, share(pool.waiting, std::max(pool.running, kBatchLeast * pool.workers)),
                         share(pool.blocks_used, pool.blocks)});
    }
    return most;
}

WorkersLoad workers_load(const sluice::proto::ModelState& state) {
    WorkersLoad load;
    for (const Pool& pool : pools_of(state)) {
        load.waiting += pool.waiting;
        load.running += pool.running;
        load.kv_usage = std::max(load.kv_usage, share(pool.blocks_used, pool.blocks));
    }
    return load;
}

}  // namespace gateway
