#pragma once

#include <cstdint>
#include <string>

#include "sim/cluster.h"
#include "sim/workload.h"

namespace sim {

struct GoodputOptions {
    double ttft_s = 1;        // 0: not asked for
    double tpot_s = 0.1;      // 0: not asked for
    double attainment = 0.9;  // share of requests that have to meet both
    std::uint32_t seeds = 3;
    double precision = 0.03;  // of the rate
    std::uint32_t requests_min = 1000;
    std::uint32_t requests_max = 20'000;
};

struct Goodput {
    double mean = 0;    // requests a second, over the seeds
    double low = 0;     // the worst of them
    double high = 0;    // the best of them
    std::string binds;  // at the first rate that is too high
};

/// The highest rate at which a cluster meets the targets, by bisection for each seed. A run is long enough for its
/// queues to show (sixty seconds, or twenty times the TTFT target, as long as that is within the bounds), and its first
/// and last tenth are not counted. Pure.
Goodput find_goodput(const ClusterShape& shape, const Workload& workload, const GoodputOptions& options);

}  // namespace sim
